"""Planted lies: checkpoints whose config says something else than their source file; every one fails ``verify``, and is named.

Two things look: the oracle, which runs the source file, and the config planned anew from the file. The second shares the converter's
reading, so the table also says which lies the oracle sees by itself, without the config: those stay visible even if the converter is what
misreads. What no oracle can see (pixels, class names) is caught by the config alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters import registry
from ssdconv.converters.convert import convert
from ssdconv.converters.plan import Request
from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.oracles.base import OracleRun, Outputs
from ssdconv.parity.oracles.worker import Worker
from ssdconv.parity.sweep import calibrated_tensors
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import Checkpoint, read, save
from ssdconv.ssd_ref.config import L2NormSpec, NormSpec, SSDConfig
from ssdconv.ssd_ref.evidence import Link
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import narrowed

Lie = Callable[[SSDConfig], SSDConfig]
pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {
    "caffe": ("ssd300_voc", "ssdconv.parity.oracles.opencv.OpenCVOracle"),
    "gluon": ("ssd_300_mobilenet0.25_voc", "ssdconv.parity.oracles.gluon.GluonOracle"),
    "keras": ("ssd_keras_ssd300_voc", "ssdconv.parity.oracles.keras.KerasOracle"),
    "tensorflow": ("hikapok_ssd300_vgg16_voc", "ssdconv.parity.oracles.tensorflow.TensorFlowOracle"),
    "chainer": ("ssd300_voc", "ssdconv.parity.oracles.chainer.ChainerOracle"),
    "pytorch": ("ssd_pytorch_ssd300_voc", "ssdconv.parity.oracles.pytorch.PlainOracle"),
}
ENVIRONMENT = {"gluon": "mxnet", "keras": "tensorflow", "tensorflow": "tensorflow", "chainer": "chainer_env"}


def pixels(**fields: Any) -> Lie:
    return lambda c: replace(c, pixels=replace(c.pixels, **fields))


def rule(**fields: Any) -> Lie:
    return lambda c: replace(c, detect=replace(c.detect, **fields))


def maps(change: Callable[[Any], dict[str, Any]]) -> Lie:
    return lambda c: replace(c, priors=tuple(replace(m, **change(m)) for m in c.priors))


def other_order(config: SSDConfig) -> SSDConfig:
    return pixels(order="RGB" if config.pixels.order == "BGR" else "BGR")(config)


def other_resize(config: SSDConfig) -> SSDConfig:
    return pixels(resize="opencv_linear" if config.pixels.resize != "opencv_linear" else "pil_bilinear")(config)


def classes_swapped(config: SSDConfig) -> SSDConfig:
    background, first, second, *rest = config.class_names
    return replace(config, class_names=(background, second, first, *rest))


def extra(field: str, value: Any) -> Lie:
    """Another value in the second layer of the first extra stage, of a kind that leaves all shapes as they are."""

    def lie(config: SSDConfig) -> SSDConfig:
        (first, second), *rest = config.staged.extras.stages
        stages = ((first, replace(second, **{field: value})), *rest)
        return replace(config, layers=replace(config.staged, extras=replace(config.staged.extras, stages=stages)))

    return lie


def norms(config: SSDConfig) -> SSDConfig:
    """Another eps: of the L2 normalisation, or of the extra layers' batch normalisation."""
    heads, extras = config.staged.heads, config.staged.extras
    if heads.l2norm:
        wrong = {i: L2NormSpec(1e6, spec.form) for i, spec in heads.l2norm.items()}
        return replace(config, layers=replace(config.staged, heads=replace(heads, l2norm=wrong)))
    stages = tuple(tuple(replace(c, norm=NormSpec(1e-2)) for c in stage) for stage in extras.stages)
    return replace(config, layers=replace(config.staged, extras=replace(extras, stages=stages)))


def dilated(config: SSDConfig) -> SSDConfig:
    """fc6 without its dilation, or an extra layer that reads every second pixel."""
    if config.staged.backbone.kind != "vgg16":
        return extra("activation", "relu6")(config)
    backbone = config.staged.backbone
    options = {**backbone.options, "fc6_dilation": 1}
    return replace(config, layers=replace(config.staged, backbone=replace(backbone, options=options)))


