"""Detection files of the VOC kit: one text file per class, lines ``image_id score xmin ymin xmax ymax``.

The usual name is ``comp4_det_test_<class>.txt``; any name that ends in ``_<class>.txt``, or is ``<class>.txt``, is
taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssdconv.data.problems import Problems, report
from ssdconv.errors import FormatError, MissingError
from ssdconv.parity.metrics.detections import (
    ColumnCountError,
    Detections,
    EmptyClassFileError,
    check_detections,
)
from ssdconv.ssd_ref.gate import read_input


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


def _columns(path: Path, keep_going: Problems | None) -> tuple[list[str], np.ndarray, list[int]]:
    """(image ids, (n, 5) numbers, line numbers) of one file."""
    try:
        lines = read_input(path, "detections", "detection file").decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ColumnCountError("not a text file", where=str(path), got=f"byte {error.start}") from None
    parts = [line.split() for line in lines]
    rows, numbers = [], []
    for number, fields in enumerate(parts, 1):
        if len(fields) == 6:
            rows.append(fields)
            numbers.append(number)
        elif fields:
            short = ColumnCountError(
                "wrong number of columns",
                where=f"{path}: line {number}",
                expected="6: image_id score xmin ymin xmax ymax",
                got=f"{len(fields)}: {' '.join(fields)[:80]}",
            )
            report(short, keep_going)
    try:
        values = np.asarray([fields[1:] for fields in rows], dtype=np.float64).reshape(-1, 5)
    except ValueError:
        good = []
        for place, fields in enumerate(rows):
            try:
                good.append([float(v) for v in fields[1:]])
            except ValueError:
                where = f"{path}: line {numbers[place]}"
                report(ColumnCountError("a column is not a number", where=where, got=" ".join(fields)[:80]), keep_going)
                numbers[place] = -1
        rows = [fields for fields, number in zip(rows, numbers, strict=True) if number > 0]
        numbers = [number for number in numbers if number > 0]
        values = np.asarray(good, np.float64).reshape(-1, 5)
    return [fields[0] for fields in rows], values, numbers


def read_voc_detections(folder: str | Path, classes: Sequence[str], keep_going: Problems | None = None) -> Detections:
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
    found = Detections(
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


def write_voc_detections(folder: str | Path, detections: Detections, prefix: str = "comp4_det_test_") -> list[Path]:
    """Write per-class files with every digit of the numbers; returns the files."""
    base = Path(folder)
    base.mkdir(parents=True, exist_ok=True)
    files = []
    for label, name in enumerate(detections.classes):
        rows = np.flatnonzero(detections.labels == label)
        path = base / f"{prefix}{name}.txt"
        with open(path, "w", encoding="ascii") as file:
            for row in rows.tolist():
                numbers = " ".join(repr(v) for v in (float(detections.scores[row]), *detections.boxes[row].tolist()))
                file.write(f"{detections.image_ids[detections.image[row]]} {numbers}\n")
        files.append(path)
    return files
