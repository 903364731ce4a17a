"""Targets, losses and gradients of the recipes beside what the original projects computed (recorded arrays).

The measuring that the tests judge and ``tools/conformance.py`` writes down. Every function takes the folder of the recorded
arrays (``golden``) and returns numbers; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.distributed import Rank
from ssdconv.train.loss import choose, encoded, multibox_loss, own_form
from ssdconv.train.matching import IN_PIXELS, Anchors, Targets, match
from ssdconv.train.recipes import recipe_of

Array = npt.NDArray[Any]
Whose = Literal["own", "file"]

MATCHED = {
    "ssd_pytorch_300": ("ssd.pytorch", "pytorch/ssd_pytorch_ssd300_voc"),
    "simple_ssd_300": ("simple-ssd", "pytorch/simple_ssd_ssd300_voc"),
    "chainercv_300": ("chainer", "chainer/ssd300_voc"),
    "chainercv_512": ("chainer", "chainer/ssd512_voc"),
    "gluoncv_ssd_300_vgg16_atrous_voc": ("gluon", "gluon/ssd_300_vgg16_atrous_voc"),
    "gluoncv_ssd_512_vgg16_atrous_voc": ("gluon", "gluon/ssd_512_vgg16_atrous_voc"),
    "gluoncv_ssd_512_resnet50_v1_voc": ("gluon", "gluon/ssd_512_resnet50_v1_voc"),
}
"""train/match_<key>.npz: recipe and network."""
LOSSES = {
    "ssd_pytorch": ("ssd.pytorch", "pytorch/ssd_pytorch_ssd300_voc"),
    "simple_ssd": ("simple-ssd", "pytorch/simple_ssd_ssd300_voc"),
    "chainercv": ("chainer", "chainer/ssd300_voc"),
    "gluoncv": ("gluon", "gluon/ssd_300_vgg16_atrous_voc"),
}
"""train/loss_<key>.npz."""
KERAS_TF = {
    "jedol": ("keras", "keras/jedol_ssd300_vgg16_voc"),
    "ssd_keras": ("ssd_keras", "keras/ssd_keras_ssd300_voc"),
    "hikapok": ("tensorflow", "tensorflow/hikapok_ssd300_vgg16_voc"),
}
"""keras_tf/targets/<key>_targets.npz and …_loss.npz."""
SETTINGS = {
    "jedol": (("default", 0.5), ("neg0.4", 0.4)),
    "ssd_keras": (("neg0.5", 0.5), ("neg0.3_default", 0.3)),
    "hikapok": (("default", 0.5), ("neg0.4", 0.4)),
}
"""Recorded settings and their limit of negatives."""


def opened(path: Path) -> dict[str, Array]:
    """All arrays of a file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def anchors_of(key: str, held: dict[str, Array], whose: Whose) -> tuple[Anchors, list[int], float]:
    """Priors (ours, or the file's corners), the order of coordinates, and the unit of the file's boxes."""
    recipe, name = MATCHED[key]
    config, rule = network(name), recipe_of(recipe).loss.matching
    turn = [1, 0, 3, 2] if recipe == "chainer" else [0, 1, 2, 3]
    unit = float(config.pixels.size[0]) if recipe in IN_PIXELS else 1.0
    if whose == "own":
        return Anchors.of(config.priors, config.pixels.size, rule.numerics), turn, unit
    return Anchors.given(torch.from_numpy(held["corners"][:, turn].copy()), rule.numerics, (unit, unit)), turn, unit


@dataclass(frozen=True)
class Matching:
    """Differences of one file: images and priors; ``offsets``: largest error of an encoded coordinate."""

    images: int
    priors: int
    offsets: float
    compared: int


