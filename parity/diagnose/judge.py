"""How far a suspect network agrees with the truth on one input: the whole network, or one place of it as cheaply as can be.

For one place a ``Tape`` holds every layer's input and output of one float32 pass. A changed network is run against it: a layer with
the same parameters and settings that gets the recorded input gives its recorded output. So a trial at one layer costs about that layer.
``reach`` says which layers can be the reason that a probe differs while the ones before it agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssdconv.errors import SsdconvError
from ssdconv.parity.diagnose.hypothesis import Net, Role
from ssdconv.parity.diagnose.sides import ExpectedRun
from ssdconv.parity.layers.activations import Heads, Probe, compare, derived
from ssdconv.parity.layers.detections import Rows, compare_detections
from ssdconv.parity.layers.results import DetectionResult, ProbeResult
from ssdconv.parity.layers.tolerance import HALF_ULP, MAX_RATIO, TINY, Array
from ssdconv.parity.oracles.base import Outputs
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.postprocess import scores_of
from ssdconv.ssd_ref.preprocess import prepare
from ssdconv.ssd_ref.priors import Priors

Signature = tuple[Any, ...]
SIMPLE = (int, float, str, bool, tuple, type(None))
DETECTIONS = "detections"
WORST = 1e300
PAIRED = 400
MATCHED, FEW = 0.8, 4
"""Least share of the detections that must be paired, but for a few."""
RELATIVE_FLOOR = 1e-6
"""Where a probe has no floor of its own (its shape was wrong): what float32 costs a deep layer, relative to its values."""
_GRAPH_ROLES: dict[str, Role] = {
    "Convolution": "conv",
    "InnerProduct": "conv",
    "Deconvolution": "conv",
    "Pooling": "pool",
    "BatchNorm": "norm",
    "Scale": "norm",
    "Normalize": "l2norm",
    "ReLU": "act",
}


@dataclass(frozen=True)
class WholeRun:
    """The whole network on one input.

    Attributes:
        probes: every probe, in order of execution.
        heads64, heads32: ``@`` values of the float64 and float32 runs.
        found: detections compared; None where the truth has none.
        pixels: what was fed to the suspect.
    """

    probes: tuple[ProbeResult, ...]
    heads64: Heads
    heads32: Heads
    found: DetectionResult | None
    pixels: Array

    @property
    def first(self) -> int | None:
        """Place of the first divergent probe; ``len(probes)`` for the detections; None where all agree."""
        for index, probe in enumerate(self.probes):
            if not probe:
                return index
        return len(self.probes) if missed(self.found) else None

    @property
    def name(self) -> str | None:
        """Source name of the first divergent probe."""
        first = self.first
        return None if first is None else DETECTIONS if first == len(self.probes) else self.probes[first].source


def whole(net: Net, view: ExpectedRun, probes: Sequence[Probe], *, always: bool = True) -> WholeRun:
    """Run the suspect in float32 and float64 and compare every probe and the detections.

    Args:
        net, view, probes: what is compared.
        always: compare detections even where layers differ already.

    Raises:
        SsdconvError, RuntimeError: the suspect cannot be run.
    """
    model = net.model()
    pixels = own_pixels(net, view)
    outputs = Outputs(dict(view.outputs))
    results, heads64, heads32 = compare(outputs, model, pixels, probes, derive=partial(derived, net.config))
    found = _detections(net, view, heads64, heads32) if always or all(results) else None
    return WholeRun(results, heads64, heads32, found, pixels)


def own_pixels(net: Net, view: ExpectedRun) -> Array:
    """The view's image as the network prepares it."""
    pixels: Array = prepare([view.image], net.config.pixels).numpy()
    return pixels


def _detections(net: Net, view: ExpectedRun, heads64: Heads, heads32: Heads) -> DetectionResult | None:
    if view.detections is None or "@conf" not in heads64:
        return None
    rows, config = _best(view.detections, net.config)
    try:
        with torch.inference_mode(), np.errstate(all="ignore"):
            scored = [{**h, "@scores": scores_of(h["@conf"], config.detect.activation)} for h in (heads64, heads32)]
            return compare_detections(config, rows, *scored)
    except (RuntimeError, ValueError, IndexError) as error:
        return DetectionResult(len(rows[0]), problem=str(error).splitlines()[0])


def _best(rows: tuple[Rows, ...], config: SSDConfig) -> tuple[tuple[Rows, ...], SSDConfig]:
    """At most about ``PAIRED`` rows of the truth, by raising the score threshold on both sides.

    Pairing takes time with the square of their number, and some rules (ChainerCV's) know no limit.
    """
    first = rows[0]
    if len(first) <= PAIRED:
        return rows, config
    best = np.sort(first.scores)[::-1]
    threshold = max(float(best[PAIRED - 1] + best[PAIRED]) / 2, config.detect.score_threshold)
    kept = first.scores > threshold
    rule = replace(config.detect, score_threshold=threshold)
    return (Rows(first.labels[kept], first.scores[kept], first.boxes[kept]),), replace(config, detect=rule)


