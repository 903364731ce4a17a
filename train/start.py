"""What a training starts from: the network for a data set's classes, a file's values where there is one, drawn values elsewhere.

Every drawn tensor has a random generator of its own, seeded by the run's seed and its name: a network with one layer more, or
with other heads, starts from the same values everywhere else. Formulas: caffe/include/caffe/filler.hpp, MXNet
initializer.py, chainer/initializers, torch.nn.init.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.backbones.sequential import InputScale
from ssdconv.ssd_ref.classes import BACKGROUND
from ssdconv.ssd_ref.config import Graph, LayerSpec, Postprocess, SSDConfig, Staged
from ssdconv.ssd_ref.graph.convolution import CONVOLUTIONS
from ssdconv.ssd_ref.graph.network import GraphLayer
from ssdconv.ssd_ref.graph.normalization import Normalize
from ssdconv.ssd_ref.graph.operation import module_name
from ssdconv.ssd_ref.layers import BatchNorm, L2Norm, Standardize
from ssdconv.ssd_ref.model import SSD
from ssdconv.train.optimizer import named_roles
from ssdconv.train.recipe import InitSpec, Kernel, Recipe


@dataclass(frozen=True)
class Start:
    """Where the values come from.

    Attributes:
        source: file, or "" for none.
        kept: tensors that the file brought.
        renewed: tensors that the file has too, but for other classes.
        drawn: parameters that the recipe's initialisers set, the renewed ones among them.
    """

    source: str
    kept: tuple[str, ...]
    renewed: tuple[str, ...]
    drawn: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for the user."""
        if not self.source:
            return f"from scratch: {len(self.drawn)} tensors drawn by the recipe's initialisers"
        new = (
            f", {len(self.renewed)} renewed for the new classes ({', '.join(self.renewed[:3])}, …)"
            if self.renewed
            else ""
        )
        others = len(self.drawn) - len(set(self.renewed) & set(self.drawn))
        return f"{self.source}: {len(self.kept)} tensors kept{new}" + (f", {others} others drawn" if others else "")

    def to_json(self) -> dict[str, object]:
        """JSON-ready data."""
        return asdict(self)


def begin(
    model: SSD,
    recipe: Recipe,
    seed: int,
    tensors: Mapping[str, Tensor] | None = None,
    renew: Sequence[str] = (),
    source: str = "",
) -> Start:
    """Fill a network with its starting values, in place.

    Args:
        model: on the CPU.
        recipe: its initialisers.
        seed: of what is drawn.
        tensors: by the model's names; a whole detector, or a backbone alone.
        renew: prefixes of names that are not taken from ``tensors``.
        source: for messages.

    Raises:
        MappingError: a tensor that the model does not have, or of another shape.
    """
    held = dict(tensors or {})
    own = model.state_dict()
    renewed = tuple(name for name in held if name.startswith(tuple(renew)) and renew)
    kept = {name: t for name, t in held.items() if name not in renewed}
    for name, tensor in kept.items():
        if name not in own or own[name].shape != tensor.shape:
            raise MappingError(
                f"tensor {name!r} does not fit the network",
                where=source or None,
                expected=tuple(own[name].shape) if name in own else "no such tensor",
                got=tuple(tensor.shape),
            )
    drawn = initialise(model, recipe.init, seed, skip=kept)
    if kept:
        model.load_state_dict({n: t.to(own[n].dtype) for n, t in kept.items()}, strict=False)
    return Start(source, tuple(kept), renewed, tuple(drawn))


def initialise(
    model: nn.Module, spec: InitSpec, generator: torch.Generator | int, skip: Container[str] = ()
) -> list[str]:
    """Give every parameter its starting value.

    Kernels and biases as the recipe says, gamma 1, beta 0, the L2Norm scale, and GluonCV's constant input scale.

    Args:
        model: an SSD, on any device; values are drawn on the CPU in float32.
        spec: of the recipe.
        generator: its initial seed counts, not its state; or a seed.
        skip: names that stay as they are: those that a file brought.

    Returns:
        Names of the parameters that were set.
    """
    seed = generator if isinstance(generator, int) else generator.initial_seed()
    done = []
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, InputScale) and bool((module.scale == 1).all()):
                std = torch.tensor(model.config.pixels.std)  # type: ignore[union-attr]
                module.scale.copy_(std.view(1, 3, 1, 1) * 255.0)
        fans: dict[str, int] = {}
        for name, parameter, role in named_roles(model, fixed=True):
            path = name.rpartition(".")[0]
            if role == "weight" and parameter.dim() > 1:
                fans[path] = _fans(parameter)[0]
            if name in skip:
                continue
            if role == "weight" and parameter.dim() > 1:
                kind = spec.heads if spec.heads is not None and _is_head(name) else spec.kernel
                parameter.copy_(_kernel(kind, parameter, _generator(seed, name)))
            elif role == "bias" and spec.kernel == "torch_default" and path in fans:
                bound = 1.0 / math.sqrt(fans[path])
                parameter.copy_(_uniform(parameter, bound, _generator(seed, name)))
            else:
                parameter.fill_({"gamma": 1.0, "scale": spec.l2norm, "beta": 0.0}.get(role, spec.bias))
            done.append(name)
    return done


HEADS = ("heads.loc.", "heads.conf.")


def _is_head(name: str) -> bool:
    return name.startswith(HEADS) or "_mbox_" in name


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _fans(parameter: Tensor) -> tuple[int, int]:
    """(fan in, fan out) of an OIHW or OI kernel."""
    area = math.prod(parameter.shape[2:])
    return parameter.shape[1] * area, parameter.shape[0] * area


