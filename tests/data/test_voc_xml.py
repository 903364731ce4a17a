"""One annotation file: every way it can be wrong has its own error, and nothing is ever expanded."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssdconv.data.records import (
    AnnotationError,
    InvertedObjectError,
    NoObjectsError,
    Problems,
    Record,
    UnknownClassError,
)
from ssdconv.data.voc import read_annotation
from ssdconv.errors import SsdconvError, UnsafeFileError

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax><ymax>4</ymax></bndbox>"
LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


def page(objects: str, size: str = "<width>9</width><height>8</height>", head: str = "") -> str:
    return f"{head}<annotation><size>{size}</size>{objects}</annotation>"


def read(tmp_path: Path, text: str | bytes, keep_going: Problems | None = None) -> Record:
    file = tmp_path / "a.xml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_annotation(file, "a", None, {"dog": 0}, keep_going)


def test_plain(tmp_path: Path) -> None:
    record = read(tmp_path, page(f"<object><name> dog </name>{BOX}</object>"))
    assert record.boxes.tolist() == [[1.0, 2.0, 3.5, 4.0]] and record.difficult.tolist() == [False]
    assert record.path is None and len(record) == 1


def test_only_objects_of_the_image_itself_count(tmp_path: Path) -> None:
    inner = f"<object><name>cat</name>{BOX}</object>"
    assert len(read(tmp_path, page(f"<object><name>dog</name>{BOX}{inner}</object><source>{inner}</source>"))) == 1


def test_utf16_and_comments_are_xml_too(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="utf-16"?>' + page(
        f"<!-- x --><object><name>d<!-- y -->og</name>{BOX}</object>"
    )
    assert len(read(tmp_path, text.encode("utf-16"))) == 1


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (page("<object><name>&b;</name></object>", head=LAUGHS), UnsafeFileError, "document type"),
        (page("", head='<!DOCTYPE a SYSTEM "file:///etc/passwd">'), UnsafeFileError, "document type"),
        ("", AnnotationError, "not well-formed"),
        ("<annotation><size>", AnnotationError, "not well-formed"),
        (page(""), NoObjectsError, "no object"),
        (page(f"<object><name>cat</name>{BOX}</object>"), UnknownClassError, "'cat'"),
        (page(f"<object>{BOX}</object>"), UnknownClassError, "object 1"),
        (page("<object><name>dog</name></object>"), AnnotationError, "<xmin> is missing"),
        (
            page(f"<object><name>dog</name>{BOX.replace('2', 'two')}</object>"),
            AnnotationError,
            "<ymin> is not a number",
        ),
        (page(f"<object><name>dog</name>{BOX.replace('3.5', 'nan')}</object>"), InvertedObjectError, "not finite"),
        (page(f"<object><name>dog</name>{BOX.replace('3.5', '0')}</object>"), InvertedObjectError, "inverted"),
        (page(f"<object><name>dog</name>{BOX.replace('4', '1')}</object>"), InvertedObjectError, "inverted"),
        (
            page(f"<object><name>dog</name>{BOX}</object>", size="<width>9</width>"),
            AnnotationError,
            "<height> is missing",
        ),
        (page("", size="<width>0</width><height>3</height>"), AnnotationError, "not positive"),
    ],
)
def test_each_fault_has_its_error(tmp_path: Path, text: str, kind: type[SsdconvError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        read(tmp_path, text)
    assert "a.xml" in str(caught.value)


def test_keep_going_leaves_only_the_bad_object_out(tmp_path: Path) -> None:
    problems = Problems()
    bad = f"<object><name>cat</name>{BOX}</object>"
    good = f"<object><name>dog</name><difficult>1</difficult>{BOX}</object>"
    record = read(tmp_path, page(bad + good), problems)
    assert record.difficult.tolist() == [True] and record.object_ids.tolist() == [1]
    assert problems.counts == {"UnknownClassError": 1}


def test_keep_going_never_reads_unsafe_files(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError):
        read(tmp_path, page("", head=LAUGHS), Problems())
