"""VOC folders as people have them: roots, splits, lazy reading, subsets, and what keep-going does."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssdconv.data.records import AnnotationError, NoObjectsError, Problems, WrongRootError
from ssdconv.data.voc import VOC_CLASSES, open_voc
from ssdconv.errors import MissingError, UsageError


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
