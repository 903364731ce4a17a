"""One network of the registry through everything: seeded weights, its source's file, conversion, oracle, and back.

Per network: seeded weights at full size are written as a file of the source, converted, verified against the source's
own framework (``parity.verify``), written back and compared bit for bit. No trained file is needed, so every network can
be checked on every machine that has its oracle. An oracle that is absent gives the status "not run", never "passed".

The weights (``calibrated_tensors``) give activations, boxes and scores of the sizes that trained ones give, for networks of any depth.
Three steps over ``ssd_ref.model.seeded_tensors``, on the generated picture and on noise: batch statistics become those of the features,
each off by a random factor; heads whose outputs are large are scaled down by a power of two (the box decoder's exp would overflow);
the background is favoured just as much as leaves about ``CANDIDATES`` scores above the threshold. Otherwise every prior
would be a candidate for every class, and what is detected would be decided by ties and limits instead of scores and boxes.

Results are kept as one JSON file per network, named by the versions of all libraries at work, so that a sweep that was
interrupted continues and one after an update starts anew.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import located
from ssdconv.converters.registry import source as source_named
from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError, SsdconvError, UsageError
from ssdconv.parity.layers.activations import Progress
from ssdconv.parity.layers.inputs import noise_image, synthetic_picture
from ssdconv.parity.layers.results import ParityReport, detection_counts
from ssdconv.parity.oracles.environments import environment, state
from ssdconv.parity.verify import verify, versions
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.postprocess import scores_of
from ssdconv.ssd_ref.preprocess import prepare

CANDIDATES = 300
"""How many scores of the generated picture shall pass the threshold: about as many as trained weights give."""
LARGEST = {"loc": 0.5, "conf": 2.0}
"""Standard deviation of a map's raw outputs beyond which its head is scaled down."""
Status = Literal["passed", "failed", "not compared", "not run"]


@dataclass(frozen=True)
class SweepResult:
    """What the sweep found out about one network.

    Attributes:
        network: "source/name".
        status: "not run" where the oracle is absent, then ``why`` tells it.
        why: the error, or the first divergent layer.
        oracle: name and version of who computed the other side.
        probes, inputs: probes compared over all inputs, and how many inputs.
        worst, worst_rms, worst_probe: largest error over the rounding floor (max and rms), and where the first is.
        oracle_rows, matched, boundary, unexplained: detections over all inputs: the oracle's, those paired with the
            reference's, one-sided ones that hang on a decision within rounding, and those that nothing explains.
        tensors, identical: stored tensors compared with the source file, and those that are bit-identical.
        back, back_identical: tensors of the file written back, and those that are bit-identical with the source file's.
        links: what the comparison rests on, basis by link ("" where nobody says).
        headline: what that bears.
        seed: of weights and inputs.
        versions: of all libraries at work.
        commit: the project's commit, "+" behind it where files had been changed; "" where unknown.
        seconds: wall time.
    """

    network: str
    status: Status
    why: str = ""
    oracle: str = ""
    probes: int = 0
    inputs: int = 0
    worst: float = 0.0
    worst_rms: float = 0.0
    worst_probe: str = ""
    oracle_rows: int = 0
    matched: int = 0
    boundary: int = 0
    unexplained: int = 0
    tensors: int = 0
    identical: int = 0
    back: int = 0
    back_identical: int = 0
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    seconds: float = 0.0
    links: dict[str, str] = field(default_factory=dict)
    headline: str = ""

    @property
    def round_trip(self) -> bool:
        """Whether the file written back holds the source file's tensors, all of them, bit for bit."""
        return self.back > 0 and self.back == self.back_identical

    def to_json(self) -> str:
        """The result as one line of JSON."""
        return msgspec.json.encode(self).decode()


def sweep_one(name: str, *, seed: int = 0, commit: str = "", progress: Progress | None = None) -> SweepResult:
    """Check one network at full size.

    Args:
        name: "source/network".
        seed: of weights, picture and noise.
        commit: for the record.
        progress: as ``verify``'s.

    Raises:
        UsageError: no such network.
    """
    started = time.perf_counter()
    config = network(name)
    known = {"seed": seed, "versions": versions(), "commit": commit}
    try:
        with tempfile.TemporaryDirectory(prefix="ssdconv-sweep-") as folder:
            found = _checked(config, Path(folder), seed, progress)
    except (MissingError, UsageError) as error:
        found = {"status": "not run", "why": error.what}
    except SsdconvError as error:
        found = {"status": "failed", "why": str(error).splitlines()[0]}
    return SweepResult(network=name, seconds=time.perf_counter() - started, **known, **found)  # type: ignore[arg-type]


def _checked(config: SSDConfig, folder: Path, seed: int, progress: Progress | None) -> dict[str, Any]:
    kind = source_named(config.source)
    written = kind.module.write(config, calibrated_tensors(config, seed), folder / f"x{kind.suffixes[0]}", Request())
    prototxt = next((path for path in written if path.suffix == ".prototxt"), None)
    checkpoint = folder / "converted.safetensors"
    order = config.pixels.order if config.source == "pytorch" else None
    convert(
        written[0],
        checkpoint,
        source=config.source,
        network=None if prototxt else config.name,
        prototxt=prototxt,
        channel_order=order,
        digests=False,
    )
    report = verify(checkpoint, written[0], prototxt=prototxt, seed=seed, progress=progress)
    back = reverse(checkpoint, folder / f"y{kind.suffixes[0]}", config.source)
    count, same = compare_files(config.source, written[0], back.outputs[0])
    found = figures(report) | {"back": count, "back_identical": same}
    if report.passed and count != same:
        found |= {"status": "failed", "why": f"{count - same} tensors of the file written back differ"}
    return found


