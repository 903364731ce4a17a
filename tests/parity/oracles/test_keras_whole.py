"""Whole Keras models against Keras 2.15, which makes them from the file's own text; and lies about them, each caught and named."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.convert import convert
from ssdconv.parity import verify as verify_module
from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.oracles.base import OracleRun, Outputs
from ssdconv.parity.oracles.keras import WholeOracle
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.config import LayerSpec, SSDConfig, Staged
from ssdconv.ssd_ref.evidence import Link

pytestmark = [pytest.mark.oracle, pytest.mark.shared, pytest.mark.usefixtures("one_thread", "tensorflow")]
Lie = Callable[[SSDConfig], SSDConfig]
BUILT = {
    "h06_96x128_steps_offsets": {"steps": "8,17x15,32,60x64", "offsets": "0.5,0.4,0.3x0.6,0.5"},
    "o10_63e50ea_valid_steps_limit": {"steps": "8,16,32,64", "offsets": "1"},
}
QUICK = ("h03_128x96_fast_swap", "h04_96x128_perlayer_minmax_clip", "h02_200x320_inference")
FILES = (
    *QUICK,
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "h01_300x480_default",
            "h05_112x112_corners_norm",
            "h06_96x128_steps_offsets",
            "h07_150x201_clip_norm_odd",
            "h08_96x96_absolute_inference",
            "o09_dfb8655_valid_lambda",
            "o10_63e50ea_valid_steps_limit",
            "o11_fbf8452_valid_oldanchors",
        )
    ),
)


@pytest.fixture(scope="module")
def files(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a stored whole model -> the plain file; a checkpoint of it lies beside it."""
    target = tmp_path_factory.mktemp("whole")
    folder = shared / "golden" / "keras_tf"

    def file(name: str) -> Path:
        path = target / f"{name}.h5"
        if not path.exists():
            packed = folder / ("real" if name.startswith("ssd7") else "ssd7") / f"{name}.h5.gz"
            plain = packed.with_suffix("")
            path.write_bytes(gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes())
            convert(path, path.with_suffix(".pth"), settings=BUILT.get(name, {}), digests=False)
        return path

    return file


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """Keras runs once per file and input."""
    patch, real, answers = pytest.MonkeyPatch(), WholeOracle.run, {}

    def run(self: WholeOracle, pixels: Any) -> OracleRun:
        key = (str(self.job()), np.asarray(pixels).tobytes())
        if key not in answers:
            first = real(self, pixels)
            answers[key] = ({n: first.outputs.take(n) for n in first.outputs.left}, first.detections)
        return OracleRun(Outputs(answers[key][0]), answers[key][1], {})

    patch.setattr(WholeOracle, "run", run)
    yield
    patch.undo()


@pytest.mark.parametrize("name", FILES)
def test_every_layer_prior_and_detection(name: str, files: Callable[[str], Path]) -> None:
    path = files(name)
    report = verify(path.with_suffix(".pth"), path)
    assert report, (report.first_divergent, [row.differs for row in report.links])
    names = {probe.reference for result in report.inputs for probe in result.probes}
    assert {"@input", "@loc", "@conf", "@scores", "@priors"} <= names and len(names) >= 50
    assert all(result.detections is not None and result.detections.oracle for result in report.inputs)
    bases = {row.link: row.basis for row in report.links}
    assert bases["architecture"] == "source framework" and bases["priors"] in ("assumed", "user", "rebuilt")


def test_the_real_file(files: Callable[[str], Path], shared: Path) -> None:
    path = files("ssd7")
    photos = [shared / "data" / "images" / "000001.jpg"]
    assert verify(path.with_suffix(".pth"), path, images=photos)


def test_an_old_wrong_conversion_fails_and_names_the_padding(files: Callable[[str], Path], tmp_path: Path) -> None:
    weights = files("ssd7_weights")
    convert(
        weights, tmp_path / "old.pth", network="ssd7"
    )  # today's code pads its heads, the code of these weights did not
    held = read(tmp_path / "old.pth")
    assert isinstance(held.config.layers, Staged) and held.config.num_priors == 11_692
    report = verify(tmp_path / "old.pth", files("ssd7"))
    assert not report
    row = next(row for row in report.links if row.link == "architecture")
    assert any("padding of classes4" in text and "valid" in text for text in row.differs)
    assert report.tensors.compared == 58 and not report.tensors.different


def pixels(**fields: Any) -> Lie:
    return lambda c: replace(c, pixels=replace(c.pixels, **fields))


def rule(**fields: Any) -> Lie:
    return lambda c: replace(c, detect=replace(c.detect, **fields))


def maps(change: Callable[[Any], dict[str, Any]]) -> Lie:
    return lambda c: replace(c, priors=tuple(replace(m, **change(m)) for m in c.priors))