def layer(name: str, **params: Any) -> Lie:
    """Other parameters of one layer of a Caffe graph."""

    def lie(config: SSDConfig) -> SSDConfig:
        changed = tuple(
            replace(spec, params={**spec.params, **params}) if spec.name == name else spec
            for spec in config.graph.layers
        )
        assert changed != config.graph.layers
        return replace(config, layers=replace(config.graph, layers=changed))

    return lie


COMMON: dict[str, tuple[Link, str, Lie]] = {
    "mean": ("pixels", "pixels.mean", lambda c: pixels(mean=(1.0, 2.0, 3.0))(c)),
    "channel order": ("pixels", "pixels.order", other_order),
    "scale": ("pixels", "pixels.scale", pixels(scale=0.5)),
    "standard deviation": ("pixels", "pixels.std", pixels(std=(0.3, 0.3, 0.3))),
    "resize rule": ("pixels", "pixels.resize", other_resize),
    "prior sizes": ("priors", "priors[0].box_sizes", maps(lambda m: {"box_sizes": tuple((w * 1.1, h * 1.1) for w, h in m.box_sizes)})),
    "prior order": ("priors", "priors[0].box_sizes", maps(lambda m: {"box_sizes": (*m.box_sizes[1:], m.box_sizes[0])})),
    "steps": ("priors", "priors[0].step", maps(lambda m: {"step": (m.step[0] * 1.02, m.step[1] * 1.02)})),
    "offset": ("priors", "priors[0].offset", maps(lambda m: {"offset": 0.0})),
    "variances": ("priors", "priors[0].variances", maps(lambda m: {"variances": (0.1, 0.1, 0.1, 0.1)})),
    "prior clip": ("priors", "priors[0].clip", maps(lambda m: {"clip": "corners"})),
    "score threshold": ("detection rule", "detect.score_threshold", rule(score_threshold=0.2)),
    "top k": ("detection rule", "detect.top_k", rule(top_k=3)),
    "NMS threshold": ("detection rule", "detect.nms_threshold", rule(nms_threshold=0.7)),
    "kept boxes": ("detection rule", "detect.keep_top_k", rule(keep_top_k=5)),
    "box clip": ("detection rule", "detect.clip", lambda c: rule(clip="after" if c.detect.clip == "none" else "none")(c)),
    "activation": ("detection rule", "detect.activation", rule(activation="sigmoid")),
    "variance in target": ("detection rule", "detect.variance_encoded", rule(variance_encoded=True)),
    "class names": ("classes", "class_names", classes_swapped),
}  # fmt: skip
LAYERS: dict[str, tuple[Link, str, Lie]] = {
    "eps": ("architecture", "eps", norms),
    "dilation": ("architecture", "", dilated),
    "activation of a layer": ("architecture", "activation", extra("activation", "none")),
}
CAFFE_LAYERS: dict[str, tuple[Link, str, Lie]] = {
    "eps": ("architecture", "layers.conv4_3_norm.params.eps", layer("conv4_3_norm", eps=0.1)),
    "dilation": ("architecture", "layers.fc6.params", layer("fc6", pad=[1], dilation=[1])),
    "pooling": ("architecture", "layers.pool5.params.pool", layer("pool5", pool="AVE")),
}


def padding(config: SSDConfig) -> SSDConfig:
    """The other padding of the extra layers with stride 2: a pixel at the bottom and right only, or on every side."""
    other = {1: "same", "same": 1}
    stages = tuple(
        tuple(replace(c, padding=other.get(c.padding, c.padding)) if c.stride == 2 else c for c in stage)  # type: ignore[arg-type]
        for stage in config.staged.extras.stages
    )
    extras = replace(config.staged.extras, stages=stages)
    return replace(config, layers=replace(config.staged, extras=extras))


LIES: dict[str, dict[str, tuple[Link, str, Lie]]] = {
    source: COMMON | (CAFFE_LAYERS if source == "caffe" else LAYERS | {"padding": ("architecture", "padding", padding)})
    for source in NETWORKS
}
del LIES["chainer"][
    "activation"
]  # ChainerCV keeps every box: of sigmoids there are so many that matching takes minutes
UNSEEN: dict[str, frozenset[str]] = {
    "caffe": frozenset({"mean", "channel order", "scale", "standard deviation", "resize rule", "class names"}),
    "gluon": frozenset({"class names"}),
    "keras": frozenset({"class names"}),
    "tensorflow": frozenset({"class names"}),
    "chainer": frozenset({"class names"}),
    "pytorch": frozenset({"mean", "channel order", "scale", "standard deviation", "resize rule", "class names"}),
}
"""Lies that the oracle's run does not show."""