def figures(report: ParityReport) -> dict[str, Any]:
    """The figures of a parity report that a sweep keeps."""
    every = [probe for result in report.inputs for probe in result.probes]
    worst = max(every, key=lambda p: (bool(p.problem), p.ratio))
    counts = detection_counts(report.inputs)
    tensors = report.tensors
    return {
        "status": report.outcome,
        "why": _why(report),
        "oracle": report.oracle,
        "probes": report.probes,
        "inputs": len(report.inputs),
        "worst": worst.ratio,
        "worst_rms": max(p.rms_ratio for p in every),
        "worst_probe": worst.source,
        "oracle_rows": counts["oracle"],
        **{name: counts[name] for name in ("matched", "boundary", "unexplained")},
        "tensors": tensors.compared if tensors is not None else 0,
        "links": {row.link: row.basis or "" for row in report.links},
        "headline": report.headline,
        "identical": tensors.compared - len(tensors.different) if tensors is not None else 0,
    }


def _why(report: ParityReport) -> str:
    if report.outcome == "not compared":
        return "; ".join(f"{gap.part}: {gap.reason}" for gap in report.gaps)
    return "" if report.passed else f"first divergent: {report.first_divergent}"


def compare_files(source: str, mine: Path, theirs: Path) -> tuple[int, int]:
    """Tensors of either of two files of one source, and how many of them are the same in both: name, type, shape, bits."""
    module = source_named(source).module
    with module.read(located(mine)) as a, module.read(located(theirs)) as b:
        names = {**a, **b}
        same = sum(name in a and name in b and _bits(a[name].load()) == _bits(b[name].load()) for name in names)
        return len(names), same


def _bits(array: Array) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


def cached(folder: Path, name: str, seed: int = 0) -> SweepResult | None:
    """The stored result of a network for the versions at work here; None where there is none, or it was not run."""
    path = cache_path(folder, name, seed)
    try:
        held = msgspec.json.decode(path.read_bytes(), type=SweepResult)
    except (OSError, msgspec.DecodeError):
        return None
    return held if held.status != "not run" else None


def cache_path(folder: Path, name: str, seed: int = 0) -> Path:
    """Where a network's result is kept; another set of versions has another file."""
    judges = sorted(versions().items())
    if name.startswith("caffe/") and state("caffe").installed:  # another oracle than without it
        judges.append(("caffe", environment("caffe").folder.name))
    key = hashlib.sha256(repr((judges, seed)).encode()).hexdigest()[:12]
    return folder / f"{name.replace('/', '.')}-{key}.json"


def calibrated_tensors(config: SSDConfig, seed: int) -> dict[str, Array]:
    """Reference tensors of a staged config, the same for the same seed up to the rounding of one forward pass."""
    model = SSD(config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in seeded_tensors(config, seed).items()})
    model.eval()
    with torch.no_grad():
        pixels = prepare([synthetic_picture(seed), noise_image(config.pixels.size, seed)], config.pixels)
        _settle_statistics(model, pixels)
        _settle_heads(model, *model(pixels))
        _settle_background(model, model(pixels[:1])[1])
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _settle_statistics(model: nn.Module, pixels: Tensor) -> None:
    """Running mean and variance as offset and factor (as seeded) of what the features have."""
    hooks = [
        module.register_forward_pre_hook(_settled)
        for module in model.modules()
        if isinstance(getattr(module, "running_var", None), Tensor)
    ]
    model(pixels)
    for hook in hooks:
        hook.remove()


def _settled(module: Any, inputs: tuple[Tensor, ...]) -> None:
    x = inputs[0]
    variance = x.var((0, 2, 3), unbiased=False).clamp(min=0.05 * float(x.square().mean()))
    module.running_mean.mul_(variance.sqrt()).add_(x.mean((0, 2, 3)))
    module.running_var.mul_(variance)


def _settle_heads(model: SSD, loc: Tensor, conf: Tensor) -> None:
    for word, values in (("loc", loc), ("conf", conf)):
        start = 0
        for index, one in enumerate(model.config.priors):
            part = values[:, start : start + one.count]
            start += one.count
            spread = max(float(image.std()) for image in part)
            factor = 2.0 ** -max(0, round(math.log2(spread / LARGEST[word])))
            for tensor in _predictor(model, word, index).parameters():
                tensor.mul_(factor)


def _settle_background(model: SSD, conf: Tensor) -> None:
    rule, classes = model.config.detect, model.config.num_classes
    # Without a background class all classes are disfavoured alike.
    change = torch.full((classes,), -1.0) if rule.background is None else torch.zeros(classes)
    if rule.background is not None:
        change[rule.background] = 1.0
    low, high = 0.0, 32.0
    for _ in range(12):
        middle = (low + high) / 2
        passed = scores_of(conf + middle * change, rule.activation) > rule.score_threshold
        if rule.background is not None:
            passed[..., rule.background] = False
        low, high = (middle, high) if int(passed.sum()) > CANDIDATES else (low, middle)
    for index in range(len(model.config.priors)):
        bias = _predictor(model, "conf", index).bias
        assert bias is not None
        bias.view(-1, classes).add_(round(high, 2) * change)


def _predictor(model: SSD, word: str, index: int) -> nn.Conv2d:
    head = model.heads.get_submodule(f"{word}.{index}")
    found = head if isinstance(head, nn.Conv2d) else head.get_submodule("predictor")
    assert isinstance(found, nn.Conv2d)
    return found
