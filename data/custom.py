"""A user's own data set: a description file, or any folder in VOC's or COCO's form, with its own classes.

Folders that are understood, each as a whole or once per split in subfolders (train, val or valid, test):

- VOC: ``Annotations/*.xml`` with ``JPEGImages/`` and, for splits, ``ImageSets/Main/<split>.txt``; or XML files next to images
- COCO: ``annotations/instances_<split>*.json`` with ``<split>*/``; or ``_annotations.coco.json`` next to images

A description is YAML, TOML or JSON, all with the same keys:

    format: voc                  # or coco; found out when left out
    root: /data/shapes           # default: the description's own folder; relative paths start there
    classes: [circle, square]    # default: all names in the annotations, sorted
    splits:
      train: train               # voc: ImageSets/Main/train.txt, a list file, or a folder
      val: lists/held_out.txt    # coco: a JSON file, or {annotations: a.json, images: folder}

``annotations`` and ``images`` name other folders than VOC's Annotations and JPEGImages, or the only JSON file and image
folder of a COCO set without splits. ``origin: 0`` says that VOC corners count from 0.

Every object is looked at when the set is opened, before hours of training: boxes inside their images, something to train on.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from ssdconv.data.coco import CocoDataset, open_coco
from ssdconv.data.records import (
    AnnotationError,
    EmptySetError,
    NoObjectsError,
    OutsideImageError,
    Problems,
    Record,
    UnknownClassError,
    WrongRootError,
    report,
)
from ssdconv.data.voc import VocDataset, VocImage, check_ids, listed_ids, object_names
from ssdconv.errors import FormatError, MissingError, SsdconvError, UsageError
from ssdconv.ssd_ref.gate import load_yaml, read_text, reader

SUFFIXES = (".yaml", ".yml", ".toml", ".json")


class CocoPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One split of a COCO set."""

    annotations: str
    images: str | None = None


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a description says; paths as written."""

    format: Literal["voc", "coco"] | None = None
    root: str = "."
    classes: tuple[str, ...] | None = None
    splits: dict[str, str | CocoPart] = {}
    annotations: str | None = None
    images: str | None = None
    origin: Literal[0, 1] = 1
    name: str | None = None


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


_ALSO = {"val": ("val", "valid", "validation"), "train": ("train", "training"), "test": ("test", "testing")}


def _coco_parts(said: Description, base: Path) -> Mapping[str, tuple[Path, Path | None]]:
    """Split -> annotation file and image folder, as described or as found."""
    if said.splits and (said.format == "coco" or all(_is_json(part) for part in said.splits.values())):
        described = {}
        for key, part in said.splits.items():
            text, images = (
                (part.annotations, part.images or said.images) if isinstance(part, CocoPart) else (part, said.images)
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


def _is_json(part: str | CocoPart) -> bool:
    return isinstance(part, CocoPart) or part.lower().endswith(".json")


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


def _described(base: Path, key: str, part: str | CocoPart) -> _VocPart:
    if isinstance(part, CocoPart):
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


@reader
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


def open_coco_part(
    annotations: Path, images: Path | None, name: str, classes: Sequence[str] | None, keep_going: Problems | None
) -> CocoDataset:
    """Open one split.

    Args:
        annotations: the JSON file.
        images: folder of its images.
        name: for reports.
        classes: category names in label order; None for all of the file's, in ascending order of id. Categories that are not
            among them may stand in the file unused.
        keep_going: collector.

    Raises:
        MissingError, AnnotationError: see ``open_coco``.
        EmptySetError: no category.
        UnknownClassError: an object of a category that is not among ``classes``, or a class that no category has.
    """
    dataset = open_coco(annotations=annotations, images=images, name=name, keep_going=keep_going)
    if classes is None:
        if not dataset.categories:
            raise EmptySetError("the file names no category", where=str(annotations))
        return dataset
    by_name = {c.name: c for c in dataset.categories}
    if len(by_name) != len(dataset.categories) or len(set(classes)) != len(classes):
        raise AnnotationError("two categories have one name", where=str(annotations))
    absent = [c for c in classes if c not in by_name]
    if absent:
        raise UnknownClassError(
            "no category of the file has this class's name",
            where=str(annotations),
            expected=f"one of {', '.join(by_name)}",
            got=", ".join(absent),
        )
    chosen = tuple(by_name[c] for c in classes)
    known = {c.id for c in chosen}
    names = {c.id: c.name for c in dataset.categories}
    for image_id, listed in list(dataset.objects.items()):
        for o in listed:
            if o.category_id not in known:
                report(
                    UnknownClassError(
                        "unknown class",
                        where=f"{annotations}: annotation {o.id}",
                        expected=f"one of {', '.join(classes)}",
                        got=repr(names[o.category_id]),
                    ),
                    keep_going,
                )
        dataset.objects[image_id] = [o for o in listed if o.category_id in known]
    return replace(dataset, categories=chosen)


_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def open_voc_part(
    folder: Path,
    listing: Path | None,
    *,
    name: str,
    classes: Sequence[str] | None = None,
    class_folders: Sequence[Path] = (),
    annotations: str | None = None,
    images: str | None = None,
    origin: int = 1,
    keep_going: Problems | None = None,
) -> VocDataset:
    """Index one split.

    Args:
        folder: holds ``Annotations/`` and ``JPEGImages/``, or XML files and images together.
        listing: text file with one id a line; None for every XML file.
        name: for reports.
        classes: in label order; None for all names in the annotations of ``class_folders``, sorted.
        class_folders: folders of all splits, so that every split has the same classes.
        annotations, images: other names of the two folders.
        origin: coordinate of the first pixel in the files.
        keep_going: collector.

    Raises:
        WrongRootError: no annotations there.
        EmptySetError: no image or no class.
        AnnotationError: damaged files, an id listed twice or leading out of the folder.
    """
    xml_folder = _xml_folder(folder, annotations)
    ids = sorted(p.stem for p in xml_folder.glob("*.xml")) if listing is None else listed_ids(listing)
    if not ids:
        raise EmptySetError("the data set has no image", where=str(listing or xml_folder))
    check_ids(ids, str(listing))
    picture_folder = folder / images if images else folder / "JPEGImages"
    pictures = _pictures(picture_folder if picture_folder.is_dir() else folder)
    entries = tuple(VocImage(i, xml_folder / f"{i}.xml", pictures.get(i, picture_folder / f"{i}.jpg")) for i in ids)
    found = tuple(classes) if classes is not None else _classes([_xml_folder(f, annotations) for f in class_folders])
    _usable(found, str(folder))
    return VocDataset(name, found, entries, origin=origin, problems=keep_going)


def _xml_folder(folder: Path, annotations: str | None) -> Path:
    usual = folder / (annotations or "Annotations")
    if usual.is_dir():
        return usual
    if annotations is None and any(folder.glob("*.xml")):
        return folder
    raise WrongRootError("no annotation folder", where=str(usual), expected="a folder with XML files")


def _pictures(folder: Path) -> dict[str, Path]:
    """Image files by stem."""
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in _SUFFIXES}


def _classes(folders: Sequence[Path]) -> tuple[str, ...]:
    """Every object name in the XML files, sorted; damaged files are reported when they are read as records."""
    names: set[str] = set()
    for folder in dict.fromkeys(folders):
        for xml in sorted(folder.glob("*.xml")):
            try:
                names.update(object_names(xml))
            except SsdconvError:
                continue
    return tuple(sorted(names - {""}))


def _usable(classes: Sequence[str], where: str) -> None:
    if not classes:
        raise EmptySetError("no annotation names a class", where=where)
    double = {c for c in classes if list(classes).count(c) > 1}
    if double:
        report(AnnotationError("a class is named twice", where=where, got=", ".join(sorted(double))), None)


Set = TypeVar("Set", VocDataset, CocoDataset)


MARGIN = 1.0
"""Pixels that a box may pass its image's edge by: annotation tools round, and count from 0 or from 1."""


