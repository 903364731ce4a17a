"""What sources do by accident: done under their own rule, not under ``sane``; losses of files as recipes; older recipes."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from ssdconv.commands.train_setup import recipe_for
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics, sane
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.distributed import Rank
from ssdconv.train.loop import Terms, diverged
from ssdconv.train.loss import choose, multibox_loss
from ssdconv.train.matching import Anchors, Targets
from ssdconv.train.recipe import Recipe
from ssdconv.train.recipes import RECIPES, of_file, recipe_of

CONFIG = small_ssd(("a", "b", "c"), 64, 4)
PRIORS = Priors.of(CONFIG.priors, CONFIG.pixels.size)
OPTIONS = dict.fromkeys(
    ("batch_size", "lr", "lr_mode", "warmup", "epochs", "iterations", "without", "recipe", "quirks")
)


def heads(scale: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shape = (2, len(PRIORS))
    return torch.randn(*shape, 4, generator=draw), torch.randn(*shape, 4, generator=draw) * scale


def objects(*boxes: list[list[float]]) -> Targets:
    parts = [torch.tensor(b, dtype=torch.float64).reshape(-1, 4) for b in boxes]
    return Targets.pad(parts, [torch.ones(len(b), dtype=torch.int64) for b in parts])


LARGE = [[0.1, 0.1, 0.8, 0.9], [0.3, 0.2, 0.7, 0.7]]
TINY = [[0.101, 0.101, 0.103, 0.104]]


def loss_of(rule: LossRule, targets: Targets, scale: float = 1.0):  # type: ignore[no-untyped-def]
    anchors = Anchors.of(CONFIG.priors, CONFIG.pixels.size, rule.matching.numerics)
    return multibox_loss(*heads(scale), PRIORS, targets, rule, anchors=anchors)


def test_simple_ssd_divides_by_no_positives() -> None:
    rule = recipe_of("simple-ssd").loss
    assert torch.isnan(loss_of(rule, objects(TINY, TINY)).total)
    assert loss_of(sane(rule), objects(TINY, TINY)).total == 0
    assert torch.equal(loss_of(rule, objects(LARGE, TINY)).total, loss_of(sane(rule), objects(LARGE, TINY)).total)


@pytest.mark.parametrize("name", ["gluon", "chainer", "caffe", "ssd_keras"])
def test_others_give_0(name: str) -> None:
    assert loss_of(recipe_of(name).loss, objects([], [])).total == 0


def test_ssd_pytorch_has_no_way_with_an_image_without_objects() -> None:
    rule = recipe_of("ssd.pytorch").loss
    with pytest.raises(UsageError, match="an image has no objects") as caught:
        loss_of(rule, objects(LARGE, []))
    assert "--quirks sane" in str(caught.value)
    assert "image 1" in str(caught.value)
    assert torch.isfinite(loss_of(sane(rule), objects(LARGE, [])).total)


def test_ssd_pytorchs_mining_underflows_at_large_outputs() -> None:
    rule = recipe_of("ssd.pytorch").loss
    anchors = Anchors.of(CONFIG.priors, CONFIG.pixels.size, rule.matching.numerics)

    def mined(kind: LossRule, scale: float) -> torch.Tensor:
        return choose(*heads(scale), PRIORS, objects(LARGE, LARGE), kind, Rank(), anchors).negative

    assert torch.equal(mined(rule, 3.0), mined(sane(rule), 3.0))
    assert not torch.equal(mined(rule, 300.0), mined(sane(rule), 300.0))


def test_hikapok_counts_neutral_priors() -> None:
    rule = recipe_of("tensorflow").loss
    few = replace(rule, mining=replace(rule.mining, overlap=0.2))
    source, other = loss_of(few, objects(LARGE, LARGE)), loss_of(sane(few), objects(LARGE, LARGE))
    assert source.positives == other.positives and source.negatives > other.negatives
    assert other.negatives == 3 * other.positives


def test_an_object_that_nothing_overlaps_takes_all_in_gluoncv() -> None:
    rule = recipe_of("gluon").loss
    nothing = objects([[0.5, 0.5, 0.5, 0.5]], LARGE)
    assert loss_of(rule, nothing).positives > len(PRIORS) > 0
    assert loss_of(sane(rule), nothing).positives == loss_of(rule, objects([], LARGE)).positives


def test_sane_changes_only_accidents() -> None:
    assert sane(LossRule()) == LossRule()
    for recipe in RECIPES.values():
        rule = sane(recipe.loss)
        assert sane(rule) == rule
        assert (rule.matching.numerics, rule.matching.forced) == (
            recipe.loss.matching.numerics,
            recipe.loss.matching.forced,
        )
        assert (rule.normalizer, rule.mining.ratio, rule.mining.scope) == (
            recipe.loss.normalizer,
            recipe.loss.mining.ratio,
            recipe.loss.mining.scope,
        )


def test_options_choose_quirks_and_the_files_loss() -> None:
    def chosen(**said: str) -> Recipe:
        return recipe_for(Namespace(**{**OPTIONS, **said}), told, 100)

    told = replace(CONFIG, source="caffe", loss=LossRule(MatchRule(0.4), use_difficult=False))
    assert chosen(recipe="simple-ssd").loss == recipe_of("simple-ssd").loss
    assert chosen(recipe="simple-ssd", quirks="sane").loss == sane(recipe_of("simple-ssd").loss)
    assert [chosen(recipe="caffe", quirks=q).norm.scales for q in ("source", "sane")] == ["outside", "exact"]
    mine = chosen(recipe="file")
    assert (mine.name, mine.loss, mine.difficult) == ("file", told.loss, "drop")
    assert mine.optimizer == recipe_of("caffe").optimizer
    with pytest.raises(UsageError, match="does not tell its loss"):
        of_file(recipe_of("caffe"), CONFIG)


def test_a_config_keeps_its_loss() -> None:
    told = replace(CONFIG, loss=LossRule(MatchRule(None, boxes="predicted"), MiningRule("examples"), loc="l2"))
    assert type(CONFIG).from_json(told.to_json()) == told
    older = json.loads(CONFIG.to_json())
    older.pop("loss", None)
    assert type(CONFIG).from_json(json.dumps(older)) == CONFIG


def test_recipes_of_older_runs() -> None:
    """Mining was part of the loss, ties were a flag, and arithmetic was Caffe's for all."""
    told = json.loads(recipe_of("gluon").to_json())
    told["loss"] = {
        "matching": {"threshold": 0.5, "forced": "greedy", "ties": True},
        "neg_pos_ratio": 2.0, "neg_overlap": 0.4, "mining": "batch", "conf_normalizer": "positives", "loc_weight": 0.5,
    }  # fmt: skip
    found = Recipe.from_json(json.dumps(told)).loss
    assert found == LossRule(
        MatchRule(ties="overlapping"), MiningRule(ratio=2.0, overlap=0.4, scope="batch"), loc_weight=0.5
    )
    for recipe in RECIPES.values():
        assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(FormatError):
        Recipe.from_json('{"loss": {"neg_pos_ratio": 1}}')