def matching(golden: Path, key: str, part: Literal["voc", "syn"], whose: Whose, images: int | None = None) -> Matching:
    """Positives, and offsets of those that are stored, of one part of a file."""
    held = opened(golden / f"train/match_{key}.npz")
    recipe, name = MATCHED[key]
    config, rule = network(name), recipe_of(recipe).loss
    anchors, turn, unit = anchors_of(key, held, whose)
    priors = Priors.of(config.priors, config.pixels.size)
    own = own_form(anchors, priors, rule)
    boxes, where, wanted = (
        held[f"{part}_boxes"][:, turn].astype(np.float64) / unit,
        held[f"{part}_image"],
        held[f"{part}_pos"],
    )
    kept = wanted[:, 0] < 100 if part == "voc" else held["syn_kind"][wanted[:, 0]] != 7
    offsets = np.full((len(wanted), 4), np.nan)
    offsets[kept] = held[f"{part}_offsets"][:, turn]
    count = images or (1000 if part == "voc" else 200)
    wrong_images = wrong_priors = 0
    worst = 0.0
    for start in range(0, count, 4):
        ours = [torch.from_numpy(boxes[where == i]) for i in range(start, min(start + 4, count))]
        targets = Targets.pad(ours, [torch.arange(len(b)) for b in ours])
        matches = match(anchors, targets, rule.matching)
        table = torch.zeros(*matches.object.shape, 4, dtype=torch.float64)
        table[matches.positive] = encoded(matches, targets, rule, own, priors.variances)
        for item in range(len(ours)):
            rows = wanted[:, 0] == start + item
            theirs = np.full(matches.object.shape[1], -1)
            theirs[wanted[rows, 1]] = wanted[rows, 2]
            different = int((theirs != matches.object[item].numpy()).sum())
            wrong_images, wrong_priors = wrong_images + bool(different), wrong_priors + different
            error = np.abs(table[item].numpy()[wanted[rows, 1]] - offsets[rows])
            worst = max(worst, float(np.nanmax(error[np.isfinite(error)], initial=0.0)))
    return Matching(wrong_images, wrong_priors, worst, count)


def keras_objects(golden: Path) -> tuple[dict[str, Array], Array]:
    """Objects of the first 300 images, and where each image's begin."""
    held = opened(golden / "keras_tf/targets/voc2007_test_first300_gt.npz")
    return held, np.r_[0, np.cumsum(held["n_objects"])]


def keras_batch(held: dict[str, Array], starts: Array, images: range) -> Targets:
    """Targets of some of them."""
    parts = [slice(starts[i], starts[i + 1]) for i in images]
    boxes = [torch.from_numpy(held["boxes"][p].astype(np.float64)) for p in parts]
    return Targets.pad(boxes, [torch.from_numpy(held["class_0based"][p].astype(np.int64) + 1) for p in parts])


@dataclass(frozen=True)
class KerasTargets:
    """Differences: images, priors and neutral priors, over both settings; ``fragile`` pairs among them."""

    images: int
    priors: int
    neutral: int
    offsets: float
    fragile: int


def keras_targets(golden: Path, key: str, images: int = 300) -> KerasTargets:
    """Positives, neutral priors and offsets of one Keras or TensorFlow project; nothing is left out."""
    stored = opened(golden / f"keras_tf/targets/{key}_targets.npz")
    held, starts = keras_objects(golden)
    recipe, name = KERAS_TF[key]
    config, rule = network(name), recipe_of(recipe).loss
    anchors, priors = (
        Anchors.of(config.priors, (300, 300), rule.matching.numerics),
        Priors.of(config.priors, (300, 300)),
    )
    order = np.arange(len(priors)) if anchors.order is None else anchors.order.numpy()
    turn = [1, 0, 3, 2] if key == "hikapok" else [0, 1, 2, 3]
    fragile = set(zip(stored["fragile_image"].tolist(), stored["fragile_prior"].tolist(), strict=True))
    wrong: set[int] = set()
    pairs = neutral = among = 0
    worst = 0.0
    for image in range(images):
        targets = keras_batch(held, starts, range(image, image + 1))
        matches = match(anchors, targets, rule.matching)
        found, overlap = matches.object[0].numpy()[order], matches.overlap[0].numpy()[order]
        table = np.zeros((len(priors), 4))
        table[matches.positive[0].numpy()] = encoded(
            matches, targets, rule, own_form(anchors, priors, rule), priors.variances
        )
        for setting, limit in SETTINGS[key]:
            part = _part(stored, f"{setting}_n_pos", image)
            wanted = np.full(len(priors), -1)
            wanted[stored[f"{setting}_pos_prior"][part]] = stored[f"{setting}_pos_object"][part]
            bad = np.flatnonzero(wanted != found).tolist()
            theirs = stored[f"{setting}_neutral_prior"][_part(stored, f"{setting}_n_neutral", image)].tolist()
            odd = set(np.flatnonzero((found < 0) & (overlap >= limit)).tolist()) ^ set(theirs)
            wrong |= {image} if bad or odd else set()
            pairs, neutral = pairs + len(bad), neutral + len(odd)
            among += sum((image, p) in fragile for p in (*bad, *odd))
            name_of = f"{setting}_pos_offsets{'_dydxdhdw' if key == 'hikapok' else ''}"
            mine = table[order][stored[f"{setting}_pos_prior"][part]][:, turn]
            worst = max(worst, float(np.abs(mine - stored[name_of][part]).max(initial=0.0)))
    return KerasTargets(len(wrong), pairs, neutral, worst, among)