@dataclass
class Case:
    """A converted network, and an oracle that runs once per input."""

    source: str
    file: Path
    prototxt: Path | None
    checkpoint: Checkpoint

    def verify(self, folder: Path, lie: Lie | None = None) -> ParityReport:
        held = self.checkpoint
        config = held.config if lie is None else lie(held.config)
        assert (config == held.config) == (lie is None)
        save(folder / "out.pth", config, held.state_dict, held.provenance)
        return verify(folder / "out.pth", self.file, oracle="opencv" if self.source == "caffe" else None)


_CASES: dict[str, Case] = {}


def case_of(source: str, request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Case:
    if source in ENVIRONMENT:
        request.getfixturevalue(ENVIRONMENT[source])
    if source in _CASES:
        return _CASES[source]
    folder = factory.mktemp(source)
    name, _ = NETWORKS[source]
    config = narrowed(network(name, source, None), 4)
    kind = registry.SOURCES[source]
    written = kind.module.write(config, calibrated_tensors(config, 3), folder / f"x{kind.suffixes[0]}", Request())
    prototxt = next((path for path in written if path.suffix == ".prototxt"), None)
    order = config.pixels.order if source == "pytorch" else None
    convert(
        registry.located(written[0]), folder / "converted.pth", prototxt=prototxt, channel_order=order, classes="voc", digests=False
    )  # fmt: skip
    _CASES[source] = Case(source, registry.located(written[0]), prototxt, read(folder / "converted.pth"))
    return _CASES[source]


@pytest.fixture(scope="module")
def remembered() -> Any:
    """Oracles run once per input: their answers are kept for the other lies."""
    patch = pytest.MonkeyPatch()
    asked: dict[bytes, Any] = {}

    def ask(self: Worker, jobs: Any, arrays: Any = None, *, real: Any = Worker.ask, **request: Any) -> Any:
        given = [(name, array.shape, array.tobytes()) for name, array in (arrays or {}).items()]
        key = repr((self, jobs, given)).encode()
        if key not in asked:
            asked[key] = real(self, jobs, arrays, **request)
        return asked[key]

    patch.setattr(Worker, "ask", ask)
    answers: dict[tuple[str, bytes], tuple[dict[str, Any], Any, Any]] = {}
    for _, path in NETWORKS.values():
        module, _, kind = path.rpartition(".")
        owner = getattr(__import__(module, fromlist=[kind]), kind)
        name = "run_with" if hasattr(owner, "run_with") else "run"
        method = getattr(owner, name)

        def run(self: Any, given: Any, *lend: Any, real: Any = method, path: str = path) -> OracleRun:
            key = (path, np.asarray(given).tobytes())
            if key not in answers:
                first = real(self, given, *lend)
                answers[key] = ({n: first.outputs.take(n) for n in first.outputs.left}, first.detections, first.kinds)
            arrays, detections, kinds = answers[key]
            return OracleRun(Outputs(arrays), detections, kinds)

        patch.setattr(owner, name, run)
    yield answers
    patch.undo()


MARKS = {source: [pytest.mark.oracle] if source in ENVIRONMENT else [] for source in NETWORKS}


@pytest.mark.parametrize("source", [pytest.param(s, marks=MARKS[s]) for s in NETWORKS])
def test_the_honest_checkpoint_passes(
    source: str,
    remembered: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    report = case_of(source, request, tmp_path_factory).verify(tmp_path)
    assert report, (report.first_divergent, [link.differs for link in report.links])
    assert all(result.detections is not None and result.detections.oracle for result in report.inputs)


@pytest.mark.parametrize(
    ("source", "name"),
    [pytest.param(s, n, marks=MARKS[s], id=f"{s}-{n}") for s, lies in LIES.items() for n in lies],
)
def test_a_lie_fails_and_is_named(
    source: str,
    name: str,
    remembered: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    case = case_of(source, request, tmp_path_factory)
    link, field, lie = LIES[source][name]
    report = case.verify(tmp_path, lie)
    assert not report and not report.passed
    row = next(row for row in report.links if row.link == link)
    assert any(field in text for text in row.differs), row.differs
    assert [row.link for row in report.links if row.differs] == [link]
    seen = not all(report.inputs)
    assert seen == (name not in UNSEEN[source]), "what the oracle's run shows by itself, whatever the config says"
