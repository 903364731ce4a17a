"""Values that parameters start from where no file brings them.

Every tensor has a random generator of its own, seeded by the run's seed and its name: a network with one layer more, or
with other heads, starts from the same values everywhere else. Formulas: caffe/include/caffe/filler.hpp, MXNet
initializer.py, chainer/initializers, torch.nn.init.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container

import torch
from torch import Tensor, nn

from ssdconv.ssd_ref.backbones.sequential import InputScale
from ssdconv.train.groups import named_roles
from ssdconv.train.recipe import InitSpec, Kernel

HEADS = ("heads.loc.", "heads.conf.")


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
