"""Networks that no table names, converted by their own symbol, and MXNet running that symbol: layers, boxes, and the way back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ssdconv.converters.convert import convert, reverse
from ssdconv.parity.oracles.environments import ENVIRONMENTS
from ssdconv.parity.verify import verify

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("one_thread")]

SIZES = {
    "vgg16_300": "300x300",
    "vgg16_300_train": "300x300",
    "resnet50_512": "512x512",
    "mobilenet_512": "512x512",
    "inception_v3_512": "512x512",
    "inception_part": "264x200",
    "every": "96x96",
}
"""Width and height of the inputs, which such symbols do not tell."""
EXPORTED = ("gluoncv:custom", "gluoncv:ssd_300_mobilenet0.25_voc:3")


def make(mxnet: str, folder: Path, divisor: int, *names: str) -> None:
    script = Path(__file__).with_name("mxnet_ssds.py")
    command = [str(ENVIRONMENTS[mxnet].python), "-I", str(script), str(folder), str(divisor), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def files(mxnet: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("symbols")
    make(mxnet, folder, 8, *SIZES, *EXPORTED)
    return folder


def proven(path: Path, settings: dict[str, str], out: Path) -> None:
    convert(path, out / "there.pth", settings=settings)
    report = verify(out / "there.pth", path)
    assert report, (report.first_divergent, [row.differs for row in report.links])
    for one in report.inputs:
        assert one.detections is not None and one.detections.matched >= 0.9 * one.detections.oracle > 0
        assert len(one.probes) > 40 and not one.gaps
    back = out / path.name
    reverse(out / "there.pth", back, "gluon")
    assert back.read_bytes() == path.read_bytes()
    symbol = path.name.replace("-0000.params", "-symbol.json")
    assert (out / symbol).read_bytes() == path.with_name(symbol).read_bytes()


@pytest.mark.parametrize("name", SIZES)
def test_symbols_with_multibox_detection(name: str, files: Path, tmp_path: Path) -> None:
    proven(files / f"{name}-0000.params", {"input.size": SIZES[name]}, tmp_path)


@pytest.mark.parametrize("name", ["custom", "ssd_300_mobilenet0.25_voc"])
def test_symbols_that_gluoncv_exports(name: str, files: Path, tmp_path: Path) -> None:
    proven(files / f"gluoncv_{name}-0000.params", {"layers": "symbol"}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16_300", "resnet50_512", "mobilenet_512", "inception_v3_512"])
def test_in_full_width(name: str, mxnet: str, tmp_path: Path) -> None:
    make(mxnet, tmp_path, 1, name)
    (tmp_path / "out").mkdir()
    proven(tmp_path / f"{name}-0000.params", {"input.size": SIZES[name]}, tmp_path / "out")


@pytest.mark.parametrize(
    ("op", "changed"),
    [
        ("BatchNorm", {"eps": "0.01"}),
        ("_contrib_MultiBoxPrior", {"offsets": "(0.4, 0.5)"}),
        ("_contrib_MultiBoxDetection", {"nms_threshold": "0.7"}),
        ("_contrib_MultiBoxDetection", {"force_suppress": "False"}),
        ("_contrib_MultiBoxDetection", {"nms_topk": "20"}),
        ("Activation", {"act_type": "tanh"}),
    ],
)
def test_a_checkpoint_of_another_symbol_fails(op: str, changed: dict[str, str], files: Path, tmp_path: Path) -> None:
    path = files / "mobilenet_512-0000.params"
    convert(path, tmp_path / "there.pth", settings={"input.size": "512x512"}, digests=False)
    held = json.loads(path.with_name("mobilenet_512-symbol.json").read_text())
    node = next(n for n in held["nodes"] if n["op"] == op)
    node["attrs"].update(changed)
    (tmp_path / "lie.json").write_text(json.dumps(held))
    assert not verify(tmp_path / "there.pth", path, symbol=tmp_path / "lie.json").passed
