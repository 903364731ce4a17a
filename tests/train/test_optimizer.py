"""Update rules against literal loops in double precision, over rate changes, and what may not be confused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from ssdconv.train.optimizer import VelocitySGD, make_optimizer
from ssdconv.train.recipe import OptimizerSpec, ParamRule, Recipe, set_factor
from ssdconv.train.recipes import recipe_of

RATES = (1.0, 1.0, 1.0, 0.1, 0.1, 0.0, 0.5, 2.0)
RULES = (ParamRule(("bias",), lr=2.0, decay=0.0), ParamRule(names="1.*", lr=0.3, decay=0.1))


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).double()


def recipe(spec: OptimizerSpec) -> Recipe:
    return replace(recipe_of("caffe"), optimizer=spec)


def gradients(model: nn.Module, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]


def literal(model: nn.Module, spec: OptimizerSpec) -> list[torch.Tensor]:
    """One number after the other, as the formulas of the module's table say."""
    weights = [p.detach().clone() for p in model.parameters()]
    state = [torch.zeros_like(w) for w in weights]
    multipliers = {"0.weight": (1, 1), "0.bias": (2, 0), "1.weight": (0.3, 0.1), "1.bias": (2, 0)}
    for step, factor in enumerate(RATES):
        for name, w, s, g in zip(multipliers, weights, state, gradients(model, step), strict=True):
            rate, decay = spec.lr * multipliers[name][0] * factor, spec.weight_decay * multipliers[name][1]
            for i in range(w.numel()):
                grad = g.view(-1)[i] + decay * w.view(-1)[i]
                if spec.kind == "rmsprop":
                    s.view(-1)[i] = spec.rho * s.view(-1)[i] + (1 - spec.rho) * grad * grad
                    w.view(-1)[i] -= rate * grad / (s.view(-1)[i].sqrt() + spec.eps)
                elif spec.velocity == "lr_inside":
                    s.view(-1)[i] = spec.momentum * s.view(-1)[i] + rate * grad
                    w.view(-1)[i] -= s.view(-1)[i]
                else:
                    s.view(-1)[i] = spec.momentum * s.view(-1)[i] + grad
                    w.view(-1)[i] -= rate * s.view(-1)[i]
    return weights


SPECS = {
    "inside": OptimizerSpec(lr=0.05, weight_decay=0.02, velocity="lr_inside", rules=RULES),
    "outside": OptimizerSpec(lr=0.05, weight_decay=0.02, velocity="lr_outside", rules=RULES),
    "rmsprop": OptimizerSpec("rmsprop", lr=0.05, momentum=0.0, weight_decay=0.02, rho=0.9, eps=0.3, rules=RULES),
}


@pytest.mark.parametrize("name", list(SPECS))
def test_equal_to_a_literal_loop(name: str) -> None:
    model = net()
    wanted = literal(model, SPECS[name])
    optimizer = make_optimizer(model, recipe(SPECS[name]))
    for step, factor in enumerate(RATES):
        set_factor(optimizer, factor)
        for p, g in zip(model.parameters(), gradients(model, step), strict=True):
            p.grad = g
        optimizer.step()
    for p, w in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-14)


def test_the_rules_differ_once_the_rate_changes() -> None:
    inside, outside = (literal(net(), SPECS[k])[0] for k in ("inside", "outside"))
    assert (inside - outside).abs().max() > 1e-3


def test_a_resumed_run_is_the_same_to_the_last_bit() -> None:
    spec = SPECS["inside"]
    whole, first = net(), net()
    runs = [(whole, make_optimizer(whole, recipe(spec))), (first, make_optimizer(first, recipe(spec)))]
    for step, factor in enumerate(RATES):
        if step == 4:
            second = copy.deepcopy(first)
            resumed = make_optimizer(second, recipe(spec))
            resumed.load_state_dict(copy.deepcopy(runs[1][1].state_dict()))
            runs[1] = (second, resumed)
        for model, optimizer in runs:
            set_factor(optimizer, factor)
            for p, g in zip(model.parameters(), gradients(model, step), strict=True):
                p.grad = g
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), runs[1][0].parameters(), strict=True))


def test_which_rule_for_which_source() -> None:
    kinds = {
        name: type(make_optimizer(net(), recipe_of(name))).__name__ for name in ("gluon", "keras", "caffe-mobilenet")
    }
    assert kinds == {"gluon": "VelocitySGD", "keras": "SGD", "caffe-mobilenet": "RMSprop"}
    assert {g["lr"] for g in make_optimizer(net(), recipe_of("caffe"), lr=0.5).param_groups} == {0.5, 1.0}


def test_a_parameter_without_gradient_stays_and_decays_not() -> None:
    model = net()
    before = model[1].weight.detach().clone()
    optimizer = VelocitySGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    assert optimizer.step(lambda: 7.0) == 7.0
    assert torch.equal(model[1].weight, before)
    assert "velocity" not in optimizer.state[model[1].weight]
