"""Training beside the source frameworks: each side for two updates, and the arithmetic of what is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from pytest import approx

from ssdconv.data.custom import open_custom
from ssdconv.parity.oracles.environments import state
from ssdconv.tools import bccd_sources

SCRIPT = Path(__file__).parents[2] / "tools/bccd_sources.py"


@pytest.fixture(scope="module")
def cells(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    with tarfile.open(shared / "data/bccd_voc.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return next(p.parent for p in folder.rglob("JPEGImages"))


@pytest.mark.oracle
@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gluon", "chainer"])
def test_two_updates_of_each_side(name: str, cells: Path, tmp_path: Path) -> None:
    """Both sides start alike: a first loss of an untrained network is near that of the other, term by term."""
    if not state(name).installed:
        pytest.skip(state(name).reason)
    given = [
        "--data",
        str(cells),
        "--with",
        name,
        "--out",
        str(tmp_path),
        "--epochs",
        "1",
        "--every",
        "1",
        "--seeds",
        "1",
    ]
    given += ["--images", "4", "--batch-size", "2", "--shrink", "2", "--windows", "2"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *given],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said == json.loads((tmp_path / "curves.json").read_text())
    assert (said["images"], said["held_out"], said["seeds"]) == (4, 4, 1)
    for side in (name, "ours"):
        ((epoch,),) = said["curves"][side]
        assert len(epoch["losses"]) == 2
        assert {"mAP", "Platelets", "RBC", "WBC"} <= set(epoch)
    for term in range(2):
        theirs, own = (said["curves"][side][0][0]["losses"][0][term] for side in (name, "ours"))
        assert 1 / 4 < theirs / own < 4
    page = (tmp_path / "curves.html").read_text()
    assert page.count("<svg") == len(said["summary"]) == 4
    for picture in page.split("<svg")[1:]:
        ET.fromstring("<svg" + picture.partition("</svg>")[0] + "</svg>")


@pytest.mark.shared
def test_the_set_that_both_sides_read(cells: Path, tmp_path: Path) -> None:
    """Sides are halved with their boxes; the two images with a box without area are gone."""
    root = bccd_sources.prepared(cells, tmp_path, 2, None)
    before, after = (open_custom(folder, "train") for folder in (cells, root))
    assert (len(before), len(after), len(open_custom(root, "val"))) == (205, 204, 86)
    big = {r.image_id: r for r in before}
    for small in after:
        assert (small.width, small.height) == (320, 240)
        assert abs(small.boxes * 2 - big[small.image_id].boxes).max() <= 2


def test_spreads_over_the_seeds() -> None:
    """Intervals as tables of t give them, by hand: t(2) 4.303, t(4) 2.776."""
    one = bccd_sources.spread([1.0, 2.0, 3.0])
    assert (one["mean"], one["high"] - one["mean"]) == (2.0, approx(4.303 / 3**0.5))
    two = bccd_sources.difference([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])
    assert (two["mean"], two["mean"] - two["low"]) == (2.0, approx(2.776 * (2 / 3) ** 0.5))
    assert bccd_sources.spread([5.0]) == {"mean": 5.0, "low": None, "high": None}


def test_curves_of_different_length_are_cut_to_the_same_updates() -> None:
    """Four updates of five, in two windows; loss is loc + conf."""
    theirs = [{"epoch": 1, "seconds": 1.0, "mAP": 0.25, "losses": [[1, 10], [3, 10], [5, 20], [7, 20], [99, 99]]}]
    own = [{"epoch": 1, "seconds": 1.0, "mAP": 0.5, "losses": [[0, 4], [0, 4], [0, 8], [0, 8]]}]
    found = bccd_sources.summarised({"gluon": [theirs], "ours": [own]}, 2)
    assert list(found["loss"]) == ["2", "4"]
    assert [row["gluon"]["mean"] for row in found["loss"].values()] == [12.0, 26.0]
    assert [row["difference"]["mean"] for row in found["conf"].values()] == [-6.0, -12.0]
    assert found["mAP"]["1"]["difference"]["mean"] == 0.25
    assert bccd_sources.table("mAP", found["mAP"]).splitlines()[-1] == "| 1 | 0.2500 | 0.5000 | 0.2500 |"
