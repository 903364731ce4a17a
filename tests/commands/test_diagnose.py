"""``ssdconv diagnose``, ``ssdconv diff`` and ``ssdconv verify --diagnose``: results, exit codes, JSON and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv import cli
from ssdconv.converters.caffe.source import write
from ssdconv.converters.plan import Request
from ssdconv.parity.diagnose.result import Diagnosis
from ssdconv.ssd_ref.checkpoint import save
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import narrowed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``x.caffemodel``, its conversion ``good.pth``, and ``bad.pth`` with two mistakes in it."""
    folder = tmp_path_factory.mktemp("diagnose")
    config = narrowed(network("caffe/ssd300_voc"))
    tensors = dict(seeded_tensors(config, 8))
    write(config, tensors, folder / "x.caffemodel", Request())
    save(folder / "good.pth", config, tensors)
    first = "backbone.conv1_1.conv.weight"
    scale = np.full_like(tensors["heads.l2norm.0.weight"], 20)
    wrong = tensors | {first: np.ascontiguousarray(tensors[first][:, ::-1]), "heads.l2norm.0.weight": scale}
    save(folder / "bad.pth", config, wrong)
    torch.save({n: torch.from_numpy(a) for n, a in wrong.items()}, folder / "plain.pth")
    return folder


def run(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = cli.main([str(folder / w) if (folder / w).exists() else w for w in words])
    return code, capsys.readouterr()


NAMES = ["channel-order", "l2norm-init"]


@pytest.mark.parametrize("suspect", ["bad.pth", "plain.pth"])
def test_diagnose_against_a_reference(folder: Path, suspect: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run(folder, capsys, "diagnose", suspect, "--reference", "good.pth", "--json")
    found = Diagnosis.from_json(told.out)
    assert code == 1 and found.verdict == "explained" and [c.name for c in found.causes] == NAMES
    assert any("tensors alone" in note for note in found.notes) == (suspect == "plain.pth")


def test_diagnose_against_the_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("diagnose", "bad.pth", "--source", "x.caffemodel", "--prototxt", "x.prototxt")
    code, told = run(folder, capsys, *words)
    assert code == 1 and "[channel-order]" in told.out and "[l2norm-init]" in told.out
    assert "against OpenCV 4." in told.out and "starts at conv1_1" in told.out and "to fix:" in told.out


def test_diagnose_of_a_right_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run(folder, capsys, "diagnose", "good.pth", "--reference", "x.caffemodel")
    assert code == 0 and "no difference: both compute the same" in told.out


def test_verify_diagnoses_what_fails(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--source", "x.caffemodel", "--prototxt", "x.prototxt", "--diagnose")
    code, told = run(folder, capsys, "verify", "bad.pth", *words, "--report", str(tmp_path / "report"), "--json")
    data = json.loads(told.out)
    assert code == 1 and data["passed"] is False and data["first_divergent"] == "conv1_1"
    assert [c["name"] for c in data["diagnosis"]["causes"]] == NAMES
    page = (tmp_path / "report" / "parity.html").read_text()
    assert "RGB and BGR are exchanged in the first layer" in page and "conv1_1" in page
    assert json.loads((tmp_path / "report" / "parity.json").read_text())["diagnosis"]["verdict"] == "explained"
    code, told = run(folder, capsys, "verify", "good.pth", *words)
    assert code == 0 and "same weights, layers, priors" in told.out and "trials" not in told.out


def test_diff_tells_equal_from_different(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run(folder, capsys, "diff", "good.pth", "x.caffemodel")
    assert code == 0 and "71 of 71 tensors are bit-identical" in told.out
    code, told = run(folder, capsys, "diff", "bad.pth", "good.pth")
    assert code == 1 and "69 of 71 tensors are bit-identical" in told.out and "channel-order" in told.out
    code, told = run(folder, capsys, "diff", "bad.pth", "good.pth", "--json")
    data = json.loads(told.out)
    assert code == 1 and data["same"] is False and [row["kind"] for row in data["rows"]] == NAMES


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("diagnose", "bad.pth"), 2, "one of the arguments --source --reference is required"),
        (("diagnose", "bad.pth", "--source", "a", "--reference", "b"), 2, "not allowed with"),
        (("diagnose", "bad.pth", "--reference", "lost.pth"), 4, "lost.pth: no such file"),
        (("diff", "bad.pth", "lost.pth"), 4, "lost.pth: no such file"),
        (("verify", "--dataset", "voc07", "--diagnose"), 2, "--dataset for accuracy"),
    ],
)
def test_mistakes_of_the_user(
    folder: Path, words: tuple[str, ...], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, told = run(folder, capsys, *words)
    assert got == code and text in told.err
