"""A run that is killed again and again ends with the very weights of a run that is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("kill_worker.py")
SEED = 2
"""Of deaths in steps, at openings and at renames; the same on every machine."""


def _run(data: Path, folder: Path, seed: int, kills: int, moments: int = 40) -> dict[str, Any]:
    command = [sys.executable, str(WORKER), str(data), str(folder), str(seed), str(kills), str(moments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_kills_do_not_change_the_weights(shapes_root: Path, tmp_path: Path) -> None:
    alone = _run(shapes_root, tmp_path / "alone", 0, 0)
    killed = _run(shapes_root, tmp_path / "killed", SEED, 8)
    assert len(killed["deaths"]) == 8
    assert len(set(killed["states"])) >= 3
    assert {death.split()[0] for death in killed["deaths"]} >= {"step", "open", "rename"}
    assert killed["weights"] == alone["weights"]
    assert killed["log"] == alone["log"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_kills(seed: int, shapes_root: Path, tmp_path: Path) -> None:
    alone = _run(shapes_root, tmp_path / "alone", 0, 0)
    killed = _run(shapes_root, tmp_path / "killed", seed, 40, 20)
    assert len(killed["deaths"]) >= 8
    assert (killed["weights"], killed["log"]) == (alone["weights"], alone["log"])
