"""Training steps against live ChainerCV and GluonCV, and seeded faults that must be found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.oracles.environments import install
from ssdconv.parity.oracles.worker import Worker
from ssdconv.parity.steps.compare import oracle_trace, step_parity
from ssdconv.parity.steps.reference import StepBatch, StepPlan, Trace, made_batch
from ssdconv.ssd_ref.boxes import to_corners
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.train.loss import Loss, multibox_loss
from ssdconv.train.matching import Anchors, Targets, match
from ssdconv.train.recipe import NormRule, OptimizerSpec, ParamRule, Recipe
from ssdconv.train.recipes import recipe_of

pytestmark = pytest.mark.oracle


def installed(name: str) -> None:
    try:
        install(name, print)
    except MissingError as error:
        pytest.skip(f"no {name}: {error}")


@dataclass(frozen=True)
class Case:
    config: SSDConfig
    tensors: dict[str, Any]
    batch: StepBatch
    plan: StepPlan
    theirs: Trace

    def report(self, updates: int, recipe: Recipe | None = None, loss: Callable[..., Loss] = multibox_loss) -> Any:
        plan = replace(self.plan, keep=tuple(k for k in self.plan.keep if k <= updates))
        return step_parity(
            self.config, self.tensors, self.batch, recipe=recipe, plan=plan, theirs=self.theirs, loss_function=loss
        )


def calm(config: SSDConfig, seed: int) -> dict[str, Any]:
    """Seeded tensors with heads as small as those of a trained network: the loss starts near ln(classes) per prior."""
    return {
        name: array * np.float32(0.1) if name.startswith("heads.") and "l2norm" not in name else array
        for name, array in seeded_tensors(config, seed).items()
    }


def narrowed(config: SSDConfig, side: int) -> SSDConfig:
    """A 512-pixel network of GluonCV, fed with fewer pixels: its convolutions and prior sizes stay."""
    maps, grid = [], side // 16
    for entry in config.priors:
        maps.append(replace(entry, grid=(grid, grid)))
        grid = max(1, -(-grid // 2))
    return replace(config, pixels=replace(config.pixels, size=(side, side)), priors=tuple(maps))


def case(config: SSDConfig, images: int, plan: StepPlan, seed: int) -> Case:
    tensors, batch = calm(config, seed), made_batch(config, images, 6, seed)
    theirs = oracle_trace(config, tensors, batch, recipe_of(config.source), plan)
    return Case(config, tensors, batch, plan, theirs)


@pytest.fixture(scope="module")
def chainercv() -> Case:
    """SSD300 with a sixteenth of the channels; the rate drops to a tenth with the third update."""
    installed("chainer")
    return case(chainer("ssd300_voc", width=4), 1, StepPlan((1, 2, 3, 10), 1e-4, (2,)), 2)


@pytest.fixture(scope="module")
def gluoncv() -> Case:
    """ResNet-18 with batch normalisation in backbone and extra layers, at 128 pixels."""
    installed("gluon")
    return case(narrowed(network("gluon/ssd_512_resnet18_v1_voc"), 128), 2, StepPlan((1, 2), 2e-6), 1)


def test_chainercv_ten_updates_with_a_drop_of_the_rate(chainercv: Case) -> None:
    report = chainercv.report(10)
    assert report.passed, report.failures()[:3]
    assert report.positives >= 20
    compared = {(r.what, r.step) for r in report.rows}
    assert compared > {("gradient", 0), *(("weights", k) for k in (1, 2, 3, 10)), *(("loss", k) for k in range(10))}
    assert sum(r.what == "gradient" for r in report.rows) == 71
    assert report.worst("gradient").error <= 1e-12 * report.worst("gradient").magnitude
    assert report.worst("weights", 10).ratio < 0.01
    told = json.loads(json.dumps(report.to_json()))
    assert told["passed"] is True
    assert len(told["rows"]) == len(report.rows)


def test_gluoncv_with_batch_normalisation(gluoncv: Case) -> None:
    report = gluoncv.report(2)
    assert report.passed, report.failures()[:3]
    assert report.positives >= 20
    names = {r.name for r in report.rows if r.what == "weights"}
    assert any(n.startswith("backbone.") and n.endswith("running_var") for n in names)
    assert not any(n.startswith("extras.") and n.endswith("norm.weight") for n in names), "fixed gammas do not learn"
    assert report.worst("loss").ratio < 1e-3


def per_image(loc: Any, conf: Any, priors: Any, targets: Targets, rule: LossRule, anchors: Any = None) -> Loss:
    """A wrong normaliser: matched priors and images."""
    found = multibox_loss(loc, conf, priors, targets, rule, anchors=anchors)
    factor = found.positives / (found.positives + len(loc))
    return Loss(found.loc * factor, found.conf * factor, found.positives, found.negatives)


SGD = OptimizerSpec(velocity="lr_inside")
BIAS = ParamRule(("bias",), lr=2.0, decay=0.0)
CHAINER_FAULTS: dict[str, tuple[int, dict[str, Any], str]] = {
    "rate of biases": (1, {"optimizer": replace(SGD, rules=(ParamRule(("bias",), decay=0.0),))}, "weights"),
    "decay on biases": (1, {"optimizer": replace(SGD, rules=(ParamRule(("bias",), lr=2.0),))}, "weights"),
    "no decay on the L2 scale": (
        1,
        {"optimizer": replace(SGD, rules=(BIAS, ParamRule(("scale",), decay=0.0)))},
        "weights",
    ),
    "momentum": (2, {"optimizer": replace(SGD, momentum=0.90001, rules=(BIAS,))}, "weights"),
    "rate outside the velocity": (3, {"optimizer": OptimizerSpec(velocity="lr_outside", rules=(BIAS,))}, "weights"),
    "negatives": (1, {"loss": LossRule(mining=MiningRule(ratio=2.0))}, "loss"),
    "loc weight": (1, {"loss": LossRule(loc_weight=1.00001)}, "loss"),
    "threshold": (1, {"loss": LossRule(MatchRule(0.6))}, "targets"),
}


@pytest.mark.parametrize("name", list(CHAINER_FAULTS))
def test_faults_are_found(name: str, chainercv: Case) -> None:
    updates, change, where = CHAINER_FAULTS[name]
    report = chainercv.report(updates, replace(recipe_of("chainer"), **change))
    assert not report.passed
    assert any(row.what == where for row in report.failures())
    if where == "weights":
        assert all(r.passed for r in report.rows if r.what in ("targets", "gradient")), "the step only is wrong"
        clean = [k for k in (1, 2) if k < updates]
        assert all(r.passed for r in report.rows if r.what == "weights" and r.step in clean)
    if name == "decay on biases":
        assert all(r.name.endswith("bias") for r in report.failures())


def test_a_wrong_normaliser_is_found(chainercv: Case) -> None:
    report = chainercv.report(1, loss=per_image)
    assert {"loss", "gradient", "weights"} <= {r.what for r in report.failures()}


GLUON_FAULTS: dict[str, dict[str, Any]] = {
    "variance": {"norm": NormRule(0.1, "unbiased")},
    "frozen statistics": {"norm": NormRule(0.1, "biased", True)},
    "no decay on gamma": {"optimizer": replace(SGD, rules=(ParamRule(("gamma",), decay=0.0),))},
}


@pytest.mark.parametrize("name", list(GLUON_FAULTS))
def test_faults_of_batch_normalisation_are_found(name: str, gluoncv: Case) -> None:
    report = gluoncv.report(1, replace(recipe_of("gluon"), **GLUON_FAULTS[name]))
    failed = report.failures()
    assert not report.passed
    if name == "variance":
        assert {r.what for r in failed} == {"weights"}
        assert all(r.name.endswith("running_var") for r in failed)
    if name == "no decay on gamma":
        assert {r.name.rsplit(".", 1)[1] for r in failed} == {"weight"}


def test_a_missing_tensor_and_another_shape_fail(chainercv: Case) -> None:
    theirs = replace(chainercv.theirs, gradients=dict(chainercv.theirs.gradients))
    theirs.gradients["heads.loc.0.bias"] = np.zeros(3)
    del theirs.gradients["heads.loc.1.bias"]
    report = replace(chainercv, theirs=theirs).report(1)
    assert {r.name for r in report.failures()} == {"heads.loc.0.bias", "heads.loc.1.bias"}
    assert report.to_json()["passed"] is False


def test_gluoncvs_matching_with_ties_and_crowds() -> None:
    installed("gluon")
    rng = np.random.default_rng(4)
    grid, size = rng.integers(2, 14, (60, 2)) * 8.0, 2.0 ** rng.integers(3, 6, (60, 2))
    anchors = np.concatenate([grid, size], 1).astype(np.float32)  # powers of two: overlaps are exact, ties are ties
    sets = []
    for count in (1, 2, 3, 5, 8, 12, 4, 6):
        low, side = rng.integers(0, 10, (count, 2)) * 8.0, 2.0 ** rng.integers(3, 6, (count, 2))
        sets.append(np.concatenate([low, low + side], 1).astype(np.float32))
    maker = Worker("gluon", str(Path(__file__).parents[1] / "oracles" / "workers" / "gluon_maker"))
    job = {"do": "match", "sets": len(sets)}
    arrays = {"0/anchors": anchors} | {f"0/boxes{i}": boxes for i, boxes in enumerate(sets)}
    answer = maker.ask([job], arrays)
    rule = recipe_of("gluon").loss.matching
    priors = Anchors.given(to_corners(torch.from_numpy(anchors)), rule.numerics)
    with_ties = 0  # priors that only the rule for ties matches
    for index, boxes in enumerate(sets):
        targets = Targets.pad([torch.from_numpy(boxes)], [torch.ones(len(boxes), dtype=torch.int64)])
        mine = match(priors, targets, rule).object[0].numpy() + 1
        theirs = answer.arrays[f"0/{index}"].astype(int)
        np.testing.assert_array_equal(mine > 0, theirs > 0)
        plain = match(priors, targets, MatchRule()).object[0].numpy() + 1
        with_ties += int(((plain > 0) != (mine > 0)).sum())
    assert with_ties > 0, "the sets have no ties to tell the rules apart"


def test_sources_without_a_training_step_to_run() -> None:
    config = vgg("ssd300_voc", width=4)
    with pytest.raises(UsageError, match="no training step of 'keras'"):
        step_parity(replace(config, source="keras"), {}, made_batch(config, 1))
    with pytest.raises(UsageError, match="float32 only"):
        step_parity(config, {}, made_batch(config, 1))


@pytest.mark.slow
def test_chainercv_in_float32() -> None:
    installed("chainer")
    config = chainer("ssd300_voc", width=8)
    report = step_parity(
        config, calm(config, 2), made_batch(config, 2, 6, 2), plan=StepPlan(lr=1e-4), precision="float32"
    )
    assert report.passed, report.failures()[:3]
    assert report.growth[10] < 0.2


@pytest.mark.slow
def test_gluoncv_ten_updates_with_batch_normalisation() -> None:
    installed("gluon")
    config = narrowed(network("gluon/ssd_512_resnet18_v1_voc"), 128)
    report = case(config, 2, StepPlan((1, 2, 10), 2e-6), 1).report(10)
    assert report.passed, report.failures()[:3]
    assert report.worst("loss").ratio < 1e-3


@pytest.mark.slow
def test_gluoncv_vgg_in_float32_at_full_size() -> None:
    installed("gluon")
    config = network("gluon/ssd_300_vgg16_atrous_voc")
    report = step_parity(
        config, calm(config, 1), made_batch(config, 1, 6, 1), plan=StepPlan((1, 2), 1e-6), precision="float32"
    )
    assert report.passed, report.failures()[:3]
