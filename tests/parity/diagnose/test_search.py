"""What the search does where there is nothing to find, nothing known to find, or more than that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssdconv.parity.diagnose.configs import TABLE
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.registry import networks

Tensors = dict[str, Any]
EVERY_NETWORK = [f"{row.source}/{row.name}" for row in networks()]
FAST = [
    "caffe/ssd300_voc",
    "caffe/mobilenet_ssd_voc_bn",
    "chainer/ssd300_voc",
    "gluon/ssd_300_mobilenet0.25_voc",
    "keras/jedol_ssd300_resnet50_voc",
    "keras/ssd7",
    "pytorch/torchvision_ssd300_vgg16",
    "tensorflow/hikapok_ssd300_vgg16_voc",
]


def noise(tensors: Tensors, names: Any, level: float) -> Tensors:
    rng = np.random.default_rng(5)
    return tensors | {
        n: (tensors[n] + rng.normal(0, level * tensors[n].std(), tensors[n].shape)).astype(np.float32) for n in names
    }


def noisy(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    return config, noise(tensors, [n for n in tensors if n.endswith("conv.weight")], 0.01)


def elu(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    """A mistake that is on no list."""
    stages = tuple(
        tuple(replace(s, activation="elu") if s.name == "conv7_1" else s for s in stage)
        for stage in config.staged.extras.stages
    )
    return replace(config, layers=replace(config.staged, extras=replace(config.staged.extras, stages=stages))), tensors


def turned(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    """First layer, order and mean for RGB: the same network."""
    own, name = config.pixels, "backbone.conv1_1.conv.weight"
    pixels = replace(own, order="RGB", mean=own.mean[::-1], std=own.std[::-1])
    return replace(config, pixels=pixels), tensors | {name: tensors[name][:, ::-1]}


def channels(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    name = "backbone.conv1_1.conv.weight"
    return config, tensors | {name: tensors[name][:, ::-1]}


@pytest.mark.parametrize("name", FAST)
def test_no_false_alarm(bench: Any, name: str) -> None:
    found = bench(name, seed=300 + FAST.index(name), images=2)
    assert found.verdict == "no difference" and found.passed
    assert not found.causes and not found.trials and found.first_divergent is None
    assert found.before.probes > 20 and not found.before.failed and found.before.tensors_different == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in EVERY_NETWORK if n not in FAST])
def test_no_false_alarm_on_any_network(bench: Any, name: str) -> None:
    found = bench(name, seed=17)
    assert found.verdict == "no difference" and not found.causes


def test_noise_on_many_tensors_is_explained_by_nothing(bench: Any) -> None:
    found = bench("keras/ssd_keras_ssd300_voc", noisy, seed=400)
    assert found.verdict == "unexplained" and not found.causes
    assert found.first_divergent == found.after.first_divergent == "backbone.conv1_1.conv"
    assert any("differ in no known way" in note and "resemble" in note for note in found.notes)
    assert found.seconds < 30


def test_another_training_run_is_told_from_noise(bench: Any) -> None:
    def other(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
        return config, dict(bench.right("keras/ssd_keras_ssd300_voc", 402).tensors)

    found = bench("keras/ssd_keras_ssd300_voc", other, seed=401)
    assert found.verdict == "unexplained" and not found.causes
    assert any("another training run" in note for note in found.notes)


def test_a_mistake_on_no_list_is_located(bench: Any) -> None:
    found = bench("keras/ssd_keras_ssd300_voc", elu, seed=403)
    assert found.verdict == "unexplained" and not found.causes
    assert found.first_divergent == "extras.conv7_1.act" and found.trials
    assert any("stored tensors are equal" in note for note in found.notes)


def test_what_is_left_behind_a_known_cause_is_located(bench: Any) -> None:
    found = bench("keras/ssd_keras_ssd300_voc", channels, elu, seed=404)
    assert found.verdict == "partly explained" and [c.name for c in found.causes] == ["channel-order"]
    assert found.first_divergent == "backbone.conv1_1.conv" and found.after.first_divergent == "extras.conv7_1.act"
    assert found.after.failed < found.before.failed


@pytest.mark.parametrize(("count", "verdict"), [(1, "explained"), (2, "explained"), (3, "unexplained")])
def test_only_a_few_foreign_tensors_count_as_damage(bench: Any, count: int, verdict: str) -> None:
    names = [f"backbone.conv{n}.conv.weight" for n in ("2_1", "3_1", "4_1")][:count]
    found = bench("keras/ssd_keras_ssd300_voc", lambda c, t: (c, noise(t, names, 1.0)), seed=405)
    assert found.verdict == verdict
    assert [c.name for c in found.causes] == (["corrupted-tensor"] * count if verdict == "explained" else [])


def test_a_network_stored_for_the_other_channel_order_is_the_same_network(bench: Any) -> None:
    found = bench("keras/ssd_keras_ssd300_voc", turned, seed=406)
    assert [c.name for c in found.causes] == ["turned-channels"] and "harmless" in found.causes[0].explanation


def test_a_tensor_below_rounding_is_named_by_its_bits(bench: Any) -> None:
    """Gammas that count as 1 change no layer."""

    def unused(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
        name = "extras.extra1_1.norm.weight"
        return config, tensors | {name: np.ones_like(tensors[name])}

    found = bench("gluon/ssd_300_mobilenet0.25_voc", unused, seed=407)
    assert found.before.failed == 0 and found.first_divergent == "extras.extra1_1.norm.weight"
    assert [c.name for c in found.causes] == ["gamma-fixed"] and found.verdict == "explained"
    assert any("no layer differs by more than rounding" in note for note in found.notes)


def test_every_hypothesis_tells_its_story() -> None:
    assert len(TABLE) >= 28
    for name, mistake in TABLE.items():
        assert mistake.name == name and mistake.title and mistake.touches and mistake.fix
        assert mistake.explanation.endswith(".") and len(mistake.explanation) > 40, name
        assert mistake.where.startswith(("https://github.com/", "fact: ")), name
