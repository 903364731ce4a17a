"""The update rules of the sources.

========================  ====================================  ==================================================
``velocity``              rule (g holds the weight decay)       who
========================  ====================================  ==================================================
``lr_inside``             v = m v + lr g;  w = w - v            Caffe, Chainer, MXNet, Keras
``lr_outside``            v = m v + g;     w = w - lr v         PyTorch, TensorFlow's MomentumOptimizer
RMSProp                   h = r h + (1 - r) g²;                 Caffe's RMSPropSolver
                          w = w - lr g / (sqrt(h) + eps)
========================  ====================================  ==================================================

The first two are equal while the rate is; after a drop the velocity of the first still carries the old rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, RMSprop

from ssdconv.train.groups import parameter_groups
from ssdconv.train.recipe import Recipe


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
