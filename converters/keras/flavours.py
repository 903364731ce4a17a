"""Which layer each dataset of a Keras file belongs to, in all the ways in which Keras has written weights.

==================  ==============================================================================================================
flavour             datasets
==================  ==============================================================================================================
``weights``         ``<layer>/<anything>/kernel:0``: ``save_weights`` of Keras 1 and 2
``model``           the same below ``model_weights/``, the optimizer's below ``optimizer_weights/``: ``model.save("x.h5")``
``v3``              ``layers/<class>_<k>/vars/<i>``, the optimizer's below ``optimizer/``: ``.weights.h5``, and ``.keras`` archives
==================  ==============================================================================================================

A v3 file does not use layer names; they stand in an attribute ``name`` (Keras 3), or in the archive's ``config.json``, whose layers count
up per class. A v3 file with neither (Keras 2.15's ``.weights.h5``) keeps the groups' own names here; ``unnamed`` finds out what it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ssdconv.converters.keras import h5
from ssdconv.errors import FormatError

Flavour = Literal["weights", "model", "v3"]
TRAINING = ("optimizer_weights", "optimizer", "compile_metrics", "metrics", "loss_tracker")
"""Top-level groups that hold the state of the training."""

_VARS = re.compile(r"(?:layers|_layer_checkpoint_dependencies)/(?P<key>[^/]+)/vars/(?P<index>\d{1,4})")
MAX_LAYERS = 20_000


def flavour_of(paths: list[str]) -> Flavour:
    """The flavour of a file with these datasets."""
    if any(_VARS.fullmatch(path) for path in paths):
        return "v3"
    return "model" if any(path.startswith("model_weights/") for path in paths) else "weights"


def is_training(path: str) -> bool:
    """Whether a dataset is the training's and not the network's."""
    return path.split("/")[0] in TRAINING or "/seed_generator/" in path


def layers_of(
    paths: list[str], groups: Mapping[str, Any], config: bytes | None, where: str, heaps: Callable[[], None]
) -> tuple[dict[str, list[str]], bool]:
    """Layer name -> its datasets, in file order (by number for v3); and whether those are names of layers, not of groups.

    Args:
        paths: of all datasets.
        groups: path of each group -> its identifier.
        config: the ``config.json`` of a ``.keras`` archive.
        where: the file's name for messages.
        heaps: see ``h5.text``.

    Raises:
        FormatError: a v3 file that names some of its layers only, or one twice.
    """
    kind = flavour_of(paths)
    found: dict[str, list[str]] = {}
    if kind != "v3":
        start = len("model_weights/") if kind == "model" else 0
        for path in paths:
            if not is_training(path) and (kind == "weights" or path.startswith("model_weights/")):
                found.setdefault(path[start:].split("/")[0], []).append(path)
        return found, True
    names = names_in_config(config, where) if config is not None else {}
    numbered: dict[str, list[tuple[int, str]]] = {}
    unnamed: dict[str, list[tuple[int, str]]] = {}
    for path in paths:
        match = _VARS.fullmatch(path)
        if match is None:
            continue
        parent = path.rsplit("/", 1)[0]
        told = h5.text(groups[parent], "name", f"{where}, /{parent}", heaps)
        name = names.get(match["key"], told)
        if told is not None and told != name:
            raise FormatError(
                "the file tells two names of one layer",
                where=f"{where}, /{parent}",
                got=f"{told!r} and {name!r}",
                hint="save the model again",
            )
        place = unnamed.setdefault(match["key"], []) if name is None else numbered.setdefault(name, [])
        place.append((int(match["index"]), path))
    if unnamed and (numbered or config is not None):
        raise FormatError(
            "the file names some of its layers only",
            where=f"{where}, /layers/{next(iter(unnamed))}",
            hint="save the whole model as .keras, or the weights with save_weights(path, save_format='h5') in Keras 2",
        )
    return {n: [path for _, path in sorted(rows)] for n, rows in (numbered or unnamed).items()}, not unnamed


def names_in_config(config: bytes, where: str) -> dict[str, str]:
    """Group in a v3 file -> layer name, from the layer list of a functional or sequential model.

    Groups are called like the layer's class in snake case; the second of a class gets ``_1``.

    Raises:
        FormatError: not such a list.
    """
    try:
        listed = json.loads(config)["config"]["layers"]
        rows = [(str(layer["class_name"]), str(layer.get("name") or layer["config"]["name"])) for layer in listed]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError("config.json holds no list of layers", where=where) from None
    if len(rows) > MAX_LAYERS:
        raise FormatError("config.json lists too many layers", where=where, got=len(rows))
    counts: dict[str, int] = {}
    names = {}
    for class_name, name in rows:
        key = snake_case(class_name.rsplit(">", 1)[-1])
        number = counts[key] = counts.get(key, -1) + 1
        names[f"{key}_{number}" if number else key] = name
    return names


def snake_case(name: str) -> str:
    """Keras' ``to_snake_case``: BatchNormalization -> batch_normalization, Conv2D -> conv2d."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
