"""``ssdconv train`` and ``ssdconv compare`` from the command line, on generated shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from ssdconv.cli import main
from ssdconv.errors import EXIT_INPUT, EXIT_MISSING, EXIT_OK, EXIT_USAGE
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.tools.shapes import SHAPES, write_shapes


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two data sets, a network's config, and a run of two epochs."""
    folder = tmp_path_factory.mktemp("train")
    write_shapes(folder / "data", {"train": 24, "val": 8}, size=(80, 64))
    write_shapes(folder / "two", {"train": 16, "val": 4}, size=(80, 64), only=("circle", "cross"))
    (folder / "small.json").write_text(small_ssd(SHAPES, 64, 4).to_json())
    assert main([*_basic(folder), "--out", str(folder / "run")]) == EXIT_OK
    return folder


def _basic(folder: Path) -> list[str]:
    data = ["--config", str(folder / "small.json"), "--dataset", str(folder / "data/VOC2007"), "--workers", "1"]
    return [
        "train",
        *data,
        "--recipe",
        "gluon",
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--lr",
        "0.002",
        "--eval-every",
        "1",
    ]


def _json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_run_leaves_a_folder_that_tells_what_it_was(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = work / "run"
    about = json.loads((run / "run.json").read_text())
    assert about["options"]["recipe"] == "gluon"
    assert about["data"]["images"] == 24
    assert json.loads((run / "recipe.json").read_text())["batch_size"] == 8
    assert json.loads((run / "config.json").read_text())["name"] == "small_ssd"
    assert read(run / "last.pth").provenance["training"]["step"] == 6
    picture = str(work / "data/VOC2007/JPEGImages/000001.jpg")
    code, found = _json(capsys, "detect", picture, "--weights", str(run / "last.pth"), "--threshold", "0.01")
    assert code == EXIT_OK
    assert {d["name"] for d in found["images"][0]["detections"]} <= set(SHAPES)
    assert main(["inspect", str(run / "best.pth")]) == EXIT_OK
    assert "recipe gluon on VOC2007-train" in capsys.readouterr().out


def test_resume_takes_everything_from_the_folder(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(work / "run")
    code, outcome = _json(capsys, "train", "--resume", "--out", run)
    assert (code, outcome["steps"], outcome["loss"]) == (EXIT_OK, 6, None)
    assert main([*_basic(work), "--out", run, "--resume"]) == EXIT_OK  # the same command line again is no change
    assert main([*_basic(work), "--out", run]) == EXIT_USAGE
    assert "--resume" in capsys.readouterr().err
    for change, said in (
        (["--lr", "0.5"], "recipe.optimizer.lr: 0.002 in the run, 0.5 now"),
        (["--seed", "4"], "seed: 0 in the run, 4 now"),
        (["--network", "ssd300_voc"], "config.name"),
        (["--dataset", str(work / "two/VOC2007")], "data.images: 24 in the run, 16 now"),
        (["--augment", "fast"], "augment"),
    ):
        assert main(["train", "--resume", "--out", run, *change]) == EXIT_USAGE
        assert said in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(work / "none")]) == EXIT_MISSING


def test_fine_tuning_renews_the_class_outputs(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--dataset",
        str(work / "two/VOC2007"),
        "--iterations",
        "1",
        "--batch-size",
        "4",
        "--lr",
        "1e-9",
        "--workers",
        "0",
    ]
    tuned = ["train", "--finetune", str(work / "run/last.pth"), *argv, "--out", str(tmp_path / "ft"), "--no-eval"]
    code, outcome = _json(capsys, *tuned)
    assert code == EXIT_OK
    start = outcome["start"]
    assert start["source"] == "last.pth"
    assert len(start["renewed"]) == 8
    before, after = read(work / "run/last.pth"), read(tmp_path / "ft/last.pth")
    assert after.config.class_names == ("background", "circle", "cross")
    for name in start["kept"]:
        if "running" not in name:
            assert torch.allclose(before.state_dict[name], after.state_dict[name], atol=1e-6), name
    assert not (tmp_path / "ft/best.pth").exists()


