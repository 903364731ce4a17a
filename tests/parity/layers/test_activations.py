"""Probes of a small network against hand-made oracles: complete, in order, nothing held, nothing reshaped."""

from __future__ import annotations

import copy
import gc
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssdconv.errors import MappingError
from ssdconv.parity.layers.activations import Probe, compare
from ssdconv.parity.oracles.base import Outputs


class Net(nn.Module):
    """Two convolutions, a module with two outputs, and heads."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.b = nn.Conv2d(8, 12, 3, stride=2)
        self.cut = Cut()
        self.unused = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.cut(self.b(self.act(self.a(x))))
        n = x.shape[0]
        return left.permute(0, 2, 3, 1).reshape(n, -1, 4), right.permute(0, 2, 3, 1).reshape(n, -1, 2)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :4], x[:, 4:]


PROBES = (
    Probe("data", "@input"),
    Probe("loc", "@loc"),  # declared early: results come in order of execution all the same
    Probe("conv_a", "a"),
    Probe("relu_a", "act"),
    Probe("conv_b", "b"),
    Probe("slice:0", "cut:0"),
    Probe("slice:1", "cut:1"),
    Probe("conf", "@conf"),
)


def derive(output: Any) -> dict[str, Tensor]:
    return {"@loc": output[0], "@conf": output[1]}


def outputs_of(net: Net, x: np.ndarray) -> dict[str, np.ndarray]:
    """What an exact oracle that rounds once would print."""
    net, held, pixels = copy.deepcopy(net).double(), {}, torch.from_numpy(x).double()
    with torch.no_grad():
        held["conv_a"] = net.a(pixels)
        held["relu_a"] = net.act(held["conv_a"])
        held["conv_b"] = net.b(held["relu_a"])
        held["slice:0"], held["slice:1"] = net.cut(held["conv_b"])
        loc, conf = net(pixels)
    held |= {"loc": loc.flatten(1), "conf": conf, "data": pixels}
    return {k: v.float().numpy() for k, v in held.items()}


@pytest.fixture
def case() -> tuple[Net, np.ndarray, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    net = Net().eval()
    x = np.random.default_rng(0).uniform(-100, 100, (1, 3, 33, 35)).astype(np.float32)
    return net, x, outputs_of(net, x)


def names(results: Any) -> list[str]:
    return [r.source for r in results]


def test_all_pass_in_order_of_execution(case: Any) -> None:
    net, x, oracle = case
    seen: list[tuple[str, int, int]] = []
    results, heads64, heads32 = compare(
        Outputs(oracle), net, x, PROBES, derive=derive, progress=lambda *a: seen.append(a)
    )
    assert all(results), [r.reason for r in results]
    assert names(results) == ["data", "conv_a", "relu_a", "conv_b", "slice:0", "slice:1", "loc", "conf"]
    assert [s[1:] for s in seen] == [(i + 1, 8) for i in range(8)]
    assert heads64["@loc"].dtype == torch.float64 and heads32["@loc"].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in net.parameters()), "the model given stays as it is"
    assert not any(m._forward_hooks for m in net.modules())


def test_a_probe_the_oracle_lacks_fails(case: Any) -> None:
    net, x, oracle = case
    del oracle["relu_a"]
    results, _, _ = compare(Outputs(oracle), net, x, PROBES, derive=derive)
    bad = [r for r in results if not r]
    assert names(bad) == ["relu_a"] and "has no output 'relu_a'" in bad[0].reason and len(results) == len(PROBES)


@pytest.mark.parametrize("path", ["nowhere", "unused", "@scores"])
def test_a_probe_the_reference_lacks_fails(case: Any, path: str) -> None:
    net, x, oracle = case
    results, _, _ = compare(Outputs(oracle), net, x, (*PROBES, Probe("ghost", path)), derive=derive)
    assert names(r for r in results if not r) == ["ghost"] and path in results[-1].reason


def test_nothing_is_permuted_or_cropped(case: Any) -> None:
    net, x, oracle = case
    oracle["conv_a"] = np.ascontiguousarray(oracle["conv_a"].transpose(0, 1, 3, 2))
    oracle["conv_b"] = oracle["conv_b"][:, :, :-1]
    oracle["slice:0"] = oracle["slice:0"].reshape(1, -1)
    oracle["conf"] = oracle["conf"][:, ::-1].copy()
    results, _, _ = compare(Outputs(oracle), net, x, PROBES, derive=derive)
    bad = {r.source: r for r in results if not r}
    assert list(bad) == ["conv_a", "conv_b", "slice:0", "conf"]
    assert all("shape" in bad[k].reason for k in ("conv_a", "conv_b", "slice:0")) and "floor" in bad["conf"].reason


def test_the_first_divergent_layer_is_the_changed_one(case: Any) -> None:
    net, x, oracle = case
    with torch.no_grad():
        net.b.weight *= 1.0002
    results, _, _ = compare(Outputs(oracle), net, x, PROBES, derive=derive)
    assert names(r for r in results if not r)[0] == "conv_b"
    assert bool(results[1]) and bool(results[2])


def test_a_module_that_runs_twice_is_refused(case: Any) -> None:
    _, x, oracle = case
    twice = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 3, 1), act=nn.ReLU(), c=nn.Conv2d(3, 3, 1), again=nn.ReLU()))
    twice.again = twice.act
    with pytest.raises(MappingError, match="more than once"):
        compare(Outputs(oracle), twice, x, (Probe("relu_a", "act"),), derive=lambda y: {"@loc": y})


def test_a_probe_declared_twice_is_refused(case: Any) -> None:
    net, x, oracle = case
    with pytest.raises(MappingError, match="declared twice"):
        compare(Outputs(oracle), net, x, (Probe("conv_a", "a"), Probe("conv_a", "b")), derive=derive)


def test_an_error_inside_the_network_reaches_the_caller_and_no_thread_stays(case: Any) -> None:
    net, x, oracle = case
    before = threading.active_count()
    net.b = nn.Conv2d(5, 12, 3)
    with pytest.raises(RuntimeError, match="channels"):
        compare(Outputs(oracle), net, x, PROBES, derive=derive)
    assert threading.active_count() == before


@pytest.mark.slow
def test_a_deep_network_is_not_held_in_memory() -> None:
    deep = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(30))).eval()
    x = np.zeros((1, 3, 61, 61), np.float32)
    alive = []

    class Watching(Outputs):
        def take(self, name: str) -> np.ndarray:
            gc.collect()
            held = (o for o in gc.get_objects() if type(o) is Tensor and o.shape == (1, 3, 61, 61))
            alive.append(len({o.data_ptr() for o in held}))
            return super().take(name)

    store = Watching({f"c{i}": x for i in range(30)})
    compare(store, deep, x, [Probe(f"c{i}", str(i)) for i in range(30)], derive=lambda y: {"@loc": y})
    assert store.left == () and len(alive) == 30
    assert max(alive) <= 10, "of 60 outputs in both runs only those of the current layers may be held"
