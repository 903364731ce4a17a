"""Detections on disk, in three forms: our own stream, the VOC kit's files, COCO's results.

Our stream, which an interrupted run continues, is JSON lines. The first line is the header ``{"format": "ssdconv-detections", "version": 1, "dataset": ...,
"network": ..., "classes": [...], "written": false}``; then one line per image, ``{"image_id": "000001", "detections":
[[label, score, x1, y1, x2, y2], ...]}``, labels counted in the header's classes, corners in pixels of the original image,
every digit kept. A line is flushed when its image is done; a line cut short by a crash is dropped on resume. Several
processes write a file each (``detections.0.jsonl`` ...); these are read together.

The VOC kit has one text file per class, lines ``image_id score xmin ymin xmax ymax``. The usual name is
``comp4_det_test_<class>.txt``; any name that ends in ``_<class>.txt``, or is ``<class>.txt``, is taken.

COCO's results are a JSON list of ``{image_id, category_id, bbox [x, y, width, height], score}``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from ssdconv.data.records import Dataset, Problems, report
from ssdconv.errors import FormatError, MissingError, OutputError, UsageError
from ssdconv.parity.accuracy.detections import (
    ColumnCountError,
    DetectionSet,
    DuplicateDetectionError,
    EmptyClassFileError,
    UnknownCategoryError,
    check_detections,
    make_detections,
)
from ssdconv.ssd_ref.gate import read_input, reader

FORMAT, VERSION = "ssdconv-detections", 1


def read_detections(source: str | Path, dataset: Dataset, keep_going: Problems | None = None) -> DetectionSet:
    """Read detections in any known form.

    Args:
        source: a folder of per-class VOC files or of ``*.jsonl`` streams; a ``.jsonl`` stream; a COCO results ``.json``.
        dataset: gives the class names and category ids.
        keep_going: collector; bad rows are then left out and counted.

    Raises:
        MissingError: nothing there, or a folder without detections.
        DetectionsError and its subclasses: see the readers.
    """
    path = Path(source)
    if path.is_dir():
        streams = sorted(path.glob("*.jsonl"))
        return (
            read_stream(streams, keep_going)[1] if streams else read_voc_detections(path, dataset.classes, keep_going)
        )
    if not path.exists():
        raise MissingError("no such detection file or folder", where=str(path))
    if path.suffix == ".jsonl":
        return read_stream([path], keep_going)[1]
    if path.suffix == ".json":
        return read_coco_results(path, dataset.classes, dataset.category_ids, keep_going)
    known = "a folder of comp4_det_test_<class>.txt, a COCO results .json, or a .jsonl stream"
    raise UsageError("unknown form of detections", where=str(path), expected=known)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """First line of a stream; a run may only resume a stream with an equal header."""

    format: str = FORMAT
    version: int = VERSION
    dataset: str
    network: str
    classes: tuple[str, ...]
    written: bool = False


class _Line(msgspec.Struct):
    image_id: str
    detections: list[tuple[int, float, float, float, float, float]]


class DetectionsWriter:
    """Appends detections image by image; what is done survives any interruption.

    Use it as a context manager. With ``resume`` an existing stream with an equal header is continued: ``done`` holds the
    images that need not be run again.

    Raises:
        UsageError: the file exists and ``resume`` is off, or it belongs to another run.
        OutputError: the file cannot be written.
    """

    def __init__(
        self, path: str | Path, *, dataset: str, network: str, classes: Sequence[str], resume: bool = True
    ) -> None:
        self.path = Path(path)
        self.header = Header(dataset=dataset, network=network, classes=tuple(classes))
        self.done: set[str] = set()
        whole = 0
        if self.path.exists() and b"\n" in read_input(self.path, "detections", "detection stream"):
            if not resume:
                raise UsageError("the detection file exists", where=str(path), hint="resume it, or name another file")
            header, lines, whole = _decode(self.path)
            if header != self.header:
                raise UsageError(
                    "the detection file belongs to another run",
                    where=str(path),
                    expected=f"{self.header.network} on {self.header.dataset}",
                    got=f"{header.network} on {header.dataset}",
                    hint="name another file, or remove this one",
                )
            self.done = {line.image_id for _, line in lines}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "r+b" if whole else "wb")  # noqa: SIM115 - closed by close()
            self._file.truncate(whole)
            self._file.seek(whole)
        except OSError as error:
            raise OutputError(f"cannot write detections: {error.strerror}", where=str(path)) from None
        if not whole:
            self._write(msgspec.json.encode(self.header))

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"cannot write detections: {error.strerror}",
                where=str(self.path),
                hint="what is written can be resumed",
            ) from None

    def write(self, image_id: str, labels: ArrayLike, scores: ArrayLike, boxes: ArrayLike) -> None:
        """Append one image.

        Args:
            labels: (n,) index into the header's classes.
            scores: (n,).
            boxes: (n, 4) xyxy in pixels of the original image.

        Raises:
            DuplicateDetectionError: the image is written already.
            FormatError: a number is not finite.
        """
        if image_id in self.done:
            raise DuplicateDetectionError("the image is written already", where=str(self.path), got=image_id)
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        values = np.asarray(scores, np.float64).reshape(-1)
        if not (np.isfinite(corners).all() and np.isfinite(values).all()):
            raise FormatError("a score or corner is not finite", where=f"{self.path}: image {image_id}")
        columns = zip(np.asarray(labels, np.int64).reshape(-1).tolist(), values.tolist(), corners.tolist(), strict=True)
        self._write(msgspec.json.encode(_Line(image_id, [(k, s, b[0], b[1], b[2], b[3]) for k, s, b in columns])))
        self.done.add(image_id)

    def close(self) -> None:
        """Flush to the disk and close."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@reader
