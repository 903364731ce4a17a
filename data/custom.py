"""A user's own data set: a description file, or any folder in VOC's or COCO's form, with its own classes.

Folders that are understood, each as a whole or once per split in subfolders (train, val or valid, test):

- VOC: ``Annotations/*.xml`` with ``JPEGImages/`` and, for splits, ``ImageSets/Main/<split>.txt``; or XML files next to images
- COCO: ``annotations/instances_<split>*.json`` with ``<split>*/``; or ``_annotations.coco.json`` next to images
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssdconv.data.check import check_objects
from ssdconv.data.coco import CocoDataset
from ssdconv.data.custom_coco import open_coco_part
from ssdconv.data.custom_voc import open_voc_part
from ssdconv.data.description import SUFFIXES, Description, Part, read_description
from ssdconv.data.problems import Problems, WrongRootError
from ssdconv.data.voc import VocDataset
from ssdconv.errors import MissingError, UsageError

_ALSO = {"val": ("val", "valid", "validation"), "train": ("train", "training"), "test": ("test", "testing")}


def is_path(name: str) -> bool:
    """Whether a data set's name is rather a description file or a folder."""
    return name.lower().endswith(SUFFIXES) or "/" in name or "\\" in name or Path(name).is_dir()


def open_custom(
    path: str | Path, split: str | None = None, keep_going: Problems | None = None
) -> VocDataset | CocoDataset:
    """Open a user's data set; every annotation is read and checked at once.

    Args:
        path: a description (see ``description``) or a folder.
        split: "train", "val", …; needed only where there are several and none is "train". A set without splits serves for all.
        keep_going: collector: problems are recorded and the objects concerned left out, instead of stopping at the first.

    Raises:
        MissingError, WrongRootError: nothing usable there, or no such split.
        FormatError: the description or an annotation is damaged.
        EmptySetError: no image, no class, or no object.
        UnknownClassError, InvertedObjectError, OutsideImageError: each names file and object.
    """
    said, _, parts, folders = _found(Path(path))
    label = said.name or (Path(path).name if Path(path).is_dir() else Path(path).stem)
    if parts:
        key = _choose(parts, split, str(path))
        annotations, images = parts[key]
        name = f"{label}-{key}" if key else label
        return check_objects(open_coco_part(annotations, images, name, said.classes, keep_going), keep_going)
    key = _choose(folders, split, str(path))
    dataset = open_voc_part(
        folders[key].folder,
        folders[key].listing,
        name=f"{label}-{key}" if key else label,
        classes=said.classes,
        class_folders=[p.folder for p in folders.values()],
        annotations=said.annotations,
        images=said.images,
        origin=said.origin,
        keep_going=keep_going,
    )
    return check_objects(dataset, keep_going)


def split_names(path: str | Path) -> tuple[str, ...]:
    """Names of a user's data set's parts as ``open_custom`` takes them; ("",) for a set without parts. Errors as there."""
    _, _, parts, folders = _found(Path(path))
    return tuple(parts or folders)


def _found(place: Path) -> tuple[Description, Path, Mapping[str, tuple[Path, Path | None]], dict[str, _VocPart]]:
    """What is said about a data set, its root, and its parts: of a COCO set, else of a VOC set."""
    if place.is_dir():
        said, base = Description(), place
    else:
        said = read_description(place)
        base = (place.parent / said.root).resolve() if not Path(said.root).is_absolute() else Path(said.root)
    if not base.is_dir():
        raise WrongRootError("no such folder", where=str(base))
    parts = _coco_parts(said, base) if said.format != "voc" else {}
    if not parts and said.format == "coco":
        raise WrongRootError("no COCO-form JSON here", where=str(base), hint="name it: annotations: FILE.json")
    return said, base, parts, {} if parts else _voc_parts(said, base)


