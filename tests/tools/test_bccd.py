"""The blood cells' script from archive to score and picture, cut short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.shared
@pytest.mark.slow
def test_from_the_archive_to_a_score(shared: Path, tmp_path: Path) -> None:
    """One epoch at 300 pixels already finds red cells; the whole training is in docs/bccd.md."""
    weights = shared / "weights/res10_face_ssd"
    given = ["--data", str(shared / "data/bccd_voc.tar.xz"), "--prototxt", str(weights / "deploy.prototxt")]
    given += ["--caffemodel", str(weights / "res10_300x300_ssd_iter_140000.caffemodel"), "--pixels", "300"]
    given += ["--out", str(tmp_path), "--epochs", "1", "--picture", str(tmp_path / "cells.jpg")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/bccd.py"), *given],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout[done.stdout.index("{") :])
    assert said["images"] == 72
    assert set(said["classes"]) == {"Platelets", "RBC", "WBC"}
    assert said["classes"]["RBC"] > 0.1
    assert said["interval"][0] <= said["mAP"] <= said["interval"][1]
    assert cv2.imread(str(tmp_path / "cells.jpg")).shape == (480, 1280, 3)
    assert (tmp_path / "cells.jpg").stat().st_size < 200_000