def _decode(path: Path) -> tuple[Header, list[tuple[int, _Line]], int]:
    """(header, (line number, line) of every complete line, bytes that are complete)."""
    data = read_input(path, "detections", "detection stream")
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].split(b"\n")[:-1]
    if not lines:
        raise FormatError("no header line", where=str(path), expected=f'{{"format": "{FORMAT}", ...}}')
    try:
        header = msgspec.json.decode(lines[0], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not a detection stream: {error}", where=f"{path}: line 1") from None
    if (header.format, header.version) != (FORMAT, VERSION):
        raise FormatError(
            "another format or version",
            where=f"{path}: line 1",
            expected=f"{FORMAT} {VERSION}",
            got=f"{header.format} {header.version}",
        )
    decoder = msgspec.json.Decoder(_Line)
    found = []
    for number, line in enumerate(lines[1:], 2):
        try:
            found.append((number, decoder.decode(line)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ColumnCountError(f"damaged line: {error}", where=f"{path}: line {number}") from None
    return header, found, whole


def read_done(folder: str | Path) -> set[str]:
    """Ids of the images that the streams in a folder hold already, whichever process wrote them.

    Raises:
        FormatError, ColumnCountError: a stream is damaged before its last line.
    """
    streams = [
        path
        for path in sorted(Path(folder).glob("*.jsonl"))
        if b"\n" in read_input(path, "detections", "detection stream")
    ]
    return {line.image_id for path in streams for _, line in _decode(path)[1]}


def read_stream(paths: Sequence[str | Path], keep_going: Problems | None = None) -> tuple[Header, DetectionSet]:
    """Read one stream, or the streams of several processes of one run, as one set.

    Raises:
        MissingError, FormatError, ColumnCountError: with file and line.
        UsageError: the files belong to different runs.
        DuplicateDetectionError: an image stands in them twice.
        NonFiniteError, InvertedBoxError: see ``check_detections``; a network may clip boxes to nothing, so empty and
            equal ones are fine here.
    """
    header: Header | None = None
    seen: dict[str, int] = {}
    rows: list[tuple[float, ...]] = []
    places: list[str] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise MissingError("no such detection file", where=str(path))
        mine, lines, _ = _decode(path)
        if header is not None and mine != header:
            raise UsageError("the detection files belong to different runs", where=str(path), got=mine.network)
        header = mine
        for number, line in lines:
            where = f"{path}: line {number}"
            if line.image_id in seen:
                report(DuplicateDetectionError("an image is written twice", where=where, got=line.image_id), keep_going)
                continue
            image = seen.setdefault(line.image_id, len(seen))
            for label, *numbers in line.detections:
                if not 0 <= label < len(mine.classes):
                    known = f"0..{len(mine.classes) - 1}"
                    raise ColumnCountError("label out of range", where=where, expected=known, got=label)
                rows.append((image, label, *numbers))
                places.append(where)
    if header is None:
        raise UsageError("no detection file was given")
    found = make_detections(header.classes, tuple(seen), np.asarray(rows), written=header.written)
    return header, check_detections(found, lambda row: places[row], keep_going, zero_boxes=True, repeats=True)


def read_voc_detections(folder: str | Path, classes: Sequence[str], keep_going: Problems | None = None) -> DetectionSet:
    """Read a folder of per-class files; rows stay in file order, class after class.

    Raises:
        MissingError, FormatError: see ``class_files``.
        EmptyClassFileError, ColumnCountError: with the file, and the line where there is one.
        NonFiniteError, InvertedBoxError, DuplicateDetectionError: see ``check_detections``; a box with x2 == x1 is one
            pixel wide here and fine.
    """
    base = Path(folder)
    ids: list[str] = []
    labels, values, origins = [], [], []
    files = class_files(base, classes)
    for label, name in enumerate(classes):
        names, numbers, lines = _columns(files[name], keep_going)
        if not names:
            report(
                EmptyClassFileError(
                    "the class has no detection",
                    where=str(files[name]),
                    hint="an interrupted writer leaves empty files; keep_going accepts them",
                ),
                keep_going,
            )
        ids += names
        labels.append(np.full(len(names), label, np.int64))
        values.append(numbers)
        origins += [(label, line) for line in lines]
    table: dict[str, int] = {}
    image = np.asarray([table.setdefault(name, len(table)) for name in ids], np.int64)
    columns = np.concatenate(values)
    found = DetectionSet(
        tuple(classes),
        tuple(table),
        image,
        np.concatenate(labels),
        columns[:, 0].copy(),
        columns[:, 1:].copy(),
        written=True,
    )

    def where(row: int) -> str:
        label, line = origins[row]
        return f"{files[classes[label]]}: line {line}"

    return check_detections(found, where, keep_going, zero_boxes=True)


def class_files(folder: Path, classes: Sequence[str]) -> dict[str, Path]:
    """Class name -> its file.

    Raises:
        MissingError: a class has no file.
        FormatError: a class has several.
    """
    texts = sorted(folder.glob("*.txt"))
    found: dict[str, Path] = {}
    for name in classes:
        mine = [p for p in texts if p.stem == name or p.stem.endswith(f"_{name}")]
        if len(mine) > 1:
            raise FormatError(
                f"several detection files for {name}",
                where=str(folder),
                got=", ".join(p.name for p in mine),
                hint="keep one set of files in the folder",
            )
        if not mine:
            raise MissingError(
                f"no detection file for {name}",
                where=str(folder),
                expected=f"comp4_det_test_{name}.txt or any *_{name}.txt",
                got=f"{len(texts)} .txt files",
            )
        found[name] = mine[0]
    return found


@reader
def _columns(path: Path, keep_going: Problems | None) -> tuple[list[str], np.ndarray, list[int]]:
    """(image ids, (n, 5) numbers, line numbers) of one file."""
    try:
        lines = read_input(path, "detections", "detection file").decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ColumnCountError("not a text file", where=str(path), got=f"byte {error.start}") from None
    ids, values, numbers = [], [], []
    for number, fields in enumerate(map(str.split, lines), 1):
        try:
            row = [float(text) for text in fields[1:]]
        except ValueError:
            row, what = [], "a column is not a number"
        else:
            what = "wrong number of columns"
        if len(row) == 5:
            ids.append(fields[0])
            values.append(row)
            numbers.append(number)
        elif fields:
            report(
                ColumnCountError(
                    what,
                    where=f"{path}: line {number}",
                    expected="6: image_id score xmin ymin xmax ymax",
                    got=f"{len(fields)}: {' '.join(fields)[:80]}",
                ),
                keep_going,
            )
    return ids, np.asarray(values, np.float64).reshape(-1, 5), numbers


class _Result(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


@reader
def read_coco_results(
    file: str | Path, classes: Sequence[str], category_ids: Sequence[int], keep_going: Problems | None = None
) -> DetectionSet:
    """Read a results file; rows stay in file order, and ``xywh`` holds the file's own numbers.

    Raises:
        MissingError: no such file.
        ColumnCountError: not JSON of that form.
        UnknownCategoryError: a category id that the data set has not.
        NonFiniteError, InvertedBoxError, ZeroBoxError, DuplicateDetectionError: see ``check_detections``.
    """
    path = Path(file)
    try:
        results = msgspec.json.decode(read_input(path, "detections", "detection file"), type=list[_Result])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ColumnCountError(
            f"not a COCO results file: {error}",
            where=str(path),
            expected="a list of {image_id, category_id, bbox: [x, y, width, height], score} with finite numbers",
        ) from None
    labels = {c: label for label, c in enumerate(category_ids)}
    rows = np.arange(len(results))
    label = np.asarray([labels.get(r.category_id, -1) for r in results], np.int64)
    for row in np.flatnonzero(label < 0).tolist():
        report(
            UnknownCategoryError(
                "unknown category",
                where=f"{path}: result {row + 1}",
                got=f"category_id {results[row].category_id}",
                hint="COCO's ids run from 1 to 90 with gaps; contiguous labels must be mapped back before writing",
            ),
            keep_going,
        )
    rows = rows[label >= 0]
    table: dict[int, int] = {}
    image = np.asarray([table.setdefault(r.image_id, len(table)) for r in results], np.int64)
    xywh = np.asarray([r.bbox for r in results], np.float64).reshape(-1, 4)
    found = DetectionSet(
        classes=tuple(classes),
        image_ids=tuple(str(i) for i in table),
        image=image[rows],
        labels=label[rows],
        scores=np.asarray([r.score for r in results], np.float64)[rows],
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)[rows],
        xywh=xywh[rows],
        written=True,
    )
    return check_detections(found, lambda row: f"{path}: result {rows[row] + 1}", keep_going)
