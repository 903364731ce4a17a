"""Who says what about a Caffe network: the net in the file or prototxt, its notices of what it does not tell, and its label map's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import (
    PIXELS_ASSUMED,
    PIXELS_RESIZE,
    PRIORS_UNTOLD,
    RULE_ASSUMED,
    Basis,
    Claim,
    Link,
    code_of,
)
from ssdconv.ssd_ref.networks.caffe import NETWORKS

LINK_OF: dict[str, tuple[Link, Basis]] = {
    PIXELS_ASSUMED: ("pixels", "assumed"),
    PIXELS_RESIZE: ("pixels", "assumed"),
    PRIORS_UNTOLD: ("priors", "assumed"),
    RULE_ASSUMED: ("detection rule", "assumed"),
}
"""Code of a notice -> the link that it is about."""
SETS = {"voc": ("VOC", 21), "coco": ("COCO", 81)}
"""Word in the name of a label map, data source or net -> data set, and its count of classes with background."""


def claims(
    net: CaffeNet, own: CaffeNet, told_by: str, config: SSDConfig, notices: Sequence[str], rebuilt: Sequence[Link] = ()
) -> tuple[Claim, ...]:
    """The claims of a network that was read from a net.

    Args:
        net: the net that was read.
        own: the weight file's own.
        told_by: who that is ("deploy.prototxt", "the file's own net").
        config: what came of it.
        notices: the plan's warnings.
        rebuilt: links that were taken from a network known by name, since the net ends before them.
    """
    found: list[Claim] = []
    for notice in notices:
        if code_of(notice) in LINK_OF:
            link, basis = LINK_OF[code_of(notice)]
            found.append(Claim(link, "rebuilt" if link in rebuilt else basis, notice))
    unsure = {claim.link for claim in found}
    stated: dict[Link, tuple[str, bool]] = {
        "architecture": ("its layers", True),
        "pixels": ("its transform_param, on pixels as OpenCV reads them", _tells_pixels(net)),
        "priors": ("its PriorBox layers", _has(net, "PriorBox")),
        "detection rule": ("its DetectionOutput layer", _has(net, "DetectionOutput")),
    }
    found += [
        Claim(link, "stated", f"{told_by if here else 'the weight file, whose own net was asked'}: {text}")
        for link, (text, here) in stated.items()
        if link not in unsure and link not in rebuilt
    ]
    found += [
        Claim(link, "rebuilt", f"the network {config.name}, known by its layers")
        for link in rebuilt
        if link not in unsure
    ]
    named = next((text for text in _texts((net, own)) if _names_set(text, config.num_classes)), None)
    if named and config.class_names:
        found.append(
            Claim("classes", "stated", f"{_names_set(named, config.num_classes)}'s names: the net names {named!r}")
        )
    return tuple(found)


def _has(net: CaffeNet, kind: str) -> bool:
    return any(layer.type == kind for layer in net.layers)


def _tells_pixels(net: CaffeNet) -> bool:
    told = (layer.params.get("transform_param", {}) for layer in net.layers)
    return any(key in param for param in told for key in ("mean_value", "mean_file", "scale"))


def _names_set(text: str, count: int) -> str | None:
    """The data set that a text names, where the class count is its."""
    words = [(title, size) for word, (title, size) in SETS.items() if re.search(word, text, re.IGNORECASE)]
    return words[0][0] if len(words) == 1 and words[0][1] == count else None


def _texts(nets: Iterable[CaffeNet]) -> Iterator[str]:
    """What can name a data set: label maps first, then the sources of data, then the net's own name."""
    nets = tuple(nets)
    for net in nets:
        for layer in net.layers:
            output = layer.params.get("detection_output_param", {}).get("save_output_param", {})
            yield from (str(output[key]) for key in ("label_map_file", "name_size_file") if output.get(key))
            for param, key in (("annotated_data_param", "label_map_file"), ("data_param", "source")):
                if layer.params.get(param, {}).get(key):
                    yield str(layer.params[param][key])
    # A net that was written here is called like the network that its priors and layers fit: that names no data set.
    yield from (net.name for net in nets if net.name and net.name not in NETWORKS)