def _part(stored: dict[str, Array], counts: str, index: int) -> slice:
    ends = np.cumsum(stored[counts])
    return slice(int(ends[index] - stored[counts][index]), int(ends[index]))


@dataclass(frozen=True)
class BatchLoss:
    """One batch beside the original.

    Attributes:
        terms: largest relative error of loc and conf.
        grad_loc, grad_conf: largest error over the largest gradient.
        labels, negatives: priors with another label, and priors that only one of both mined.
        counts: whether the numbers of positives and negatives are the same.
    """

    terms: float
    grad_loc: float
    grad_conf: float
    labels: int
    negatives: int
    counts: bool


def losses(golden: Path, key: str, only: Sequence[int] = range(12)) -> Iterator[BatchLoss]:
    """The twelve batches of train/loss_<key>.npz; in the last all losses are equal."""
    held = opened(golden / f"train/loss_{key}.npz")
    recipe, name = LOSSES[key]
    config, rule = network(name), recipe_of(recipe).loss
    turn = [1, 0, 3, 2] if recipe == "chainer" else [0, 1, 2, 3]
    unit = 300.0 if recipe in IN_PIXELS else 1.0
    anchors, priors = (
        Anchors.of(config.priors, (300, 300), rule.matching.numerics),
        Priors.of(config.priors, (300, 300)),
    )
    for batch in only:
        scale = float(held["scales"][batch])
        draw = np.random.Generator(np.random.PCG64(1000 + batch))
        conf = draw.standard_normal((2, 8732, 21), dtype=np.float32) * np.float32(scale)
        loc = draw.standard_normal((2, 8732, 4), dtype=np.float32) * np.float32(min(scale, 5))
        parts = [(held["box_where"] == [batch, i]).all(1) for i in (0, 1)]
        targets = Targets.pad(
            [torch.from_numpy(held["boxes"][p][:, turn].astype(np.float64) / unit) for p in parts],
            [torch.from_numpy(held["labels"][p].astype(np.int64) + 1) for p in parts],
        )
        mine_loc = torch.from_numpy(loc[..., turn].copy()).requires_grad_()
        mine_conf = torch.from_numpy(conf).requires_grad_()
        out = multibox_loss(mine_loc, mine_conf, priors, targets, rule, anchors=anchors)
        out.total.backward()  # type: ignore[no-untyped-call]
        chosen = choose(mine_loc.detach(), mine_conf.detach(), priors, targets, rule, Rank(), anchors)
        assert mine_loc.grad is not None and mine_conf.grad is not None
        wanted = {
            what: _spread(held[f"grad_{what}"], held[f"grad_{what}_where"], batch, width)
            for what, width in (("loc", 4), ("conf", 21))
        }
        labels, negative = np.zeros((2, 8732), np.int64), np.zeros((2, 8732), bool)
        rows = held["positives"][held["positives"][:, 0] == batch]
        labels[rows[:, 1], rows[:, 2]] = rows[:, 3]
        rows = held["negatives"][held["negatives"][:, 0] == batch]
        negative[rows[:, 1], rows[:, 2]] = True
        terms = held["terms"][batch]
        yield BatchLoss(
            max(abs(out.loc.item() / terms[0] - 1), abs(out.conf.item() / terms[1] - 1)),
            _error(mine_loc.grad.numpy()[..., turn], wanted["loc"]),
            _error(mine_conf.grad.numpy(), wanted["conf"]),
            int((chosen.labels.numpy() != labels).sum()),
            int((chosen.negative.numpy() != negative).sum()),
            (int(out.positives), int(out.negatives)) == (int(terms[2]), int(terms[3])),
        )


