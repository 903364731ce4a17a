"""The MultiBox loss of SSD (arXiv:1512.02325, equations 1-3) with hard negative mining, in its sources' variants.

loc: smooth L1 (beta 1) of the encoded offsets of matched priors; conf: softmax cross entropy of matched priors and of the
hardest unmatched ones. Both are sums over the batch, divided by the recipe's normaliser. ``LossRule`` tells the variants, those
of Caffe's ``MultiBoxLossParameter`` among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.boxes import area, decode, encode, iou_matrix
from ssdconv.ssd_ref.loss_rule import LossRule, MiningRule
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.distributed import Peers, Rank
from ssdconv.train.matching import Anchors, Matches, Targets, match


@dataclass(frozen=True)
class Loss:
    """Loss terms of a batch.

    Attributes:
        loc, conf: scalars; ``total`` is what is minimised.
        positives: number of matched priors.
        negatives: number of mined priors.
    """

    loc: Tensor
    conf: Tensor
    positives: Tensor
    negatives: Tensor

    @property
    def total(self) -> Tensor:
        """loc + conf."""
        return self.loc + self.conf


@dataclass(frozen=True)
class Chosen:
    """What a batch is trained on.

    Attributes:
        matches: (N, P); where boxes are not shared among classes ``object`` is (N, P, classes).
        positive, negative: (N, P) bool, of the class loss.
        labels: (N, P) conf channel that each prior shall have; background where it is unmatched.
    """

    matches: Matches
    positive: Tensor
    negative: Tensor
    labels: Tensor


def multibox_loss(
    loc: Tensor,
    conf: Tensor,
    priors: Priors,
    targets: Targets,
    rule: LossRule | None = None,
    peers: Peers | None = None,
    anchors: Anchors | None = None,
) -> Loss:
    """Loss of a batch.

    Args:
        loc: (N, P, 4) raw offsets; (N, P, C, 4) where the rule says that boxes are not shared among classes.
        conf: (N, P, C) raw class outputs.
        priors: of the network, in the heads' dtype.
        targets: objects of the N images.
        rule: the recipe's; default: Caffe's.
        peers: the processes among which the batch is cut up; default: this one has all of it.
        anchors: the priors by the rule's arithmetic, to match objects with; default: the corners of ``priors``.

    Returns:
        Differentiable terms. With peers ``loc`` and ``conf`` are this process's share: they add up to the loss of the whole
        batch. ``positives`` and ``negatives`` are the whole batch's.

    Raises:
        UsageError: an image without objects, where the rule's source cannot take one.
    """
    rule = rule or LossRule()
    peers = peers or Rank()
    anchors = anchors or Anchors.given(priors.corners, replace(rule.matching.numerics, units="fractions"))
    chosen = choose(loc.detach(), conf.detach(), priors, targets, rule, peers, anchors)
    loc_sum = _loc_each(loc, chosen.matches, targets, priors, rule, own_form(anchors, priors, rule)).sum()
    conf_each = _conf_each(conf, chosen, rule, targets)
    used = chosen.positive | chosen.negative
    conf_sum = torch.where(used, conf_each, conf_each.new_zeros(())).sum()
    matched = (chosen.matches.object >= 0).sum()
    images = torch.tensor(len(conf), device=conf.device)
    positives, negatives, total = peers.total(torch.stack([matched, chosen.negative.sum(), images])).unbind()
    count = {
        "positives": positives,
        "priors": total * conf.shape[1],
        "images": total,
        "one": torch.ones_like(total),
    }[rule.normalizer]
    if rule.without_positives == "zero":
        count = count.clamp_min(1)
    count = conf_count = count.to(conf.dtype)
    if rule.conf_normalizer == "selected":
        conf_count = (positives + negatives).clamp_min(1).to(conf.dtype) / (1.0 + rule.mining.ratio)
    return Loss(rule.loc_weight * loc_sum / count, conf_sum / conf_count, positives, negatives)


@torch.no_grad()
def choose(
    loc: Tensor, conf: Tensor, priors: Priors, targets: Targets, rule: LossRule, peers: Peers, anchors: Anchors
) -> Chosen:
    """Match and mine; arguments as in ``multibox_loss``."""
    with_objects = targets.valid.any(1)
    if rule.without_objects == "error" and not bool(with_objects.all()):
        raise UsageError(
            "an image has no objects, and this recipe's source cannot train on one",
            got=f"image {int((~with_objects).nonzero()[0])} of the batch",
            hint="--quirks sane takes it as background, or leave such images out",
        )
    matches = _matched(loc, priors, targets, rule, anchors)
    if rule.mining.kind == "examples":
        labels = _labels(matches, targets, rule)
        losses = _plain_conf(conf, labels, rule)
        losses[matches.positive] += _loc_each(loc, matches, targets, priors, rule, own_form(anchors, priors, rule))
        boxes = priors.corners if rule.mining.nms_boxes == "priors" else _predicted(loc, priors, rule)
        kept = hard_examples(losses, boxes, with_objects, rule.mining)
        negative = kept & (matches.object == -1)
        matches = Matches(torch.where(matches.positive & ~kept, -1, matches.object), matches.overlap)
        return Chosen(matches, matches.positive, negative, _labels(matches, targets, rule))
    labels = _labels(matches, targets, rule)
    positive = matches.positive if matches.object.dim() == 2 else matches.positive.any(-1)
    if rule.mining.kind == "none":
        return Chosen(matches, positive, ~positive, labels)
    negative = hard_negatives(conf, _plain_conf(conf, labels, rule), matches, rule, peers)
    return Chosen(matches, positive, negative, labels)


def _matched(loc: Tensor, priors: Priors, targets: Targets, rule: LossRule, anchors: Anchors) -> Matches:
    how = rule.matching
    if rule.share_location:
        return match(anchors, targets, how, _predicted(loc, priors, rule) if how.boxes == "predicted" else None)
    classes, found = loc.shape[2], []
    whole = match(anchors, targets, how) if how.boxes == "priors" else None
    own = _own_labels(whole, targets, rule.background) if whole else None
    for label in range(classes):
        if whole is not None and own is not None:
            found.append(torch.where(whole.positive & (own == label), whole.object, -1))
        elif label == rule.background:
            found.append(torch.full(loc.shape[:2], -1, dtype=torch.int64, device=loc.device))
        else:
            few = replace(targets, valid=targets.valid & (targets.labels == label))
            found.append(match(anchors, few, how, _predicted(loc[:, :, label], priors, rule)).object)
    overlap = whole.overlap if whole else torch.zeros(loc.shape[:2], device=loc.device)
    return Matches(torch.stack(found, -1), overlap)


def _predicted(loc: Tensor, priors: Priors, rule: LossRule) -> Tensor:
    return decode(loc, priors.form(rule.code), priors.variances, rule.code, rule.variance_in_target)


def _own_labels(matches: Matches, targets: Targets, background: int) -> Tensor:
    if targets.labels.shape[1] == 0:
        return torch.full_like(matches.object, background)
    index = matches.object.clamp_min(0)
    labels = targets.labels.gather(1, index.flatten(1)).view(index.shape)
    return torch.where(matches.positive, labels, background)


def _labels(matches: Matches, targets: Targets, rule: LossRule) -> Tensor:
    """(N, P) conf channels; of several classes that want a prior the last."""
    labels = _own_labels(matches, targets, rule.background)
    if labels.dim() == 3:
        places = torch.arange(labels.shape[2], device=labels.device)
        last = torch.where(matches.positive, places, -1).amax(-1)
        labels = torch.where(last >= 0, last, rule.background)
    if rule.agnostic:
        labels = torch.where(labels == rule.background, labels, rule.background + 1)
    return labels


def _plain_conf(conf: Tensor, labels: Tensor, rule: LossRule) -> Tensor:
    """(N, P) class loss of every prior."""
    if rule.conf == "logistic":
        wanted = F.one_hot(labels, conf.shape[-1]).to(conf.dtype)
        return F.binary_cross_entropy_with_logits(conf, wanted, reduction="none").sum(-1)
    each = F.cross_entropy(conf.transpose(1, 2), labels, reduction="none")
    if rule.largest is None:
        return each
    limited = each.clamp_max(rule.largest)
    return limited if rule.saturated else each + (limited - each).detach()


def _conf_each(conf: Tensor, chosen: Chosen, rule: LossRule, targets: Targets) -> Tensor:
    """``_plain_conf``, and Caffe's targets of the logistic loss: they are filled with the background's number first."""
    if rule.conf == "softmax" or (rule.mining.kind != "none" and rule.background == 0):
        return _plain_conf(conf, chosen.labels, rule)
    priors, classes = conf.shape[1:]
    wanted = torch.full_like(conf, float(rule.background))
    if (
        rule.mining.kind == "none"
    ):  # unmatched priors want no class, and an image's targets begin `priors` after the last's
        image, prior = chosen.positive.nonzero(as_tuple=True)
        wanted.view(-1)[image * priors + prior * classes + chosen.labels[image, prior]] = 1.0
    else:
        wanted.scatter_(2, chosen.labels[..., None], 1.0)
    return F.binary_cross_entropy_with_logits(conf, wanted, reduction="none").sum(-1)


def _loc_each(loc: Tensor, matches: Matches, targets: Targets, priors: Priors, rule: LossRule, own: Tensor) -> Tensor:
    """(K,) loc loss of the matched priors, in the order of ``matches.positive.nonzero()``."""
    where = matches.positive.nonzero(as_tuple=True)
    found, wanted = loc[where], encoded(matches, targets, rule, own, priors.variances).to(loc.dtype)
    variances = priors.variances[where[1]]
    if rule.inside_only:
        shown = priors.corners[where[1]]
        if rule.matching.boxes == "predicted":
            form = priors.form(rule.code)[where[1]]
            shown = decode(found.detach(), form, variances, rule.code, rule.variance_in_target)
        found = torch.where((shown < 0) | (shown > 1), wanted, found)
    if rule.variance_in_target:  # the gradient is not divided by the variances
        found, wanted = found + (found / variances - found).detach(), wanted / variances
    if rule.loc == "l2":
        return 0.5 * (found - wanted).square().sum(-1)
    return F.smooth_l1_loss(found, wanted, reduction="none").sum(-1)


def encoded(matches: Matches, targets: Targets, rule: LossRule, own: Tensor, variances: Tensor) -> Tensor:
    """(K, 4) float64: offsets of the matched priors, in the order of ``matches.positive.nonzero()``.

    Args:
        own: (P, 4) float64 priors, in the form that the rule's code needs.
        variances: (P, 4).
    """
    where = matches.positive.nonzero(as_tuple=True)
    boxes = targets.boxes.double()[where[0], matches.object[where]]
    return encode(boxes, own[where[1]], variances[where[1]].double(), rule.code, rule.variance_in_target)


def own_form(anchors: Anchors, priors: Priors, rule: LossRule) -> Tensor:
    """(P, 4) float64 priors that offsets are encoded against."""
    if anchors.centers is not None and rule.code == "center_size":
        return anchors.centers
    return priors.form(rule.code).double()


LEAST_AREA = 1e-5
"""Caffe's suppression leaves out smaller boxes."""


