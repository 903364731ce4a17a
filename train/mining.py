"""Hard negatives, and hard examples: which priors the class loss sees, in the ways of the sources."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssdconv.ssd_ref.boxes import area, iou_matrix
from ssdconv.ssd_ref.loss_rule import LossRule, MiningRule
from ssdconv.train.distributed import Peers
from ssdconv.train.matching import Matches

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