def missed(found: DetectionResult | None) -> float:
    """How far detections are from agreeing, as an excess: 0 where they agree, above 1 where they do not.

    One-sided rows that rounding at a limit (keep_top_k) could explain are accepted in small number only: where most rows are
    one-sided, the limit is not the reason.
    """
    if found is None:
        return 0.0
    if found.problem:
        return WORST
    if found.unexplained:
        return 1.0 + found.unexplained
    most = max(found.oracle, found.reference)
    return 0.0 if found.matched >= MATCHED * most - FEW else 1.0 + len(found.one_sided)


def excess_of(probe: ProbeResult) -> float:
    """The probe's error over its limit, finite."""
    return WORST if probe.problem else float(min(np.nan_to_num(probe.excess, nan=WORST), WORST))


def local(net: Net, view: ExpectedRun, outcome: WholeRun, index: int, tape: Tape | None) -> float:
    """Error over the limit at one probe after a change, computing as little as possible; above 1 fails.

    Args:
        net: the changed network.
        view: the truth.
        outcome: of the network before the change.
        index: place of the probe in ``outcome``.
        tape: of the network before the change, fed with ``outcome.pixels``.
    """
    if index == len(outcome.probes):
        return missed(_detections(net, view, outcome.heads64, outcome.heads32))
    probe = outcome.probes[index]
    theirs = view.outputs.get(probe.source)
    if theirs is None:
        return WORST
    try:
        mine = _value(net, view, outcome, probe.reference, tape)
    except (SsdconvError, RuntimeError, ValueError, IndexError, TypeError):
        return WORST
    return _excess(theirs, mine, probe)


def _value(net: Net, view: ExpectedRun, outcome: WholeRun, reference: str, tape: Tape | None) -> Array:
    if reference == "@input":
        return own_pixels(net, view)
    if reference == "@priors":
        rows: Array = Priors.of(net.config.priors, net.config.pixels.size).rows().numpy()
        return rows
    with torch.inference_mode():
        if reference == "@scores":
            scores: Array = scores_of(outcome.heads32["@conf"], net.config.detect.activation).numpy()
            return scores
        assert tape is not None
        model, pixels = net.model(), torch.as_tensor(outcome.pixels)
        if reference.startswith("@"):
            loc, conf = tape.run(model, pixels)
            head: Array = (loc if reference == "@loc" else conf).numpy()
            return head
        layer: Array = tape.run(model, pixels, reference).numpy()
        return layer


def _excess(theirs: Array, mine: Array, probe: ProbeResult) -> float:
    """Both ratios of ``parity.layers.tolerance`` from one float32 run: its own rounding adds 1 to the limits."""
    if theirs.ndim == mine.ndim - 1 and probe.reference.startswith("@"):
        mine = mine.reshape(mine.shape[0], -1)
    if theirs.shape != mine.shape:
        return WORST
    m, floor = probe.measured, probe.floor
    size, rms_size = (max(float(v), TINY) for v in (np.abs(theirs).max(initial=0.0), _rms(theirs)))
    limit = floor.max / m.magnitude if m.magnitude > 0 and not probe.problem else RELATIVE_FLOOR
    rms_limit = floor.rms / m.magnitude_rms if m.magnitude_rms > 0 and not probe.problem else RELATIVE_FLOOR
    error = theirs.astype(np.float64) - mine
    worst = float(np.abs(error).max(initial=0.0)) / (max(limit, HALF_ULP) * size * (MAX_RATIO + 1))
    spread = _rms(error) / (max(rms_limit, HALF_ULP) * rms_size * (m.rms_limit + 1))
    value = max(worst, spread)
    return min(value, WORST) if np.isfinite(value) else WORST


def _rms(array: Array) -> float:
    flat = array.reshape(-1).astype(np.float64)
    return float(np.sqrt(flat @ flat / flat.size)) if flat.size else 0.0


def reach(net: Net, outcome: WholeRun, place: int) -> tuple[list[str], set[Role], Tape | None]:
    """Layers that can make a probe differ while all before it agree, their roles, and a tape to replay; none behind the heads.

    Args:
        net: the network that ``outcome`` is of.
        place: of the probe; behind the last one stand the detections.
    """
    if place == len(outcome.probes):
        seen = any(p.reference == "@priors" for p in outcome.probes)
        return [], {"detections"} if seen else {"detections", "priors"}, None
    reference = outcome.probes[place].reference
    fixed: dict[str, set[Role]] = {"@input": {"input"}, "@priors": {"priors"}, "@scores": {"scores"}}
    if reference in fixed:
        return [], fixed[reference], None
    model = net.model()
    tape = Tape(model, torch.as_tensor(outcome.pixels))
    passed = {p.reference.split(":")[0] for p in outcome.probes if p}
    paths = reachable(tape.order, reference, passed)
    return paths, roles_of(model, paths, tape.order), tape


