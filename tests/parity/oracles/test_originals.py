"""Checkouts of original projects: what is recorded, what is refused, what they say in a verdict; and the code itself where it was added."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.convert import convert, open_source
from ssdconv.converters.plan import Request
from ssdconv.converters.pytorch.source import write
from ssdconv.converters.tensorflow import source as tensorflow_source
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.parity.layers.results import headline, link_results
from ssdconv.parity.oracles import tensorflow as tensorflow_oracle
from ssdconv.parity.oracles.originals import ORIGINALS, OriginalOracle, add, forget, recorded
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Claim
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.pytorch import pytorch
from ssdconv.ssd_ref.networks.tensorflow import hikapok


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that ssd.pytorch's worker needs, empty, in git; and a home of its own."""
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    folder = tmp_path / "checkout"
    for name in ORIGINALS["ssd.pytorch"].needed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return folder


def test_a_checkout_is_recorded_with_its_commit_and_noticed_when_it_changes(checkout: Path) -> None:
    oracle = OriginalOracle("ssd.pytorch", {}, pytorch("ssd_pytorch_ssd300_voc"))
    assert "no checkout" in oracle.available().reason and "add-original ssd.pytorch" in oracle.available().next_step
    found = add("ssd.pytorch", checkout)
    assert len(found.commit) == 40 and not found.changed and set(ORIGINALS["ssd.pytorch"].needed) == set(found.files)
    assert recorded("ssd.pytorch") == found and found.commit[:7] in oracle.name
    (checkout / "ssd.py").write_text("print()")
    assert "not as it was" in oracle.available().reason
    assert add("ssd.pytorch", checkout).changed == ("ssd.py",)
    assert "1 changed" in oracle.name and "not as it was" not in oracle.available().reason
    assert forget("ssd.pytorch") and not forget("ssd.pytorch") and recorded("ssd.pytorch") is None


def test_other_folders_are_refused(checkout: Path) -> None:
    with pytest.raises(FormatError, match=r"no checkout of HosinPrime.*config\.py"):
        add("simple-ssd", checkout)
    with pytest.raises(MissingError, match="no such folder"):
        add("ssd.pytorch", checkout / "nothing")
    with pytest.raises(UsageError, match=r"no original project 'ssd'.*ssd\.pytorch"):
        add("ssd", checkout)


def test_the_command(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ssdconv.cli import main

    assert main(["oracle", "add-original", "ssd.pytorch", str(checkout)]) == 0
    assert "amdegroot/ssd.pytorch at " in capsys.readouterr().out
    assert main(["oracle", "list"]) == 0
    assert str(checkout) in capsys.readouterr().out
    assert main(["oracle", "remove-original", "ssd.pytorch"]) == 0


def test_original_code_settles_what_was_assumed_but_not_what_it_was_told() -> None:
    padding = Claim("architecture", "assumed", "padding", "heads.padding")
    scales = Claim("priors", "assumed", "scales", "priors.scales")
    size = Claim("detection rule", "user", "threshold", "detect.score_threshold")
    runs = [Claim(link, "original code", "commit") for link in ("architecture", "priors", "detection rule")]
    compared = {"architecture": "layers", "priors": "priors", "detection rule": "rows"}
    rows = {r.link: r for r in link_results([padding, scales, size], [*runs, scales, size], compared, {})}  # type: ignore[arg-type]
    assert rows["architecture"].basis == "original code" and rows["architecture"].independent
    assert rows["priors"].basis == "assumed" and rows["detection rule"].basis == "user"
    rebuilt = [Claim("architecture", "rebuilt", "modules")]
    assert link_results([padding], rebuilt, {"architecture": "layers"}, {})[1].basis == "assumed"


def calm(config: SSDConfig) -> dict[str, np.ndarray]:
    """Seeded weights whose heads see background nearly everywhere."""
    tensors = {key: np.asarray(array) for key, array in seeded_tensors(config, 2).items()}
    for key, array in tensors.items():
        if key.startswith("heads.conf.") and key.endswith("bias"):
            array.reshape(-1, config.num_classes)[:, 0] += 8
    return tensors


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd_pytorch_ssd300_voc", "ssd_pytorch_ssd300_coco201", "simple_ssd_ssd300_voc"])
def test_the_original_code_agrees(tmp_path: Path, name: str) -> None:
    config = pytorch(name)
    project = "ssd.pytorch" if name.startswith("ssd_pytorch") else "simple-ssd"
    state = OriginalOracle(project, {}, config).available()
    if not state.ok:
        pytest.skip(state.reason)
    write(config, calm(config), tmp_path / "x.pth", Request())
    convert(tmp_path / "x.pth", tmp_path / "o.pth", network=name, channel_order=config.pixels.order)
    report = verify(tmp_path / "o.pth", tmp_path / "x.pth", oracle="original")
    assert report.passed and {p.reference for p in report.inputs[0].probes} >= {"@loc", "@conf", "@priors"}
    for link in report.links:
        if link.link in ("architecture", "priors", "detection rule"):
            assert link.basis == "original code" and link.independent


def test_ssd_tensorflow_is_told_its_flags_and_nothing_of_its_code(tmp_path: Path) -> None:
    config = hikapok("hikapok_ssd300_vgg16_voc", 5, width=2)
    tensorflow_source.write(config, seeded_tensors(config, 2), tmp_path / "x.ckpt", Request())
    given = {"detect.nms_threshold": "0.3", "detect.top_k": "all", "priors.steps": "even"}
    opened = open_source(tmp_path / "x.ckpt.index", request=Request(settings=given))
    made = tensorflow_oracle.COLUMN.prepare(opened, oracle="original")
    opened.table.close()
    oracle = made.oracle
    assert isinstance(oracle, OriginalOracle) and oracle.asked["flags"] == {"nms_threshold": 0.3}
    assert {c.link for c in made.evidence if c.basis == "original code"} >= {"pixels", "priors", "detection rule"}
    assert [c.key for c in made.evidence if c.basis == "user"] == ["detect.nms_threshold"]


@pytest.mark.oracle
@pytest.mark.slow
def test_ssd_tensorflow_s_own_code_agrees_and_finds_lies(tmp_path: Path) -> None:
    config = hikapok("hikapok_ssd300_vgg16_voc")
    state = OriginalOracle("hikapok", {}, config).available()
    if not state.ok:
        pytest.skip(state.reason)
    tensorflow_source.write(config, calm(config), tmp_path / "x.ckpt", Request())
    source = tmp_path / "x.ckpt.index"
    convert(source, tmp_path / "o.pth")
    report = verify(tmp_path / "o.pth", source, oracle="original")
    assert report.passed and headline(report.links) == "same network"
    assert all(link.basis == "original code" for link in report.links if link.link not in ("tensors", "classes"))
    told = {"priors.steps": "even", "pixels.order": "RGB", "detect.keep_top_k": "100"}
    convert(source, tmp_path / "lie.pth", settings=told)
    report = verify(tmp_path / "lie.pth", source, oracle="original")
    assert not report.passed and report.first_divergent == "priors"
    assert any(link.link == "pixels" and link.differs for link in report.links)
    assert all(found.detections.reference < found.detections.oracle for found in report.inputs)
