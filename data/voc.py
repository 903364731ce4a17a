"""PASCAL VOC as people have it: VOCdevkit with VOC2007 and VOC2012, or any folder laid out like one of its years.

A year's folder has ``ImageSets/Main/<split>.txt`` (one id a line), ``Annotations/<id>.xml`` and, unless only
annotations are there, ``JPEGImages/<id>.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ssdconv.data.problems import AnnotationError, Problems, WrongRootError, report
from ssdconv.data.records import Record
from ssdconv.data.voc_xml import read_annotation
from ssdconv.errors import MissingError, SsdconvError, UsageError
from ssdconv.ssd_ref.gate import read_text

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An image of the set: its id, annotation and picture."""

    image_id: str
    xml: Path
    image: Path


@dataclass
class VocDataset:
    """A VOC image set; see ``records.Dataset`` for the meaning of the fields."""

    name: str
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    origin: int = 1
    complete: bool = True
    problems: Problems | None = None
    _cache: dict[str, Record | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._labels = {name: label for label, name in enumerate(self.classes)}

    @property
    def category_ids(self) -> tuple[int, ...]:
        """1..n in class order, as the label maps of Caffe number them."""
        return tuple(range(1, len(self.classes) + 1))

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids in the order of the image set file."""
        return tuple(e.image_id for e in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        entry = self.entries[index]
        if entry.image_id not in self._cache:
            self._cache[entry.image_id] = read_annotation(
                entry.xml, entry.image_id, entry.image, self._labels, self.problems
            )
        record = self._cache[entry.image_id]
        if record is None:
            raise AnnotationError("this annotation was unreadable and left out", where=str(entry.xml))
        return record

    def __iter__(self) -> Iterator[Record]:
        """All records; with a collector, images whose annotation cannot be read are left out."""
        for index, entry in enumerate(self.entries):
            if entry.image_id in self._cache and self._cache[entry.image_id] is None:
                continue
            try:
                record = self[index]
            except SsdconvError as error:
                report(error, self.problems)
                self._cache[entry.image_id] = None
                continue
            yield record

    def take(self, image_ids: Sequence[str]) -> VocDataset:
        """Only these images, in this order; a proper subset is no longer ``complete``."""
        entries = {e.image_id: e for e in self.entries}
        strangers = [i for i in image_ids if i not in entries]
        if strangers:
            raise UsageError(f"image {strangers[0]!r} is not in the data set", where=self.name)
        whole = self.complete and len(set(image_ids)) == len(entries)
        return replace(self, entries=tuple(entries[i] for i in image_ids), complete=whole)


def _year_folder(root: Path, year: str) -> Path:
    """``root`` may be VOCdevkit, the folder above it, or the year's folder itself."""
    candidates = (root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}", root)
    for folder in candidates:
        if (folder / "Annotations").is_dir() and (folder / "ImageSets" / "Main").is_dir():
            return folder
    raise WrongRootError(
        f"no VOC{year} here",
        where=str(root),
        expected=f"a folder with VOC{year}/Annotations and VOC{year}/ImageSets/Main",
        got=", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder"
        if root.is_dir()
        else "no such folder",
        hint="give the VOCdevkit folder; http://host.robots.ox.ac.uk/pascal/VOC has the archives",
    )


def open_voc(
    root: str | Path,
    sets: Sequence[tuple[str, str]] = (("2007", "test"),),
    *,
    name: str | None = None,
    classes: Sequence[str] = VOC_CLASSES,
    origin: int = 1,
    keep_going: Problems | None = None,
) -> VocDataset:
    """Index a VOC data set; annotations are read when a record is asked for.

    Args:
        root: VOCdevkit, the folder above it, or one year's folder.
        sets: (year, split) pairs, joined in this order.
        name: for reports; default "VOC2007-test" and the like.
        classes: class names in label order.
        origin: 1 for corners as VOC writes them, 0 for a look-alike set that counts from 0.
        keep_going: collector, see ``Problems``.

    Raises:
        WrongRootError: the root is not what it should be.
        MissingError: no such split.
        AnnotationError: the split's file is empty or names an image twice.
    """
    entries: list[Entry] = []
    for year, split in sets:
        folder = _year_folder(Path(root), year)
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not listing.is_file():
            have = sorted(p.stem for p in listing.parent.glob("*.txt") if "_" not in p.stem)
            raise MissingError(
                "no such image set", where=str(listing), expected=f"one of {', '.join(have) or 'none here'}", got=split
            )
        ids = [line.split()[0] for line in read_text(listing, "list", "list of images").splitlines() if line.strip()]
        if not ids:
            raise AnnotationError("the image set is empty", where=str(listing))
        entries += [Entry(i, folder / "Annotations" / f"{i}.xml", folder / "JPEGImages" / f"{i}.jpg") for i in ids]
    seen: set[str] = set()
    for entry in entries:
        if entry.image_id in seen:
            raise AnnotationError("an image is listed twice", where=str(root), got=entry.image_id)
        if "/" in entry.image_id or "\\" in entry.image_id or entry.image_id in {".", ".."}:
            raise AnnotationError("an image id leads out of the folder", where=str(root), got=entry.image_id)
        seen.add(entry.image_id)
    label = name or "+".join(f"VOC{year}-{split}" for year, split in sets)
    return VocDataset(label, tuple(classes), tuple(entries), origin=origin, problems=keep_going)