def _choose(parts: Mapping[str, object], split: str | None, where: str) -> str:
    """The key of the split that is meant; "" is a set without splits."""
    if "" in parts and len(parts) == 1:
        return ""
    for name in _ALSO.get(split or "train", (split or "train",)):
        found = [k for k in parts if k == name] or [k for k in parts if k.startswith(name)]
        if len(found) == 1:
            return found[0]
    if split is None and len(parts) == 1:
        return next(iter(parts))
    raise MissingError(
        "no such part of the data set" if split else "which part of the data set?",
        where=where,
        expected=f"one of {', '.join(sorted(parts))}",
        got=split,
    )


def _coco_parts(said: Description, base: Path) -> Mapping[str, tuple[Path, Path | None]]:
    """Split -> annotation file and image folder, as described or as found."""
    if said.splits and (said.format == "coco" or all(_is_json(part) for part in said.splits.values())):
        described = {}
        for key, part in said.splits.items():
            text, images = (
                (part.annotations, part.images or said.images) if isinstance(part, Part) else (part, said.images)
            )
            described[key] = base / text, base / images if images else _images_of(base / text, base)
        return described
    if said.annotations and (base / said.annotations).is_file():
        return {"": (base / said.annotations, base / said.images if said.images else base)}
    if said.splits:
        return {}
    found = {}
    for file in sorted((*base.glob("annotations/instances_*.json"), *base.glob("instances_*.json"))):
        found[file.stem.removeprefix("instances_")] = file, _images_of(file, base)
    for file in sorted((*base.glob("_annotations.coco.json"), *base.glob("*/_annotations.coco.json"))):
        found["" if file.parent == base else file.parent.name] = file, file.parent
    return found


def _is_json(part: str | Part) -> bool:
    return isinstance(part, Part) or part.lower().endswith(".json")


def _images_of(file: Path, base: Path) -> Path:
    """The image folder that goes with an annotation file: named like its split, else ``images/``, else the set's root."""
    key = file.stem.removeprefix("instances_")
    candidates = (base / key, base / "images" / key, base / "images", file.parent / key)
    return next((c for c in candidates if c.is_dir()), base)


@dataclass(frozen=True)
class _VocPart:
    folder: Path
    listing: Path | None


def _voc_parts(said: Description, base: Path) -> dict[str, _VocPart]:
    if said.splits:
        return {key: _described(base, key, part) for key, part in said.splits.items()}
    if (base / (said.annotations or "Annotations")).is_dir():
        lists = sorted((base / "ImageSets" / "Main").glob("*.txt"))
        named = [p for p in lists if "_" not in p.stem]  # VOC also has one list per class: dog_train.txt
        return {p.stem: _VocPart(base, p) for p in named} or {"": _VocPart(base, None)}
    if any(base.glob("*.xml")):
        return {"": _VocPart(base, None)}
    inside = [
        p for p in sorted(base.iterdir()) if p.is_dir() and (any(p.glob("*.xml")) or (p / "Annotations").is_dir())
    ]
    if inside:
        return {p.name: _VocPart(p, None) for p in inside}
    raise WrongRootError(
        "neither a VOC nor a COCO data set",
        where=str(base),
        expected="Annotations/*.xml with JPEGImages/, XML files next to images, or annotations/instances_*.json",
        got=", ".join(sorted(p.name for p in base.iterdir())[:8]) or "an empty folder",
        hint="or describe it in a .yaml file: format, root, annotations, images, classes, splits",
    )


def _described(base: Path, key: str, part: str | Part) -> _VocPart:
    if isinstance(part, Part):
        raise UsageError(
            "a VOC split is a list or a folder", where=f"splits: {key}", expected="a text, such as train", got=part
        )
    for candidate in (base / part, base / "ImageSets" / "Main" / f"{part}.txt", base / f"{part}.txt"):
        if candidate.is_dir():
            return _VocPart(candidate, None)
        if candidate.is_file():
            return _VocPart(base, candidate)
    raise MissingError(
        "no such image list", where=str(base), expected=f"{part}, ImageSets/Main/{part}.txt or a folder", got=key
    )
