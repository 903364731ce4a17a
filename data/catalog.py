"""The data set names of the command line and how each is opened."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from ssdconv.data.coco import open_coco
from ssdconv.data.custom import is_path, open_custom
from ssdconv.data.records import Dataset, Problems, WrongRootError
from ssdconv.data.voc import open_voc
from ssdconv.errors import MissingError, UsageError

_VOC = {
    "voc07": (("2007", "test"),),
    "voc07-trainval": (("2007", "trainval"),),
    "voc12": (("2012", "val"),),
    "voc12-trainval": (("2012", "trainval"),),
    "voc0712": (("2007", "trainval"), ("2012", "trainval")),
}
_COCO = {
    "coco-val2017": ("val2017",),
    "coco-minival": ("minival2014", "minival"),
    "coco-train2017": ("train2017",),
}
DATASETS = (*_VOC, *_COCO)
"""voc07 = VOC2007 test, voc12 = VOC2012 val (the test annotations are not public), voc0712 = both trainval sets,
coco-minival = the 5,000 images of val2014 that later became val2017, with their 2014 file names."""


def open_dataset(
    name: str | None,
    root: str | Path | None = None,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    split: str | None = None,
    keep_going: Problems | None = None,
) -> Dataset:
    """Open a data set by its name, or any COCO-form JSON by ``annotations`` (then ``name`` is only its label), or a user's own
    by the path of a description (.yaml, .toml, .json) or of a folder in VOC's or COCO's form (see ``custom``).

    Args:
        name: of ``DATASETS``, or a path.
        root: folder of a named data set.
        annotations, images: a COCO-form JSON and its image folder.
        split: part of a user's own data set ("train", "val"); default "train" where there are several.
        keep_going: collector, see ``Problems``.

    Raises:
        UsageError: unknown name, or no root given.
        WrongRootError, MissingError, AnnotationError: see ``open_voc`` and ``open_coco``.
    """
    if annotations is not None:
        return open_coco(annotations=annotations, images=images, name=name, keep_going=keep_going)
    if name is not None and name not in DATASETS and is_path(name):
        return open_custom(name, split, keep_going)
    if name is None or name not in DATASETS:
        near = get_close_matches(name or "", DATASETS, 2)
        raise UsageError(
            f"unknown data set {name!r}",
            expected=f"one of {', '.join(DATASETS)}",
            hint=f"did you mean {' or '.join(near)}?"
            if near
            else "your own data: a .yaml description, a VOC or COCO folder, or --annotations FILE.json",
        )
    if root is None:
        raise UsageError(f"{name} needs a data root", hint="--data-root VOCdevkit, or the folder with annotations/")
    if not Path(root).is_dir():
        raise WrongRootError("no such folder", where=str(root))
    if name in _VOC:
        return open_voc(root, _VOC[name], name=name, keep_going=keep_going)
    failures: list[MissingError] = []
    for part in _COCO[name]:
        try:
            return open_coco(root, part, images=images, name=name, keep_going=keep_going)
        except WrongRootError as error:
            failures.append(error)
    raise failures[0]