def layer(name: str, **params: Any) -> Lie:
    def lie(config: SSDConfig) -> SSDConfig:
        layers = tuple(replace(s, params={**s.params, **params}) if s.name == name else s for s in config.graph.layers)
        assert layers != config.graph.layers
        return replace(config, layers=replace(config.graph, layers=layers))

    return lie


def shifted(config: SSDConfig) -> SSDConfig:
    """conv2 padded on two sides only: the same size, other values."""
    at = next(k for k, spec in enumerate(config.graph.layers) if spec.name == "conv2")
    conv = config.graph.layers[at]
    pad = LayerSpec("pad", "ZeroPadding2D", conv.bottoms, ("pad",), {"padding": [[2, 0], [2, 0]]})
    changed = replace(conv, bottoms=("pad",), params={**conv.params, "padding": "valid"})
    layers = (*config.graph.layers[:at], pad, changed, *config.graph.layers[at + 1 :])
    return replace(config, layers=replace(config.graph, layers=layers))


def valid_heads(config: SSDConfig) -> SSDConfig:
    """Heads without padding, and priors to match: what another version of the project's code would have built."""
    for index in range(4, 8):
        for name in (f"classes{index}", f"boxes{index}"):
            config = layer(name, padding="valid")(config)
    return maps(lambda m: {"grid": (m.grid[0] - 2, m.grid[1] - 2)})(config)


FAST, MINMAX, SLOW = QUICK
LIES: dict[str, tuple[str, Link, str, Lie]] = {
    "mean": (FAST, "pixels", "pixels.mean", pixels(mean=(103.939, 116.779, 123.68))),
    "mean in the other order": (FAST, "pixels", "pixels.mean", pixels(mean=(123.0, 117.0, 104.0))),
    "channel order": (FAST, "pixels", "pixels.order", pixels(order="RGB")),
    "deviation": (MINMAX, "pixels", "pixels.std", pixels(std=(57.0, 58.5, 60.0))),
    "scale of pixels": (FAST, "pixels", "pixels.unit", pixels(unit=255.0)),
    "prior sizes": (FAST, "priors", "priors[0].box_sizes", maps(lambda m: {"box_sizes": tuple((w * 1.01, h) for w, h in m.box_sizes)})),
    "prior order": (FAST, "priors", "priors[0].box_sizes", maps(lambda m: {"box_sizes": m.box_sizes[::-1]})),
    "steps": (FAST, "priors", "priors[0].step", maps(lambda m: {"step": (m.step[0] * 1.01, m.step[1])})),
    "offsets": (FAST, "priors", "priors[0].offset", maps(lambda m: {"offset": (0.5, 0.45)})),
    "variances": (FAST, "priors", "priors[0].variances", maps(lambda m: {"variances": (0.1, 0.1, 0.1, 0.2)})),
    "clip": (MINMAX, "priors", "priors[0].clip", maps(lambda m: {"clip": "none"})),
    "clip to the edge": (MINMAX, "priors", "priors[0].clip", maps(lambda m: {"clip": "corners"})),
    "box code": (MINMAX, "detection rule", "detect.code", rule(code="center_size")),
    "order of coordinates": (MINMAX, "architecture", "boxes_concat/corners", layer("boxes_concat/corners", indices=[0, 1, 2, 3])),
    "score threshold": (SLOW, "detection rule", "detect.score_threshold", rule(score_threshold=0.9)),
    "IoU": (SLOW, "detection rule", "detect.nms_threshold", rule(nms_threshold=0.05)),
    "top k": (FAST, "detection rule", "detect.keep_top_k", rule(keep_top_k=29)),
    "boxes after NMS": (FAST, "detection rule", "detect.max_per_class", rule(max_per_class=12)),
    "NMS over all classes": (SLOW, "detection rule", "detect.nms_scope", rule(nms_scope="image")),
    "background": (FAST, "detection rule", "detect.background", rule(background=1)),
    "epsilon": (FAST, "architecture", "bn4", layer("bn4", epsilon=1e-5)),
    "padding": (FAST, "architecture", "conv2", shifted),
    "padding of heads": (SLOW, "architecture", "classes7", valid_heads),
    "dilation": (FAST, "architecture", "conv5", layer("conv5", dilation_rate=[2, 2])),
    "slope of ELU": (FAST, "architecture", "elu3", layer("elu3", alpha=0.9)),
}  # fmt: skip


def told(path: Path, lie: Lie, folder: Path) -> ParityReport:
    held = read(path.with_suffix(".pth"))
    config = lie(held.config)
    assert config != held.config
    save(folder / "lie.pth", config, held.state_dict, held.provenance)
    return verify(folder / "lie.pth", path)


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_seen_by_keras_and_named(
    name: str, files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, link, field, lie = LIES[name]
    report = told(files(file), lie, tmp_path)
    assert not report
    row = next(row for row in report.links if row.link == link)
    assert any(field in text for text in row.differs), row.differs
    monkeypatch.setattr(verify_module, "config_differences", lambda *_, **__: ())
    assert not told(files(file), lie, tmp_path)
