"""What verbs print: strict JSON, aligned tables, and silence on stderr when it is no terminal."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from ssdconv.commands import output
from ssdconv.converters.tensors import Drop


def test_json_is_strict_whatever_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    class Report:
        def to_json(self) -> dict[str, object]:
            return {"inner": (1, 2)}

    data = {
        "nan": float("nan"),
        "infinities": [float("inf"), -float("inf")],
        "path": Path("a/b"),
        "numpy": [np.float32(0.5), np.int64(7), np.array([1.0, np.nan])],
        "report": Report(),
        "set": {3},
        "mapping": OrderedDict([(1, True), (2, None)]),
        "text": "Größe",
    }
    output.print_json(data)

    def refuse(name: str) -> object:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=refuse) == {
        "nan": "NaN",
        "infinities": ["Infinity", "-Infinity"],
        "path": "a/b",
        "numpy": [0.5, 7, [1.0, "NaN"]],
        "report": {"inner": [1, 2]},
        "set": [3],
        "mapping": {"1": True, "2": None},
        "text": "Größe",
    }


def test_table_columns_are_aligned() -> None:
    text = output.table([("a", 5), ("long", 12345)], ("name", "count"), right=(1,))
    assert text.splitlines() == ["name  count", "a         5", "long  12345"]


@pytest.mark.parametrize("shown", ["working", "counting", "following"])
def test_progress_is_silent_without_a_terminal(shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    if shown == "working":
        with output.working("work"):
            pass
    elif shown == "counting":
        with output.counting("count", 3) as step:
            step()
    else:
        with output.following() as tell:
            assert tell is None
    assert capfd.readouterr() == ("", "")


def test_many_tensors_left_out_for_one_reason_take_one_line() -> None:
    drops = [Drop(f"optimizer/{i}", "training state") for i in range(133)] + [
        Drop("a", "anchors"),
        Drop("b", "anchors"),
    ]
    assert list(output.left_out(drops)) == [
        "left out 133 tensors, optimizer/0 … optimizer/132: training state",
        "left out a: anchors",
        "left out b: anchors",
    ]
