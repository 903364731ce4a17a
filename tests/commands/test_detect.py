"""``ssdconv detect``: the same boxes as the Python API, pictures where they were asked for, errors before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ssdconv
from ssdconv import cli

pytestmark = pytest.mark.shared


def test_json_is_what_the_api_gives(converted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["detect", str(converted.picture), "--weights", str(converted.checkpoint), "--json"]
    assert cli.main([*arguments, "--threshold", "0.02"]) == 0
    image = json.loads(capsys.readouterr().out)["images"][0]
    found = ssdconv.load(converted.checkpoint).detect([converted.picture], threshold=0.02)[0]
    assert len(found) > 0
    assert [row["score"] for row in image["detections"]] == pytest.approx(found.scores.tolist())
    np.testing.assert_allclose([row["box"] for row in image["detections"]], found.boxes.numpy(), rtol=1e-6)
    assert (image["width"], image["height"]) == (500, 375)
    assert image["drawn"] is None


def test_text_and_pictures(converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "drawn"
    arguments = ["detect", str(converted.picture), "--weights", str(converted.checkpoint), "--out", str(out)]
    assert cli.main([*arguments, "--threshold", "0.02"]) == 0
    text = capsys.readouterr().out
    drawn = cv2.imread(str(out / "picture.png"))
    plain = cv2.imread(str(converted.picture))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any(), "no box was drawn"
    found = ssdconv.load(converted.checkpoint).detect([converted.picture], threshold=0.02)[0]
    assert f"{len(found)} detection" in text.splitlines()[0]
    assert len(text.splitlines()) == 1 + len(found)
    assert f"{found.scores[0]:.4f}" in text.splitlines()[1]


def test_the_threshold_is_the_users(converted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for threshold in ("0.02", "1"):
        arguments = ["detect", str(converted.picture), "--weights", str(converted.checkpoint), "--json"]
        assert cli.main([*arguments, "--threshold", threshold]) == 0
        counts.append(len(json.loads(capsys.readouterr().out)["images"][0]["detections"]))
    assert counts[0] > 0
    assert counts[1] == 0


def test_pictures_of_equal_names_do_not_overwrite_each_other(
    converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        images.append(str(shutil.copy(converted.picture, tmp_path / folder / "same.png")))
    out = tmp_path / "out"
    assert cli.main(["detect", *images, "--weights", str(converted.checkpoint), "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["one_same.png.png", "two_same.png.png"]
    assert cli.main(["detect", images[0], images[0], "--weights", "w", "--out", str(out)]) == 2
    assert "same file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"image": "lost.jpg"}, 4, "lost.jpg"),
        ({"weights": "lost.pth"}, 4, "lost.pth"),
        ({"image": "text.jpg"}, 3, "text.jpg"),
        ({"weights": "text.jpg"}, 3, "text.jpg"),
        ({"device": "cuda:99"}, 4, "cuda:99"),
        ({"device": "abacus"}, 2, "abacus"),
        ({"out": "text.jpg"}, 3, "text.jpg"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named(
    change: dict[str, str], code: int, named: str, converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("no picture and no weights either" * 10)
    given = {"image": str(converted.picture), "weights": str(converted.checkpoint), "device": "cpu", "out": "o"}
    for key, value in change.items():
        given[key] = value if key == "device" else str(tmp_path / value)
    arguments = ["detect", given["image"], "--weights", given["weights"], "--device", given["device"]]
    if "out" in change:
        arguments += ["--out", given["out"]]
    assert cli.main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
