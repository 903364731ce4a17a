"""A replayed pass computes only what a change touches, and gives what a whole pass gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.parity.diagnose.hypothesis import Net, options
from ssdconv.parity.diagnose.judge import Tape, reach, reachable

Counted = Callable[[], int]


@pytest.fixture
def convolutions(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """How many convolutions have run since the last call."""
    real, count = torch.nn.Conv2d.forward, [0]

    def forward(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return real(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)

    def since() -> int:
        done, count[0] = count[0], 0
        return done

    return since


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(0, 40, (1, 3, 300, 300)).astype(np.float32))


def test_nothing_changed_nothing_computed(bench: Any, pixels: torch.Tensor, convolutions: Counted) -> None:
    net: Net = bench.right("keras/jedol_ssd300_resnet50_voc", 1)
    tape = Tape(net.model(), pixels)
    assert convolutions() > 60
    loc, conf = tape.run(net.model(), pixels)
    assert convolutions() == 0, "residual additions make new tensors of equal values"
    assert torch.equal(loc, tape.heads[0]) and torch.equal(conf, tape.heads[1])


def test_a_changed_tensor_costs_its_layer_and_what_follows(
    bench: Any, pixels: torch.Tensor, convolutions: Counted
) -> None:
    net: Net = bench.right("caffe/ssd300_voc", 2)
    tape, name = Tape(net.model(), pixels), "backbone.conv5_2.conv.weight"
    changed = net.with_tensors({name: net.tensors[name] * np.float32(2)})
    convolutions()
    found = tape.run(changed.model(), pixels, "backbone.conv5_2.conv")
    assert convolutions() == 1
    whole: list[torch.Tensor] = []
    model = changed.model()
    model.get_submodule("backbone.conv5_2.conv").register_forward_hook(lambda m, i, o: whole.append(o))
    with torch.inference_mode():
        model(pixels)
    assert torch.equal(found, whole[0])


def test_a_changed_setting_is_seen(bench: Any, pixels: torch.Tensor, convolutions: Counted) -> None:
    net: Net = bench.right("caffe/ssd300_voc", 3)
    tape = Tape(net.model(), pixels)
    changed = options(fc6_dilation=3)(net).model()
    convolutions()
    found = tape.run(changed, pixels, "backbone.fc6.conv")
    assert convolutions() == 1
    same = tape.run(net.model(), pixels, "backbone.fc6.conv")
    assert convolutions() == 0 and found.shape == same.shape and not torch.equal(found, same)


def test_a_changed_input_is_seen(bench: Any, pixels: torch.Tensor) -> None:
    net: Net = bench.right("caffe/ssd300_voc", 4)
    tape = Tape(net.model(), pixels)
    with torch.inference_mode():
        loc, _ = net.model()(pixels * 0.5)
    assert torch.equal(tape.run(net.model(), pixels * 0.5)[0], loc)


def test_reachable_layers_stop_at_what_agrees() -> None:
    order = [
        "a.conv",
        "a.act",
        "b.pad",
        "b.conv",
        "heads.l2norm.0",
        "heads.loc.0",
        "heads.conf.0",
        "heads.loc.1",
        "heads.conf.1",
    ]
    assert reachable(order, "b.conv", {"a.conv", "a.act"}) == ["b.pad", "b.conv"]
    assert reachable(order, "b", {"a"}) == ["b.pad", "b.conv"]
    assert reachable(order, "@conf", {"a", "b"}) == order[4:]
    assert reachable(order, "heads.conf.1", {"a", "b", "heads.loc.1"}) == [
        "heads.l2norm.0",
        "heads.loc.0",
        "heads.conf.0",
        "heads.conf.1",
    ]


def test_reach_gives_roles(bench: Any) -> None:
    from ssdconv.parity.diagnose.judge import whole

    right = bench.right("keras/ssd_keras_ssd300_voc", 5)
    wrong = bench.wrong(
        right, lambda c, t: (c, t | {"backbone.conv1_1.conv.bias": t["backbone.conv1_1.conv.bias"] + 1})
    )
    truth = bench.truth(right, wrong, live=False)
    outcome = whole(wrong, truth.view(0), truth.probes)
    paths, roles, tape = reach(wrong, outcome, outcome.first)
    assert paths == ["backbone.conv1_1.conv"] and roles == {"conv", "first"} and tape is not None
    assert reach(wrong, outcome, 0)[1] == {"input"}
    assert reach(wrong, outcome, len(outcome.probes))[1] == {"detections"}
