"""What a diagnosis works on: a network as data, the roles of its tensors, and a hypothesis, one known mistake with what undoes it.

Nets are never changed: a ``Change`` makes another one that shares the arrays. The changes that hypotheses about layers share stand at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from ssdconv.parity.diagnose.result import Cause, Kind
from ssdconv.parity.layers.tolerance import Array
from ssdconv.ssd_ref.checkpoint import Checkpoint, build
from ssdconv.ssd_ref.config import ConvSpec, Graph, LayerSpec, NormSpec, Preprocess, SSDConfig, Staged
from ssdconv.ssd_ref.model import SSD

Role = Literal[
    "input", "first", "conv", "bias", "pool", "norm", "l2norm", "act", "loc", "conf", "priors", "scores", "detections"
]


@dataclass(frozen=True)
class Net:
    """One state of a network; changes make new ones that share the arrays.

    Attributes:
        config: the network.
        tensors: reference name -> array, as stored.
    """

    config: SSDConfig
    tensors: Mapping[str, Array]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Net:
        """The network of a checkpoint; half precision becomes float32, which loses nothing."""
        held = {
            n: t.float() if t.is_floating_point() and t.element_size() < 4 else t
            for n, t in checkpoint.state_dict.items()
        }
        return cls(checkpoint.config, {n: writable(t.numpy()) for n, t in held.items()})

    def model(self) -> SSD:
        """The network in float32 and eval mode, on the CPU.

        Raises:
            FormatError: the tensors are not the ones that the config describes.
        """
        state = {n: torch.from_numpy(a) for n, a in self.tensors.items()}
        return build(Checkpoint(self.config, state), heads=False)

    def with_tensors(self, changed: Mapping[str, Array]) -> Net:
        """With some tensors replaced."""
        return replace(self, tensors={**self.tensors, **{n: writable(a) for n, a in changed.items()}})

    def with_pixels(self, pixels: Preprocess) -> Net:
        """With other pixels."""
        return replace(self, config=replace(self.config, pixels=pixels))

    def with_staged(self, change: Callable[[Staged], Staged]) -> Net:
        """With other layers; a layer graph stays as it is."""
        if isinstance(self.config.layers, Graph):
            return self
        return replace(self, config=replace(self.config, layers=change(self.config.layers)))


def writable(array: Array) -> Array:
    """The array in memory that torch accepts: C order, writable, native bytes."""
    if array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative:
        return array
    return np.array(array, array.dtype.newbyteorder("="), order="C")


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, from its name and shape.

    Attributes:
        name, shape: of the reference tensor.
        role: ``first`` for the kernel that reads the image, ``conv``, ``bias``, ``norm``, ``l2norm``, ``loc``, ``conf``.
        blob: last part of the name ("weight", "running_var").
        values: of a head: channels per anchor (4, or the class count), else 0.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    blob: str
    values: int = 0

    @property
    def layer(self) -> str:
        """Path of the module that holds the tensor."""
        return self.name.rpartition(".")[0]


def tensor_specs(net: Net) -> dict[str, TensorSpec]:
    """The spec of every tensor, in order of execution."""
    specs: dict[str, TensorSpec] = {}
    seen_first = False
    for name, array in net.tensors.items():
        role = _role(name, array.ndim)
        if role == "conv" and not seen_first and array.shape[1] == 3:
            role, seen_first = "first", True
        values = {"loc": 4, "conf": net.config.num_classes}.get(role, 0)
        if values and (array.shape[0] % values or not array.shape[0]):
            role, values = ("conv" if array.ndim == 4 else "bias"), 0
        specs[name] = TensorSpec(name, tuple(array.shape), role, name.rpartition(".")[2], values)
    return specs


def _role(name: str, axes: int) -> Role:
    blob = name.rpartition(".")[2]
    in_head = name.startswith("heads.")
    if name.startswith("heads.l2norm."):
        return "l2norm"
    if blob in ("running_mean", "running_var", "mean", "variance", "factor") or ".norm" in name or ".dw." in name:
        return "norm" if axes == 1 else "conv"
    if (in_head and ".loc." in name) or (not in_head and name.startswith("layers.") and "_loc" in name):
        return "loc"
    if (in_head and ".conf." in name) or (not in_head and name.startswith("layers.") and "_conf" in name):
        return "conf"
    if axes == 4:
        return "conv"
    if blob == "bias":
        return "bias"
    return "l2norm" if "norm" in name and name.startswith("layers.") else "norm"


THREADS = "https://github.com/"


@dataclass(frozen=True)
class Mistake:
    """One known mistake.

    Attributes:
        name: stable name.
        title, explanation, where, fix: for the user; see ``result.Cause``.
        kind: what undoing it changes.
        touches: roles of the layers at which it can be the first to show.
    """

    name: str
    title: str
    explanation: str
    where: str
    kind: Kind
    touches: frozenset[Role]
    fix: str = ""

    def cause(self, detail: str = "", probe: str = "") -> Cause:
        """The mistake as found in a network."""
        return Cause(self.name, self.title, self.explanation, self.where, self.kind, detail, probe, self.fix)


Undone = Iterator[tuple[str, Array]]


@dataclass(frozen=True)
class WeightHypothesis(Mistake):
    """A mistake that changes stored tensors.

    ``undo(mine, target, spec)`` yields (detail, array) for each way in which the mistake could have made ``mine`` of
    ``target``; the array equals ``target`` bit for bit where that is so. Mistakes that lose information yield ``target`` itself
    where what is left is unmistakable (all zero, all 20).

    Attributes:
        first: it may be the first of two mistakes on one tensor: its ``undo`` does not need ``target``.
        permutes: it moves values only.
    """

    undo: Callable[[Array, Array, TensorSpec], Undone] = lambda mine, target, spec: iter(())
    first: bool = False
    permutes: bool = False


@dataclass(frozen=True)
class Proposal:
    """One way to undo a mistake in the network at hand: ``change`` gives the network without it."""

    mistake: Mistake
    detail: str
    change: Callable[[Net], Net]

    @property
    def label(self) -> str:
        """Name and detail, for reports."""
        return f"{self.mistake.name}: {self.detail}" if self.detail else self.mistake.name


@dataclass(frozen=True)
class ConfigHypothesis(Mistake):
    """A mistake in the config (layers, priors, detection rule) or in the pixels.

    ``propose(net, truth)`` yields (detail, change) for each way to undo it; ``truth`` is the other side's config where it is known,
    whose values come first.
    """

    propose: Callable[[Net, SSDConfig | None], Iterator[tuple[str, Callable[[Net], Net]]]] = lambda net, truth: iter(())

    def proposals(self, net: Net, truth: SSDConfig | None) -> Iterator[Proposal]:
        """All ways to undo the mistake that would change anything."""
        for detail, change in self.propose(net, truth):
            yield Proposal(self, detail, change)


Change = Callable[[Net], Net]


def options(**values: Any) -> Change:
    """Set keyword arguments of the backbone."""
    return lambda net: net.with_staged(
        lambda s: replace(s, backbone=replace(s.backbone, options={**s.backbone.options, **values}))
    )


def option(net: Net, name: str, default: Any) -> Any:
    """A keyword argument of the backbone."""
    return net.config.layers.options.get(name, default)


def extras(change: Callable[[ConvSpec], ConvSpec]) -> Change:
    """Change every extra layer."""

    def on(staged: Staged) -> Staged:
        stages = tuple(tuple(change(spec) for spec in stage) for stage in staged.extras.stages)
        return replace(staged, extras=replace(staged.extras, stages=stages))

    return lambda net: net.with_staged(on)


def specs(config: SSDConfig | None) -> Iterator[ConvSpec]:
    """All extra layers."""
    for stage in config.layers.extras.stages if config is not None and isinstance(config.layers, Staged) else ():
        yield from stage


def norms(net: Net) -> dict[str, NormSpec]:
    """Batch normalisations by the part of the network that shares one spec: "the backbone", "the extra layers", "the heads"."""
    staged = net.config.layers
    if not isinstance(staged, Staged):
        return {}
    found: dict[str, NormSpec] = {}
    kind, given = staged.backbone.kind, staged.backbone.options
    if kind in ("resnet", "keras_resnet50"):
        found["the backbone"] = NormSpec(given.get("eps", 1e-5 if kind == "resnet" else 1e-3))
    elif given.get("norm") is not None:
        norm = given["norm"]
        found["the backbone"] = norm if isinstance(norm, NormSpec) else msgspec.convert(norm, NormSpec)
    for spec in specs(net.config):
        if spec.norm is not None:
            found.setdefault("the extra layers", spec.norm)
    return found


def set_norms(part: str, fields: Mapping[str, Any]) -> Change:
    """Change the batch normalisations of a part (see ``norms``), or of "every part"."""

    def on_extras(spec: ConvSpec) -> ConvSpec:
        return spec if spec.norm is None else replace(spec, norm=replace(spec.norm, **fields))

    def change(net: Net) -> Net:
        held = norms(net)
        wanted = held if part == "every part" else {part: held[part]}
        if "the backbone" in wanted:
            if "norm" in net.config.layers.options:
                net = options(norm=msgspec.to_builtins(replace(wanted["the backbone"], **fields)))(net)
            elif "eps" in fields:
                net = options(eps=fields["eps"])(net)
        if "the extra layers" in wanted:
            net = extras(on_extras)(net)
        return net

    return change


def graph_layers(net: Net, kinds: Collection[str]) -> list[LayerSpec]:
    """Layers of these Caffe types in a layer graph."""
    return [la for la in net.config.layers.layers if la.type in kinds] if isinstance(net.config.layers, Graph) else []


def set_graph(kinds: Collection[str], only: str | None, params: Mapping[str, Any]) -> Change:
    """Set parameters of a graph's layers of these types, or of the one called ``only``; None takes a parameter away."""

    def changed(layer: LayerSpec) -> LayerSpec:
        if layer.type not in kinds or only not in (None, layer.name):
            return layer
        return replace(layer, params={k: v for k, v in {**layer.params, **params}.items() if v is not None})

    def apply(net: Net) -> Net:
        graph = net.config.layers
        if not isinstance(graph, Graph):
            return net
        layers = tuple(map(changed, graph.layers))
        return replace(net, config=replace(net.config, layers=replace(graph, layers=layers)))

    return apply
