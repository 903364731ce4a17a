"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssdconv.data.catalog import open_dataset
from ssdconv.data.records import WrongRootError
from ssdconv.errors import UsageError


@pytest.mark.parametrize(
    ("name", "first"),
    [("voc07", "000001"), ("voc07-trainval", "000005"), ("voc12", "2008_000009"), ("voc12-trainval", "2008_000001"),
     ("voc0712", "000005")],
)  # fmt: skip
def test_voc_names(devkit: Path, name: str, first: str) -> None:
    dataset = open_dataset(name, devkit)
    assert dataset.name == name and dataset.image_ids[0] == first


def test_coco_names(coco_root: Path) -> None:
    assert len(open_dataset("coco-val2017", coco_root)) == 2
    folder = coco_root / "annotations"
    for split in ("minival2014", "minival"):
        (folder / f"instances_{split}.json").write_bytes((folder / "instances_val2017.json").read_bytes())
        assert open_dataset("coco-minival", coco_root).image_ids == ("139", "285")
        (folder / f"instances_{split}.json").unlink()
    with pytest.raises(WrongRootError, match="minival2014"):
        open_dataset("coco-minival", coco_root)


def test_any_json(coco_root: Path) -> None:
    file = coco_root / "annotations" / "instances_val2017.json"
    assert open_dataset("mine", annotations=file).name == "mine"


def test_unknown_name_suggests(devkit: Path) -> None:
    with pytest.raises(UsageError, match="did you mean voc07"):
        open_dataset("voc2007", devkit)
    with pytest.raises(UsageError, match="needs a data root"):
        open_dataset("voc07")
    with pytest.raises(WrongRootError, match="no such folder"):
        open_dataset("voc07", devkit / "none")