def _uniform(like: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(like.shape).uniform_(-bound, bound, generator=generator)


def _kernel(kind: Kernel, like: Tensor, generator: torch.Generator) -> Tensor:
    fan_in, fan_out = _fans(like)
    match kind:
        case "xavier_uniform_fan_in" | "lecun_uniform":
            return _uniform(like, math.sqrt(3.0 / fan_in), generator)
        case "xavier_uniform":
            return _uniform(like, math.sqrt(6.0 / (fan_in + fan_out)), generator)
        case "xavier_uniform_magnitude_2":
            return _uniform(like, math.sqrt(4.0 / (fan_in + fan_out)), generator)
        case "torch_default":
            return _uniform(like, math.sqrt(1.0 / fan_in), generator)
        case "he_normal":
            std = math.sqrt(2.0 / fan_in)
        case "he_normal_fan_out":
            std = math.sqrt(2.0 / fan_out)
        case "normal_001":
            std = 0.01
    return torch.empty(like.shape).normal_(0.0, std, generator=generator)


_PASSING = ("Permute", "Flatten", "Concat", "Reshape", "Dropout", "Split")


def check_trainable(config: SSDConfig) -> None:
    """Raise where the loss of SSD does not fit a network.

    Raises:
        UsageError: scores that are no softmax over background and classes, boxes per class, another box code, no priors.
    """
    rule = config.detect
    wanted = replace(rule, activation="softmax", background=0, share_location=True, code="center_size")
    wanted = replace(wanted, variance_encoded=False)
    if rule != wanted:
        names = [n for n in Postprocess.__dataclass_fields__ if getattr(rule, n) != getattr(wanted, n)]
        raise UsageError(
            "this network cannot be trained with the loss of SSD",
            where=config.name,
            expected=", ".join(f"{n} {getattr(wanted, n)!r}" for n in names),
            got=", ".join(f"{n} {getattr(rule, n)!r}" for n in names),
        )
    if not config.priors:
        raise UsageError("the network's priors are unknown, so nothing can be matched", where=config.name)


def with_classes(config: SSDConfig, classes: Sequence[str]) -> tuple[SSDConfig, tuple[str, ...]]:
    """The network for ``classes`` (without background), and whose tensors have to start anew.

    Returns:
        The config, and prefixes of the names of the class outputs' tensors; none where the network has these very classes,
        in whatever order.

    Raises:
        UsageError: no class, a class twice, or class outputs that cannot be found in a layer graph.
    """
    if not classes or len(set(classes)) < len(classes):
        raise UsageError("a network needs classes, each of its own name", got=", ".join(classes) or "none")
    if config.class_names and set(config.class_names[1:]) == set(classes):
        return config, ()
    count, names = len(classes) + 1, (BACKGROUND, *classes)
    if isinstance(config.layers, Staged):
        return replace(config, num_classes=count, class_names=names), ("heads.conf.",)
    graph = config.layers
    if graph.loc_classes != 1:
        raise UsageError("a network with boxes of their own per class cannot change its classes", where=config.name)
    outputs = _class_outputs(graph, config.name)
    layers = tuple(_changed(s, s.name in outputs, config.num_classes, count) for s in graph.layers)
    tail = tuple(_changed(s, False, config.num_classes, count) for s in graph.tail)
    changed = replace(
        config, num_classes=count, class_names=names, layers=replace(graph, layers=layers, tail=tail, origin=None)
    )
    return changed, tuple(f"layers.{module_name(name)}." for name in sorted(outputs))


def _class_outputs(graph: Graph, where: str) -> set[str]:
    """Names of the convolutions whose outputs are ``graph.conf``."""
    found: set[str] = set()
    todo = [(graph.conf, len(graph.layers))]
    while todo:
        blob, before = todo.pop()
        place = next((i for i in range(before - 1, -1, -1) if blob in graph.layers[i].tops), None)
        spec = None if place is None else graph.layers[place]
        if spec is not None and place is not None and spec.type in _PASSING:
            todo += [(bottom, place) for bottom in spec.bottoms]
        elif spec is not None and spec.type in (*CONVOLUTIONS, "Conv2D", "InnerProduct") and not any(spec.shared):
            found.add(spec.name)
        else:
            raise UsageError(
                "the class outputs of this layer graph cannot be changed",
                where=f"{where}, blob {blob!r}",
                expected="convolutions behind reshaping layers",
                got="the input" if spec is None else f"a {spec.type} layer",
            )
    return found


def _changed(spec: LayerSpec, output: bool, before: int, after: int) -> LayerSpec:
    params: dict[str, Any] = dict(spec.params)
    if output:
        word = "filters" if spec.type == "Conv2D" else "num_output"
        params[word] = params[word] // before * after
        blobs = tuple((params[word], *shape[1:]) for shape in spec.blobs)
        return replace(spec, params=params, blobs=blobs)
    if spec.type == "Reshape" and "shape" in params:
        shape = dict(params["shape"])
        shape["dim"] = [after if d == before else d for d in shape.get("dim", ())]
        params["shape"] = shape
    elif params.get("num_classes") == before:
        params["num_classes"] = after
    return replace(spec, params=params)


def training_mode(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Put a network into training mode: ``model.train()``, with running statistics and the L2 norm's gradient by the recipe's rule.

    Batch normalisations of a layer graph always run on their stored statistics.
    """
    model.train()
    for module in model.modules():
        part = module.operation if isinstance(module, GraphLayer) else module
        if isinstance(part, L2Norm | Normalize):
            part.outside = recipe.norm.scales == "outside"
        if isinstance(module, BatchNorm | Standardize):
            module.momentum = recipe.norm.share
            if isinstance(module, BatchNorm):
                module.biased = recipe.norm.variance == "biased"
            if recipe.norm.frozen:
                module.eval()
        elif isinstance(module, GraphLayer) and module.operation.statistics:
            module.eval()
    return model
