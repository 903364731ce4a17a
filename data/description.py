"""A user's own data set described in a small file: YAML, TOML or JSON, all with the same keys.

    format: voc                  # or coco; found out when left out
    root: /data/shapes           # default: the description's own folder; relative paths start there
    classes: [circle, square]    # default: all names in the annotations, sorted
    splits:
      train: train               # voc: ImageSets/Main/train.txt, a list file, or a folder
      val: lists/held_out.txt    # coco: a JSON file, or {annotations: a.json, images: folder}

``annotations`` and ``images`` name other folders than VOC's Annotations and JPEGImages, or the only JSON file and image
folder of a COCO set without splits. ``origin: 0`` says that VOC corners count from 0.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.gate import load_yaml, read_text

SUFFIXES = (".yaml", ".yml", ".toml", ".json")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One split of a COCO set."""

    annotations: str
    images: str | None = None


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a description says; paths as written."""

    format: Literal["voc", "coco"] | None = None
    root: str = "."
    classes: tuple[str, ...] | None = None
    splits: dict[str, str | Part] = {}
    annotations: str | None = None
    images: str | None = None
    origin: Literal[0, 1] = 1
    name: str | None = None


def read_description(path: Path) -> Description:
    """Read a description.

    Raises:
        MissingError: no such file.
        FormatError: neither YAML, TOML nor JSON, an unknown key, or a value of another type; the message names it.
    """
    text = read_text(path, "description", "data set description")
    try:
        content = _parse(path, text)
        return msgspec.convert(content, type=Description)
    except RecursionError:
        raise FormatError("nested too deeply", where=str(path)) from None
    except msgspec.ValidationError as error:
        raise FormatError(
            f"this description cannot be used: {error}",
            where=str(path),
            expected="keys format, root, classes, splits, annotations, images, origin, name",
        ) from None


def _parse(path: Path, text: str) -> Any:
    import yaml  # here, because most commands read no description

    try:
        if path.suffix == ".toml":
            return tomllib.loads(text)
        return json.loads(text) if path.suffix == ".json" else load_yaml(text, path)
    except (ValueError, yaml.YAMLError) as error:
        raise FormatError(
            f"not {'TOML' if path.suffix == '.toml' else path.suffix[1:].upper()}: {error}", where=str(path)
        ) from None
