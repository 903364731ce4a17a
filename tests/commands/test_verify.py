"""``ssdconv verify``: exit code and JSON follow the verdict; arguments reach the check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ssdconv import cli
from ssdconv.ssd_ref import checkpoint

pytestmark = pytest.mark.shared


def command(converted: Any, weights: Path) -> list[str]:
    return ["verify", str(weights), "--source", str(converted.source), "--prototxt", str(converted.prototxt)]


def test_a_right_conversion_passes(converted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*command(converted, converted.checkpoint), "--image", str(converted.picture), "--json"]
    assert cli.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["first_divergent"] is None
    assert any("picture.png" in fed["name"] for fed in report["inputs"])


def test_a_wrong_one_fails_and_names_the_layer(
    converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = checkpoint.read(converted.checkpoint)
    state = {name: tensor.clone() for name, tensor in held.state_dict.items()}
    name = next(n for n, t in state.items() if "layer_256_1_conv1" in n and t.dim() == 4)
    state[name] *= torch.tensor(1.01)
    wrong = checkpoint.save(tmp_path / "wrong.pth", held.config, state, held.provenance)
    assert cli.main([*command(converted, wrong), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert report["first_divergent"] == "layer_256_1_conv1"
    assert cli.main(command(converted, wrong)) == 1
    assert "layer_256_1_conv1" in capsys.readouterr().out


def test_the_seed_changes_the_input(converted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    worst = []
    for seed in ("0", "7"):
        assert cli.main([*command(converted, converted.checkpoint), "--seed", seed, "--json"]) == 0
        worst.append(json.loads(capsys.readouterr().out)["worst_ratio"])
    assert worst[0] != worst[1]


@pytest.mark.parametrize("lost", ["weights", "source", "prototxt", "image"])
def test_a_missing_file_is_named(lost: str, converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "weights": converted.checkpoint,
        "source": converted.source,
        "prototxt": converted.prototxt,
        "image": converted.picture,
        lost: tmp_path / "lost",
    }
    arguments = ["verify", str(files["weights"])]
    for option in ("source", "prototxt", "image"):
        arguments += [f"--{option}", str(files[option])]
    assert cli.main(arguments) == 4
    assert str(tmp_path / "lost") in capsys.readouterr().err