def keras_losses(golden: Path, key: str, only: Sequence[int] = range(8)) -> Iterator[BatchLoss]:
    """The eight batches of keras_tf/targets/<key>_loss.npz; gradients of the first two images, by the largest of them."""
    stored = opened(golden / f"keras_tf/targets/{key}_loss.npz")
    held, starts = keras_objects(golden)
    recipe, name = KERAS_TF[key]
    config, base = network(name), recipe_of(recipe).loss
    anchors, priors = (
        Anchors.of(config.priors, (300, 300), base.matching.numerics),
        Priors.of(config.priors, (300, 300)),
    )
    order = torch.arange(len(priors)) if anchors.order is None else anchors.order
    place = order.argsort()
    turn = [1, 0, 3, 2] if key == "hikapok" else [0, 1, 2, 3]
    for batch in only:
        limit = SETTINGS[key][batch >= 4][1]
        rule = replace(base, mining=replace(base.mining, overlap=limit))
        draw = np.random.RandomState(1000 + batch)
        loc = draw.standard_normal((8, 8732, 4)).astype(np.float32)
        conf = (draw.standard_normal((8, 8732, 21)) * 2).astype(np.float32)
        conf[..., 0] += 9 if batch in (3, 7) else 3
        targets = keras_batch(held, starts, range(8 * batch, 8 * batch + 8))
        mine_loc = torch.from_numpy(loc)[:, place][..., turn].clone().requires_grad_()
        mine_conf = torch.from_numpy(conf)[:, place].clone().requires_grad_()
        out = multibox_loss(mine_loc, mine_conf, priors, targets, rule, anchors=anchors)
        out.total.backward()  # type: ignore[no-untyped-call]
        assert mine_loc.grad is not None and mine_conf.grad is not None
        chosen = choose(mine_loc.detach(), mine_conf.detach(), priors, targets, rule, Rank(), anchors)
        grads = mine_loc.grad[..., turn][:, order].numpy(), mine_conf.grad[:, order].numpy()
        ends = np.r_[0, np.cumsum(stored[f"b{batch}_rows_n"])]
        wanted = [np.zeros_like(g[:2]) for g in grads]
        for image in (0, 1):
            rows = slice(ends[image], ends[image + 1])
            for full, what in zip(wanted, ("loc", "conf"), strict=True):
                full[image, stored[f"b{batch}_rows_prior"][rows]] = stored[f"b{batch}_rows_grad_{what}"][rows]
        wrong = []
        for mask, what in ((chosen.positive, "pos"), (chosen.negative, "neg")):
            theirs = np.zeros((8, 8732), bool)
            for image in range(8):
                theirs[image, stored[f"b{batch}_{what}_prior"][_part(stored, f"b{batch}_n_{what}", image)]] = True
            wrong.append(int((mask[:, order].numpy() != theirs).sum()))
        total, conf_term = float(stored["terms_loss"][batch]), _conf_term(stored, key, batch)
        yield BatchLoss(
            max(abs(out.total.item() / total - 1), abs(out.conf.item() / conf_term - 1)),
            _error(grads[0][:2], wanted[0]),
            _error(grads[1][:2], wanted[1]),
            wrong[0],
            wrong[1],
            int(out.positives) == int(stored["terms_n_positive"][batch]),
        )


def _conf_term(stored: dict[str, Array], key: str, batch: int) -> float:
    if key == "jedol":
        return float(stored["terms_conf_sum"][batch] / stored["terms_n_positive"][batch])
    return float(stored["terms_conf" if key == "ssd_keras" else "terms_cross_entropy"][batch])


def _spread(values: Array, where: Array, batch: int, width: int) -> Array:
    full = np.zeros((2, 8732, width), np.float32)
    rows = where[:, 0] == batch
    full[where[rows, 1], where[rows, 2]] = values[rows]
    return full


def _error(mine: Array, theirs: Array) -> float:
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())
