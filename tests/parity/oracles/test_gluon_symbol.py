"""The symbol that GluonCV exports, run by MXNet instead of the model zoo's network; symbols that compute otherwise than their network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ssdconv.cli import main
from ssdconv.converters.convert import convert, open_source
from ssdconv.converters.gluon.symbol import beside
from ssdconv.errors import FormatError, MissingError
from ssdconv.parity.oracles.gluon import COLUMN, class_names
from ssdconv.parity.oracles.worker import Worker
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.gluon import gluon

MAKER = Worker("gluon", str(Path(__file__).parent / "workers" / "gluon_maker"))

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def exported(mxnet: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``net-0000.params`` of a network with 4 classes and a prefix of its own; the symbol and ``out.pth`` beside it."""
    folder = tmp_path_factory.mktemp("symbol")
    config = gluon("ssd_300_mobilenet0.25_voc", 5)
    job = {"do": "build", "network": config.name, "classes": class_names(config), "seed": 7, "size": 300}
    job |= {"folder": str(folder), "stem": "net", "dialects": ["export"], "prefix": "finetuned3_"}
    MAKER.ask([job])
    convert(folder / "net-0000.params", folder / "out.pth")
    return folder / "net-0000.params"


def test_the_exported_symbol_is_run(exported: Path) -> None:
    assert beside(exported) == exported.with_name("net-symbol.json")
    report = verify(exported.with_name("out.pth"), exported)
    assert report.passed, report
    assert not any(one.gaps for one in report.inputs)
    assert all(len(one.probes) > 60 and one.detections and one.detections.matched >= 95 for one in report.inputs)
    says = {link.link: link for link in report.links}
    for link in ("architecture", "priors", "detection rule"):
        assert says[link].basis == "source framework" and "net-symbol.json" in says[link].text


LIES: dict[str, tuple[str, dict[str, str], str]] = {
    "eps": ("BatchNorm", {"eps": "0.01"}, "finetuned3_mobilenet0_batchnorm3_fwd"),
    "padding": ("Convolution", {"pad": "(2, 2)", "dilate": "(2, 2)"}, "finetuned3_mobilenet0_conv3_fwd"),
    "overlap": ("_contrib_box_nms", {"overlap_thresh": "0.7"}, ""),
    "limit": ("_contrib_box_nms", {"topk": "20"}, ""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_symbol_that_computes_otherwise_fails(exported: Path, lie: str, tmp_path: Path) -> None:
    op, changed, name = LIES[lie]
    held = json.loads(exported.with_name("net-symbol.json").read_text())
    (node, *_) = [n for n in held["nodes"] if n["op"] == op and name in ("", n["name"])]
    assert set(changed) <= set(node["attrs"])
    node["attrs"].update(changed)
    (tmp_path / "lie.json").write_text(json.dumps(held))
    report = verify(exported.with_name("out.pth"), exported, symbol=tmp_path / "lie.json")
    assert not report.passed and not report.tensors.different
    failed = [r.source for r in report.inputs[0].probes if not r]
    assert failed[0] == name.replace("finetuned3_", "ssd0_") if name else not failed


def test_a_checkpoint_with_another_eps_fails_by_the_symbol(exported: Path, tmp_path: Path) -> None:
    held = read(exported.with_name("out.pth"))
    text = held.config.to_json()
    assert '"norm":{"eps":0.00001}' in text
    config = SSDConfig.from_json(text.replace('"norm":{"eps":0.00001}', '"norm":{"eps":0.02}'))
    save(tmp_path / "bad.pth", config, held.state_dict, held.provenance)
    report = verify(tmp_path / "bad.pth", exported)
    assert not report.passed
    assert any(not r for r in report.inputs[0].probes)


def test_another_networks_symbol_is_refused(exported: Path, tmp_path: Path) -> None:
    held = json.loads(exported.with_name("net-symbol.json").read_text())
    (tmp_path / "no.json").write_text(json.dumps({"class_name": "Model", "config": {}}))
    node = next(n for n in held["nodes"] if n["op"] == "null" and n["name"].endswith("_weight"))
    node["name"] = "other_weight"
    (tmp_path / "other.json").write_text(json.dumps(held))
    with (opened := open_source(exported, "gluon")).table:
        with pytest.raises(FormatError, match="not a symbol"):
            COLUMN.prepare(opened, symbol=tmp_path / "no.json")
        with pytest.raises(MissingError, match="not of this file"):
            COLUMN.prepare(opened, symbol=tmp_path / "other.json")


def test_without_a_symbol_the_model_zoo_is_run(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported, tmp_path / "net-0000.params")
    with (opened := open_source(tmp_path / "net-0000.params", "gluon")).table:
        assert {c.basis for c in COLUMN.prepare(opened).evidence} == {"original code"}


def test_the_command_takes_a_symbol(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    symbol = exported.with_name("net-symbol.json")
    assert (
        main(
            ["verify", str(exported.with_name("out.pth")), "--source", str(exported), "--symbol", str(symbol), "--json"]
        )
        == 0
    )
    links = {row["link"]: row for row in json.loads(capsys.readouterr().out)["links"]}
    assert links["architecture"]["basis"] == "source framework"