def check_objects(dataset: Set, keep_going: Problems | None = None) -> Set:
    """The same data set with every annotation read and checked; images without objects are fine.

    With a collector, unreadable annotations are recorded and their images left out, and objects outside their image are
    recorded and left out. Without one, all is read before the first problem is raised.

    Raises:
        OutsideImageError: names file, object, box and image size.
        EmptySetError: no image or not one object.
        AnnotationError and its subclasses: what the readers raise.
    """
    own, found = Problems(), Problems()
    if isinstance(dataset, VocDataset):
        dataset.problems = own
    records: dict[str, Record] = {}
    for index, image_id in enumerate(dataset.image_ids):
        before = len(own)
        try:
            record = dataset[index]
        except SsdconvError as error:
            found.add(error)
            continue
        for problem in own.errors[before:]:
            if not isinstance(problem, NoObjectsError):  # an image of nothing but background is worth training on
                found.add(problem)
        inside = _inside(record, dataset, found)
        records[image_id] = record if inside.all() else _only(record, inside)
    found.hand_over(keep_going)
    if isinstance(dataset, VocDataset):
        dataset = replace(dataset, entries=tuple(e for e in dataset.entries if e.image_id in records))
        dataset._cache.update(records)
        dataset.problems = keep_going
    else:
        for image_id, record in records.items():
            kept = set(record.object_ids.tolist())
            if int(image_id) in dataset.objects:
                dataset.objects[int(image_id)] = [o for o in dataset.objects[int(image_id)] if o.id in kept]
    if not records:
        raise EmptySetError("the data set has no usable image", where=dataset.name)
    if not any(len(r) for r in records.values()):
        raise EmptySetError("no image of the data set has an object", where=dataset.name)
    return dataset


def _inside(record: Record, dataset: VocDataset | CocoDataset, found: Problems) -> npt.NDArray[np.bool_]:
    """(n,) which boxes are within the image, or pass it by no more than the margin, and touch it."""
    boxes = record.boxes
    size = np.asarray([record.width, record.height], np.float64)
    low, high = dataset.origin - MARGIN, size + dataset.origin + MARGIN
    fine = (boxes[:, :2] >= low).all(1) & (boxes[:, 2:] <= high).all(1)
    fine &= (boxes[:, :2] < size + dataset.origin).all(1) & (boxes[:, 2:] >= dataset.origin).all(1)
    for place in np.flatnonzero(~fine).tolist():
        number = record.object_ids[place]
        if isinstance(dataset, VocDataset):
            file = next(e.xml for e in dataset.entries if e.image_id == record.image_id)
            where = f"{file}: object {number + 1}"
        else:
            where = f"{dataset.file}: annotation {number}"
        found.add(
            OutsideImageError(
                f"the box of this {dataset.classes[record.labels[place]]} is outside its image",
                where=where,
                expected=f"within {record.width}x{record.height}",
                got=tuple(boxes[place].tolist()),
                hint="correct the annotation, or the image size in it",
            )
        )
    return np.asarray(fine)


def _only(record: Record, keep: npt.NDArray[np.bool_]) -> Record:
    return replace(
        record,
        boxes=record.boxes[keep],
        labels=record.labels[keep],
        difficult=record.difficult[keep],
        crowd=record.crowd[keep],
        area=record.area[keep],
        object_ids=record.object_ids[keep],
    )
