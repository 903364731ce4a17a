"""The update rules of the sources, and which parameter learns how fast and decays how much.

========================  ====================================  ==================================================
``velocity``              rule (g holds the weight decay)       who
========================  ====================================  ==================================================
``lr_inside``             v = m v + lr g;  w = w - v            Caffe, Chainer, MXNet, Keras
``lr_outside``            v = m v + g;     w = w - lr v         PyTorch, TensorFlow's MomentumOptimizer
RMSProp                   h = r h + (1 - r) g²;                 Caffe's RMSPropSolver
                          w = w - lr g / (sqrt(h) + eps)
========================  ====================================  ==================================================

The first two are equal while the rate is; after a drop the velocity of the first still carries the old rate.

Caffe writes ``lr_mult`` and ``decay_mult`` at every blob; ChainerCV scales gradients of biases; Keras regularises kernels
only. A recipe says the same by a parameter's role and name (``ParamRule``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, RMSprop

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.graph.network import GraphLayer
from ssdconv.ssd_ref.layers import ChannelAffine, L2Norm
from ssdconv.train.recipe import ParamRule, Recipe, Role

_AFFINE: tuple[Role, Role] = ("gamma", "beta")
_KERNEL: tuple[Role, Role] = ("weight", "bias")
_SCALE: tuple[Role, Role] = ("scale", "bias")
_CAFFE: dict[str, tuple[Role, Role]] = {"Scale": _AFFINE, "Normalize": _SCALE, "PReLU": _SCALE}


def role_of(module: nn.Module, parameter: str) -> Role:
    """Role of a module's own parameter (``weight``, ``bias``)."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm | ChannelAffine):
        roles = _AFFINE
    elif isinstance(module, L2Norm):
        roles = _SCALE
    elif isinstance(module, GraphLayer):
        roles = _CAFFE.get(module.operation.spec.type, _KERNEL)
    else:
        roles = _KERNEL
    return roles[parameter == "bias"]


def named_roles(model: nn.Module, *, fixed: bool = False) -> Iterator[tuple[str, nn.Parameter, Role]]:
    """(name, parameter, role) of every parameter that can learn, in the model's order; shared ones once.

    ``fixed`` gives those without gradient too.
    """
    for name, parameter in model.named_parameters():
        if fixed or parameter.requires_grad:
            path, _, own = name.rpartition(".")
            yield name, parameter, role_of(model.get_submodule(path), own)


def rule_of(name: str, role: Role, recipe: Recipe) -> ParamRule:
    """The first rule of the recipe that fits; one with multipliers 1 where none does."""
    for rule in recipe.optimizer.rules:
        if role in rule.roles and fnmatchcase(name, rule.names):
            return rule
    return ParamRule()


def parameter_groups(model: nn.Module, recipe: Recipe, lr: float | None = None) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, one per pair of multipliers, in order of first appearance.

    Args:
        model: parameters with ``requires_grad`` False (MXNet's fixed gammas) are in no group.
        recipe: a rule with ``lr`` 0 freezes: such a parameter is in no group either, so it neither learns nor decays.
        lr: base rate instead of the recipe's.

    Returns:
        Dicts with ``params``, ``names``, ``lr`` and ``initial_lr`` (base rate times multiplier), ``weight_decay`` (base
        times multiplier).

    Raises:
        UsageError: nothing is left to learn.
    """
    spec = recipe.optimizer
    base = spec.lr if lr is None else lr
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter, role in named_roles(model):
        rule = rule_of(name, role, recipe)
        if rule.lr == 0:
            continue
        rate, decay = base * rule.lr, spec.weight_decay * rule.decay
        group = groups.setdefault(
            (rate, decay), {"params": [], "names": [], "lr": rate, "initial_lr": rate, "weight_decay": decay}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise UsageError("the recipe freezes every parameter of the network", where=recipe.name)
    return list(groups.values())


def freeze(model: nn.Module, recipe: Recipe) -> list[str]:
    """Switch the gradient off for the parameters that the recipe's rules freeze; their names."""
    frozen = []
    for name, parameter, role in list(named_roles(model)):
        if rule_of(name, role, recipe).lr == 0:
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen


class VelocitySGD(Optimizer):
    """Momentum SGD with the learning rate inside the velocity: ``v = m v + lr (g + decay w)``, ``w = w - v``.

    State: ``velocity`` per parameter. All parameters of a group are updated together (torch's multi-tensor operations).

    Args:
        params: parameters or groups; groups may have their own ``lr``, ``momentum`` and ``weight_decay``.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group["lr"], group["momentum"], group["weight_decay"])
        return loss

    def _update(self, params: list[Tensor], lr: float, momentum: float, decay: float) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        if decay:
            grads = list(torch._foreach_add(grads, params, alpha=decay))
        velocities = []
        for p in params:
            state = self.state[p]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            velocities.append(state["velocity"])
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, grads, alpha=lr)
        torch._foreach_sub_(params, velocities)


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float | None = None) -> Optimizer:
    """The recipe's optimizer over the model's parameters.

    Args:
        model: on its device already; its frozen parameters are left out.
        recipe: update rule and multipliers.
        lr: base rate instead of the recipe's.

    Returns:
        An optimizer whose groups have ``initial_lr``, which ``schedule.set_factor`` multiplies, and ``names``.

    Raises:
        UsageError: the recipe freezes everything.
    """
    spec = recipe.optimizer
    groups = parameter_groups(model, recipe, lr)
    base = spec.lr if lr is None else lr
    if spec.kind == "rmsprop":
        return RMSprop(groups, lr=base, alpha=spec.rho, eps=spec.eps, momentum=spec.momentum)
    if spec.velocity == "lr_inside":
        return VelocitySGD(groups, lr=base, momentum=spec.momentum)
    kinds = {p.device.type for group in groups for p in group["params"]}
    floats = all(p.dtype.is_floating_point for group in groups for p in group["params"])
    return SGD(groups, lr=base, momentum=spec.momentum, fused=floats and kinds <= {"cpu", "cuda"})