@torch.no_grad()
def hard_negatives(conf: Tensor, conf_each: Tensor, matches: Matches, rule: LossRule, peers: Peers) -> Tensor:
    """The unmatched priors that count.

    Args:
        conf: (N, P, C) class outputs.
        conf_each: (N, P) class loss of every prior, unmatched ones as background.
        matches: of the priors.
        rule: its mining is ``negatives``.
        peers: mining over the batch looks at the images of all of them.

    Returns:
        (N, P) bool.
    """
    mining, positive = rule.mining, matches.positive
    unmatched = matches.object == -1
    candidate = unmatched & (matches.overlap < mining.overlap)
    key = _hardness(conf, conf_each, rule, peers)
    rest = key.new_tensor(-torch.inf)
    if mining.positives_last:
        key = torch.where(candidate, key, torch.where(positive, 0.0, rest))
    else:
        key = torch.where(candidate, key, rest)
    counted = positive if mining.counted == "positives" else positive | (unmatched & ~candidate)
    own, whole = slice(None), key.shape
    if mining.scope == "batch":
        if peers.world > 1:
            key = peers.gather(key)
            candidate, counted = (peers.gather(t.byte()).bool() for t in (candidate, counted))
            own, whole = slice(peers.rank * len(conf_each), (peers.rank + 1) * len(conf_each)), key.shape
        key, candidate, counted = (t.reshape(1, -1) for t in (key, candidate, counted))
    allowed = (counted.sum(1).to(torch.float32) * mining.ratio).floor().long()
    if not mining.positives_last:
        allowed = torch.minimum(allowed, candidate.sum(1))
    chosen = _hardest(key, candidate, allowed, mining) & candidate
    return chosen.view(whole)[own]


