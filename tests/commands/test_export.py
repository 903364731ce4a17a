"""``ssdconv export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ssdconv
from ssdconv import cli
from ssdconv.errors import EXIT_MISSING, EXIT_OK, EXIT_PARITY, EXIT_USAGE
from ssdconv.export import onnx_file as onnx_heads
from ssdconv.parity import onnx_check

pytestmark = pytest.mark.shared


def test_onnx_is_checked_and_told(converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    target = tmp_path / "y.onnx"
    code = cli.main(
        ["export", str(converted.checkpoint), "--onnx", str(target), "--with-nms", "--image", str(converted.picture)]
    )
    said = capsys.readouterr()
    assert code == EXIT_OK and "x the rounding floor" in said.out and "the same" in said.out and said.err == ""
    assert [o.name for o in onnx.load(target).graph.output] == ["detections"]


def test_json(converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    target = tmp_path / "y.onnx"
    assert (
        cli.main(
            ["export", str(converted.checkpoint), "--onnx", str(target), "--batch", "1", "--opset", "19", "--json"]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)["onnx"]
    assert (
        told["check"]["passed"]
        and told["opset"] == 19
        and told["outputs"] == ["loc", "conf"]
        and not told["not_checked"]
    )


def test_a_model_that_fails_is_not_written(
    converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    real = onnx_check.check_onnx

    def against_another(proto: Any, model: Any, images: Any) -> Any:
        next(p for n, p in model.named_parameters() if n.endswith("weight")).data.mul_(1.01)
        return real(proto, model, images)

    monkeypatch.setattr(onnx_check, "check_onnx", against_another)
    target = tmp_path / "y.onnx"
    assert cli.main(["export", str(converted.checkpoint), "--onnx", str(target)]) == EXIT_PARITY
    assert "nothing was written" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_unchecked_is_said(
    converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setattr(onnx_check, "find_spec", lambda _: None)
    assert cli.main(["export", str(converted.checkpoint), "--onnx", str(tmp_path / "y.onnx"), "--json"]) == EXIT_OK
    told = json.loads(capsys.readouterr().out)["onnx"]
    assert told["check"] is None and "onnxruntime is not installed" in told["not_checked"]


def test_hub_folder_with_parity(converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify = [
        "verify",
        str(converted.checkpoint),
        "--source",
        str(converted.source),
        "--prototxt",
        str(converted.prototxt),
    ]
    assert cli.main([*verify, "--json"]) == EXIT_OK
    (tmp_path / "parity.json").write_text(capsys.readouterr().out)
    folder = tmp_path / "hub"
    arguments = ["export", str(converted.checkpoint), "--hub", str(folder), "--parity", str(tmp_path / "parity.json")]
    assert cli.main([*arguments, "--license", "bsd-3-clause", "--dataset", "faces"]) == EXIT_OK
    card = (folder / "README.md").read_text()
    assert (
        '"bsd-3-clause"' in card
        and '- "faces"' in card
        and "pixels, who says so | stated in the file" in card
        and "Both sides agree: same " in card
        and "| probes | 212 |" in card
    )
    assert cli.main(arguments) == EXIT_USAGE and "--overwrite" in capsys.readouterr().err
    assert cli.main(["detect", str(converted.picture), "--weights", str(folder)]) == EXIT_OK
    model, back = ssdconv.load(converted.checkpoint), ssdconv.load(folder)
    for (name, mine), (other, theirs) in zip(model.state_dict().items(), back.state_dict().items(), strict=True):
        assert name == other and mine.numpy().tobytes() == theirs.numpy().tobytes()


def test_a_report_of_other_weights_is_refused(
    converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {
        "network": "n", "source": "caffe", "weights": "w", "weights_sha256": "0" * 64, "source_file": "f",
        "source_sha256": "0" * 64, "oracle": "o", "inputs": [],
    }  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps(report))
    arguments = [
        "export",
        str(converted.checkpoint),
        "--hub",
        str(tmp_path / "hub"),
        "--parity",
        str(tmp_path / "p.json"),
    ]
    assert cli.main(arguments) == EXIT_USAGE
    assert "other weights" in capsys.readouterr().err and not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--hub", "x", "--with-nms"],
        ["--onnx", "y.onnx", "--parity", "p"],
        ["--onnx", "y.onnx", "--batch", "0"],
        ["--onnx", "y.pb"],
    ],
)
def test_usage(arguments: list[str], converted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(converted.checkpoint), *arguments]) == EXIT_USAGE
    assert list(tmp_path.iterdir()) == []


def test_without_onnx(
    converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_heads, "find_spec", lambda _: None)
    assert cli.main(["export", str(converted.checkpoint), "--onnx", str(tmp_path / "y.onnx")]) == EXIT_MISSING
    assert "pip install 'ssdconv[onnx]'" in capsys.readouterr().err