def reachable(order: Sequence[str], reference: str, passed: Collection[str]) -> list[str]:
    """Layers without children whose mistakes can show first at a probe.

    Args:
        order: all layers as they ran.
        reference: the probe's module path, or ``@loc`` / ``@conf``.
        passed: modules whose outputs agree.

    Returns:
        The probe's own layers and those before it that nothing has shown to agree. A layer in front of one that agrees counts as
        agreeing only where it runs right before it.
    """
    path = reference.split(":")[0]
    if path.startswith("@"):
        end = len(order) - 1
    else:
        within = [i for i, p in enumerate(order) if p == path or p.startswith(f"{path}.")]
        end = max(within, default=len(order) - 1)
    agreed = [i for i in range(end) if _covers(passed, order[i])]
    start = max(agreed, default=-1) + 1
    heads = [p for p in order[:start] if p.startswith("heads.") and not _covers(passed, p)]
    return [*heads, *(p for p in order[start : end + 1] if not _covers(passed, p))]


def _covers(passed: Collection[str], path: str) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:n]) in passed for n in range(1, len(parts) + 1))


def roles_of(model: nn.Module, paths: Sequence[str], order: Sequence[str]) -> set[Role]:
    """The roles of these layers."""
    roles: set[Role] = set()
    first = next((p for p in order if isinstance(model.get_submodule(p), nn.Conv2d)), "")
    for path in paths:
        module = model.get_submodule(path)
        kind = type(module).__name__
        if isinstance(module, nn.Conv2d):
            roles.add("loc" if ".loc." in path else "conf" if ".conf." in path and "heads." in path else "conv")
            if path == first:
                roles.add("first")
        elif ("Norm" in kind and kind != "L2Norm" and kind != "Normalize") or kind in ("Standardize", "ChannelAffine"):
            roles.add("norm")
        elif kind in ("L2Norm", "Normalize"):
            roles.add("l2norm")
        elif "Pool" in kind:
            roles.add("pool")
        elif "ReLU" in kind or kind == "ELU":
            roles.add("act")
        elif kind == "SamePad":
            roles |= {"conv", "pool"}
        role = _GRAPH_ROLES.get(kind)
        if role is not None:
            roles.add(role)
    return roles


class Tape:
    """Recorded layers of one pass.

    Args:
        model: in float32 and eval mode.
        pixels: (1, 3, H, W).

    Attributes:
        order: paths of the layers without children, as they ran.
        heads: the model's output.
    """

    def __init__(self, model: nn.Module, pixels: Tensor) -> None:
        self.order: list[str] = []
        self._layers: dict[str, tuple[Signature, tuple[Any, ...], Any]] = {}
        handles = [
            module.register_forward_hook(partial(self._record, path))
            for path, module in model.named_modules()
            if path and not any(True for _ in module.children())
        ]
        try:
            with torch.inference_mode():
                self.heads: Any = model(pixels)
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.order.append(path)
        self._layers[path] = (signature(module), args, output)

    def run(self, model: nn.Module, pixels: Tensor, until: str | None = None) -> Any:
        """The output of the module ``until`` (``path:1`` for its second), or of the whole model.

        Args:
            model: built for this one run: its layers are replaced.
            pixels: what is fed to it.
            until: path of a module.
        """
        for path, module in model.named_modules():
            if path and not any(True for _ in module.children()):
                module.forward = partial(self._step, path, module, module.forward)
        path, _, index = (until or "").partition(":")
        if path:
            model.get_submodule(path).register_forward_hook(_stop)
        try:
            with torch.inference_mode():
                return model(pixels)
        except _Reached as reached:
            output = reached.output
            return output[int(index or 0)] if isinstance(output, tuple | list) else output

    def _step(self, path: str, module: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
        entry = self._layers.get(path)
        if entry is not None and len(args) == len(entry[1]) and entry[0] == signature(module):
            same = all(
                a is b or (a.shape == b.shape and torch.equal(a, b)) for a, b in zip(args, entry[1], strict=True)
            )
            if same:
                return entry[2]
        return forward(*args)


def signature(module: nn.Module) -> Signature:
    """What a layer computes: its kind, settings, and the memory of its parameters."""
    simple = tuple(sorted((k, repr(v)) for k, v in vars(module).items() if isinstance(v, SIMPLE) and k != "training"))
    held = tuple(t.data_ptr() for t in (*module.parameters(), *module.buffers()))
    params = getattr(module, "p", None)
    return type(module), simple, held, repr(getattr(params, "data", None))


class _Reached(Exception):  # noqa: N818
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(_: nn.Module, __: Any, output: Any) -> None:
    raise _Reached(output)
