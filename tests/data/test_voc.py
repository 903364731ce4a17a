"""VOC folders as people have them: roots, splits, lazy reading, subsets, and what keep-going does.

One annotation file: every way it can be wrong has its own error, and nothing is ever expanded.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssdconv.data.records import (
    AnnotationError,
    InvertedObjectError,
    NoObjectsError,
    Problems,
    Record,
    UnknownClassError,
    WrongRootError,
)
from ssdconv.data.voc import VOC_CLASSES, open_voc, read_annotation
from ssdconv.errors import MissingError, SsdconvError, UnsafeFileError, UsageError


@pytest.mark.parametrize("below", ["", "VOC2007", ".."])
def test_any_of_three_roots(devkit: Path, below: str) -> None:
    dataset = open_voc(devkit / below)
    assert dataset.image_ids == ("000001", "000002")
    assert dataset.origin == 1 and dataset.complete and dataset.category_ids == tuple(range(1, 21))


def test_record(devkit: Path) -> None:
    record = open_voc(devkit)[0]
    assert (record.image_id, record.width, record.height) == ("000001", 353, 500)
    assert record.boxes.tolist() == [[48.0, 240.0, 195.0, 371.0], [8.0, 12.0, 352.0, 498.0]]
    assert [VOC_CLASSES[k] for k in record.labels] == ["dog", "person"]
    assert record.difficult.tolist() == [False, True] and not record.crowd.any()
    assert record.area.tolist() == [148.0 * 132.0, 345.0 * 487.0]
    assert record.path == devkit / "VOC2007" / "JPEGImages" / "000001.jpg"


def test_union_of_years(devkit: Path) -> None:
    assert open_voc(devkit, (("2007", "trainval"), ("2012", "trainval"))).image_ids == ("000005", "2008_000001")


def test_records_are_read_when_asked_for(devkit: Path) -> None:
    dataset = open_voc(devkit)
    (devkit / "VOC2007" / "Annotations" / "000002.xml").unlink()
    assert len(dataset[0]) == 2  # the missing one does not matter yet
    with pytest.raises(MissingError, match=r"000002\.xml"):
        dataset[1]


def test_take(devkit: Path) -> None:
    dataset = open_voc(devkit)
    part = dataset.take(["000002"])
    assert part.image_ids == ("000002",) and not part.complete
    assert dataset.take(["000002", "000001"]).complete
    with pytest.raises(UsageError, match="'9'"):
        dataset.take(["9"])


def test_wrong_root_names_it_and_what_is_there(devkit: Path) -> None:
    for root, there in (
        (devkit.parent / "none", "no such folder"),
        (devkit / "VOC2012" / "JPEGImages", r"2008_000001\.jpg"),
    ):
        with pytest.raises(WrongRootError, match=f"no VOC2007 here.*ImageSets/Main.*{there}") as caught:
            open_voc(root)
        assert caught.value.exit_code == 4


def test_missing_split_lists_those_there(devkit: Path) -> None:
    with pytest.raises(MissingError, match=r"nosuch\.txt.*test, trainval"):
        open_voc(devkit, (("2007", "nosuch"),))


@pytest.mark.parametrize(
    ("listing", "message"),
    [("", "empty"), ("000001\n000001\n", "listed twice"), ("../../etc/passwd\n", "leads out of the folder")],
)
def test_bad_listings(devkit: Path, listing: str, message: str) -> None:
    (devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text(listing)
    with pytest.raises(AnnotationError, match=message):
        open_voc(devkit)


def test_keep_going_counts_lists_and_goes_on(devkit: Path) -> None:
    folder = devkit / "VOC2007" / "Annotations"
    (folder / "000001.xml").write_text("<annotation><size><width>5</width><height>5</height></size></annotation>")
    (folder / "000002.xml").write_text("<annotation>")
    with pytest.raises(NoObjectsError):
        list(open_voc(devkit))
    problems = Problems()
    dataset = open_voc(devkit, keep_going=problems)
    assert [(r.image_id, len(r)) for r in dataset] == [("000001", 0)]
    assert [r.image_id for r in dataset] == ["000001"], "a second pass reports nothing again"
    assert problems.counts == {"NoObjectsError": 1, "AnnotationError": 1}
    assert "000002.xml" in problems.lines()[-1]


def test_no_torch() -> None:
    code = "import sys, ssdconv.data; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.shared
def test_all_of_voc2007_test(voc07_root: Path) -> None:
    dataset = open_voc(voc07_root)
    start = time.process_time()
    records = list(dataset)
    seconds = time.process_time() - start
    assert len(records) == 4952
    assert sum(map(len, records)) == 14976 and sum(int(r.difficult.sum()) for r in records) == 2944
    assert seconds < 2.0


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