def _hardness(conf: Tensor, conf_each: Tensor, rule: LossRule, peers: Peers) -> Tensor:
    if rule.mining.hardness == "loss":
        return conf_each
    if rule.mining.hardness == "background":
        return -conf.softmax(-1)[..., rule.background]
    largest = conf.max()
    if peers.world > 1:
        largest = peers.gather(largest.reshape(1)).max()
    shifted: Tensor = torch.log(torch.exp(conf - largest).sum(-1)) + largest
    return shifted - conf[..., rule.background]


def _hardest(key: Tensor, candidate: Tensor, allowed: Tensor, mining: MiningRule) -> Tensor:
    """The ``allowed`` largest of each row; (N, P) bool."""
    if mining.equal == "numpy":
        order = torch.from_numpy((-key).cpu().numpy().astype(np.longdouble).argsort(axis=1)).to(key.device)
    else:
        order = key.sort(dim=1, descending=True, stable=mining.equal != "torch").indices
    if mining.equal not in ("all", "none"):
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, places) < allowed[:, None]
    some = (allowed > 0)[:, None]
    if mining.equal == "all":
        last = key.gather(1, order.gather(1, (allowed - 1).clamp_min(0)[:, None]))
        return (key >= last) & some
    beyond = allowed.clamp_max(order.shape[1] - 1)[:, None]  # the hardest of what is too many; 0 where nothing is
    limit = torch.where(candidate, key, 0.0).sort(dim=1, descending=True).values.gather(1, beyond)
    return (key > limit) & some