def test_backbone_weights_come_from_a_checkpoint(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(work / "run/last.pth")
    argv = [*_basic(work)[:-8], "--iterations", "1", "--batch-size", "4", "--lr", "1e-9", "--no-eval"]
    code, outcome = _json(capsys, *argv, "--backbone-weights", weights, "--out", str(tmp_path / "bb"))
    assert code == EXIT_OK
    assert all(name.startswith("backbone.") for name in outcome["start"]["kept"])
    assert len(outcome["start"]["kept"]) == 42
    picture = str(work / "data/VOC2007/JPEGImages/000001.jpg")
    assert main([*argv, "--backbone-weights", picture, "--out", str(tmp_path / "cc")]) == EXIT_INPUT


def test_preview_and_recipes(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _json(capsys, *_basic(work), "--preview", str(tmp_path / "sheet.png"))
    assert code == EXIT_OK
    assert said["samples"] == 24
    assert min(cv2.imread(str(tmp_path / "sheet.png")).shape[:2]) > 200
    code, recipes = _json(capsys, "train", "--list-recipes")
    assert {"caffe", "gluon", "chainer", "ssd.pytorch", "tensorflow"} <= {r["name"] for r in recipes}
    assert main(["train", "--list-recipes"]) == EXIT_OK
    assert "80000/100000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--network", "ssd300_voc"], EXIT_USAGE, "where to?"),
        (["--network", "ssd300_voc", "--out", "{tmp}"], EXIT_USAGE, "train on what?"),
        (["--dataset", "{data}", "--out", "{tmp}"], EXIT_USAGE, "which network?"),
        (["--network", "ssd300_voc", "--config", "{config}", "--dataset", "{data}", "--out", "{tmp}"], EXIT_USAGE, "contradict"),
        (["--config", "{config}", "--dataset", "{data}", "--out", "{tmp}", "--recipe", "cafe"], EXIT_USAGE, "caffe"),
        (["--config", "{config}", "--dataset", "{data}", "--eval-split", "x", "--out", "{tmp}"], EXIT_MISSING, "--no-eval"),
        (["--config", "{config}", "--dataset", "{data}", "--eval-split", "train", "--out", "{tmp}"], EXIT_USAGE, "held-out"),
        (["--config", "{config}", "--dataset", "{data}", "--keep", "0", "--out", "{tmp}"], EXIT_USAGE, "--keep"),
        (["--config", "{config}", "--dataset", "{data}", "--batch-size", "99", "--out", "{tmp}"], EXIT_USAGE, "smaller than one batch"),
        (["--config", "{config}", "--dataset", "{data}", "--device", "gpu", "--out", "{tmp}"], EXIT_USAGE, "not a device"),
    ],
)  # fmt: skip
def test_what_cannot_be(
    argv: list[str], code: int, said: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"tmp": tmp_path / "out", "data": work / "data/VOC2007", "config": work / "small.json"}
    assert main(["train", *(word.format(**places) for word in argv)]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out/last.pth").exists()


def test_compare_two_checkpoints(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    sides = [str(work / "run/best.pth"), str(work / "run/last.pth")]
    data = ["--dataset", str(work / "data/VOC2007"), "--resamples", "20"]
    code, result = _json(capsys, "compare", *sides, *data, "--report", str(tmp_path / "report"))
    assert code == EXIT_OK
    assert result["dataset"] == "VOC2007-val"
    assert [c["name"] for c in result["classes"]] == sorted(SHAPES)
    assert result["mean"]["a"] == pytest.approx(read(sides[0]).provenance["training"]["mAP"], abs=1e-6)
    assert json.loads((tmp_path / "report/comparison.json").read_text()) == result
    assert "| mAP |" in (tmp_path / "report/comparison.md").read_text()
    assert main(["compare", *sides, *data]) == EXIT_OK
    assert "B − A" in capsys.readouterr().out
    best = read(sides[0])
    (tmp_path / "hub").mkdir()
    save(tmp_path / "hub/model.safetensors", best.config, best.state_dict)
    code, result = _json(capsys, "compare", sides[0], str(tmp_path / "hub"), *data)
    assert (code, result["mean"]["difference"], result["outcome"]) == (EXIT_OK, 0.0, "no difference shown")
    assert main(["compare", sides[0], "none.pth", *data]) == EXIT_MISSING
    assert main(["compare", *sides, *data, "--limit", "0"]) == EXIT_USAGE


@pytest.mark.slow
def test_two_processes_under_torchrun(work: Path, tmp_path: Path) -> None:
    """Only the first process writes and evaluates; the run can be resumed by two processes again."""
    base = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ssdconv"]
    out = tmp_path / "run"
    for extra, steps in ((_basic(work), 6), (["train", "--resume"], 6)):
        done = subprocess.run(
            [*base, *extra, "--out", str(out)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"{steps} updates") == 1
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epochs"] for line in lines if "epochs" in line] == [1, 2]
    assert (out / "best.pth").exists()