def test_a_loss_of_no_number_says_why(tmp_path) -> None:  # type: ignore[no-untyped-def]
    nan = float("nan")
    assert "--quirks sane" in str(diverged("no", 3, Terms(nan, nan, 0, 0), ["a"], tmp_path))
    assert "--quirks" not in str(diverged("no", 3, Terms(nan, 1.0, 7, 21), ["a"], tmp_path))


def test_priors_in_another_unit_are_the_same_boxes() -> None:
    pixels = Anchors.of(CONFIG.priors, (64, 64), Numerics("chainer", "pixels", "float64"))
    fractions = Anchors.of(CONFIG.priors, (64, 64), Numerics("chainer", "fractions", "float64"))
    torch.testing.assert_close(pixels.corners / 64, fractions.corners)
    assert pixels.centers is not None and fractions.centers is not None
    torch.testing.assert_close(pixels.centers, fractions.centers)


@pytest.mark.parametrize("name", sorted({r.loss.matching.numerics.priors for r in RECIPES.values()}))
def test_every_arithmetic_is_the_networks_priors_to_rounding(name: str) -> None:
    found = Anchors.of(CONFIG.priors, CONFIG.pixels.size, Numerics(name))  # type: ignore[arg-type]
    torch.testing.assert_close(found.corners, PRIORS.corners, rtol=0, atol=2e-6)