@torch.no_grad()
def hard_examples(losses: Tensor, boxes: Tensor, targets_of_image: Tensor, mining: MiningRule) -> Tensor:
    """The priors, matched or not, that online hard example mining keeps.

    Args:
        losses: (N, P) class and loc loss of every prior.
        boxes: (N, P, 4) or (P, 4) corner form, for the suppression.
        targets_of_image: (N,) bool: Caffe looks only at images with objects.
        mining: its kind is ``examples``.

    Returns:
        (N, P) bool.
    """
    chosen = torch.zeros(losses.shape, dtype=torch.bool, device=losses.device)
    for image in targets_of_image.nonzero()[:, 0].tolist():
        order = losses[image].argsort(descending=True, stable=True)
        if mining.nms > 0:
            own = boxes if boxes.dim() == 2 else boxes[image]
            order = _suppressed(own, order[: mining.nms_top_k] if mining.nms_top_k > -1 else order, mining)
        chosen[image, order[: mining.samples]] = True
    return chosen


def _suppressed(boxes: Tensor, order: Tensor, mining: MiningRule) -> Tensor:
    """Of (K,) priors, hardest first, those that no harder kept one overlaps by more than the limit."""
    order = order[area(boxes[order]) >= LEAST_AREA]
    overlaps = iou_matrix(boxes[order], boxes[order]) > mining.nms
    kept: list[int] = []
    left = torch.ones(len(order), dtype=torch.bool, device=order.device)
    for place in range(len(order)):
        if left[place] and (mining.nms_top_k < 0 or len(kept) < mining.nms_top_k):
            kept.append(place)
            left &= ~overlaps[place]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
