"""VOC-form annotations of a user's own: any folder names, any image suffix, classes found from the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssdconv.data.problems import AnnotationError, EmptySetError, Problems, WrongRootError, report
from ssdconv.data.voc import Entry, VocDataset
from ssdconv.data.voc_xml import object_names
from ssdconv.errors import SsdconvError
from ssdconv.ssd_ref.gate import read_text

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
    if listing is None:
        ids = sorted(p.stem for p in xml_folder.glob("*.xml"))
    else:
        ids = [line.split()[0] for line in read_text(listing, "list", "list of images").splitlines() if line.strip()]
    if not ids:
        raise EmptySetError("the data set has no image", where=str(listing or xml_folder))
    seen: set[str] = set()
    for image_id in ids:
        if image_id in seen:
            raise AnnotationError("an image is listed twice", where=str(listing), got=image_id)
        if "/" in image_id or "\\" in image_id or image_id in {".", ".."}:
            raise AnnotationError("an image id leads out of the folder", where=str(listing), got=image_id)
        seen.add(image_id)
    picture_folder = folder / images if images else folder / "JPEGImages"
    pictures = _pictures(picture_folder if picture_folder.is_dir() else folder)
    entries = tuple(Entry(i, xml_folder / f"{i}.xml", pictures.get(i, picture_folder / f"{i}.jpg")) for i in ids)
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
