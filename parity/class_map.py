"""From a network's conf channels to a data set's classes, by name."""

from __future__ import annotations

from collections.abc import Sequence

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig

ALIASES = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "tv": "tvmonitor",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
}
"""COCO's words for VOC's classes; with them a COCO network can be looked at on VOC."""


def class_map(config: SSDConfig, classes: Sequence[str]) -> tuple[int, ...]:
    """For each conf channel the data set's label, or -1 where the data set has no such class.

    Raises:
        UsageError: no channel has a class of the data set, or the network does not name its channels and their count
            does not fit either.
    """
    background = config.detect.background
    if not config.class_names:
        channels = [c for c in range(config.num_classes) if c != background]
        if len(channels) != len(classes):
            raise UsageError(
                "the network does not name its classes, and their count is not the data set's",
                where=config.name,
                expected=len(classes),
                got=len(channels),
            )
        places = {channel: label for label, channel in enumerate(channels)}
        return tuple(places.get(channel, -1) for channel in range(config.num_classes))
    labels = {name: label for label, name in enumerate(classes)}
    labels |= {alias: labels[name] for alias, name in ALIASES.items() if name in labels and alias not in labels}
    found = tuple(
        -1 if channel == background else labels.get(name, -1) for channel, name in enumerate(config.class_names)
    )
    if all(label < 0 for label in found):
        raise UsageError(
            "the network knows none of the data set's classes",
            where=config.name,
            expected=", ".join(classes[:5]),
            got=", ".join(n for c, n in enumerate(config.class_names) if c != background)[:80],
        )
    return found
