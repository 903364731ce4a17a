"""The metrics file: one object a line, continued after a kill."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ssdconv.errors import MissingError
from ssdconv.train.run_folder import MetricsLog


def test_a_resumed_run_writes_on_where_its_state_stands(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 2})
    with open(log.path, "a") as file:
        file.write('{"step": 2, "lo')  # cut short by a kill
    log.rewind(2)
    log.write(3, {"loss": float("nan")})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": "nan"}]


def test_a_new_run_has_nothing_to_rewind(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.rewind(0)
    assert not log.path.exists()


def test_tensorboard_is_asked_for_by_name_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingError, match="pip install tensorboard"):
        MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tb")
