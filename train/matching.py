"""Which prior is responsible for which object: bipartite matching, then every prior with enough overlap.

Batched on the device of its inputs, without a loop over images, objects or priors. The greedy bipartite step (best pair
of all first, then the best pair of what is left, …; caffe/src/caffe/util/bbox_util.cpp ``MatchBBox``, the same rule in
ChainerCV's ``MultiboxCoder.encode`` and MXNet's ``bipartite_matching``) is done in rounds: all pairs that are the best of
their object and of their prior at once are matched together, which gives the greedy result because such pairs cannot
take each other's place. A handful of rounds settles any image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssdconv.ssd_ref.loss_rule import MatchRule
from ssdconv.train.anchors import Anchors
from ssdconv.train.targets import Targets

IGNORED = -2
"""In ``Matches.object``: neither matched nor a negative."""


@dataclass(frozen=True)
class Matches:
    """Result of matching.

    Attributes:
        object: (N, P) int64, index of the matched object, -1 for none, -2 for priors that are left out.
        overlap: (N, P) best IoU of each prior with any object, 0 where the image has none.
    """

    object: Tensor
    overlap: Tensor

    @property
    def positive(self) -> Tensor:
        """(N, P) bool: priors with an object."""
        return self.object >= 0


@torch.no_grad()
def match(anchors: Anchors, targets: Targets, rule: MatchRule, boxes: Tensor | None = None) -> Matches:
    """Match the priors of each image.

    Args:
        anchors: the network's priors by the rule's arithmetic.
        targets: objects of N images.
        rule: of the recipe.
        boxes: (N, P, 4) corner form, to be matched instead of the priors.
    """
    if boxes is not None:
        anchors = Anchors.given(boxes, rule.numerics)
    corners = anchors.corners
    count, priors = len(targets.valid), corners.shape[-2]
    matched = torch.full((count, priors), -1, dtype=torch.int64, device=corners.device)
    if targets.valid.shape[1] == 0 or priors == 0:
        return Matches(matched, torch.zeros(matched.shape, dtype=corners.dtype, device=corners.device))
    iou = anchors.overlaps(targets.boxes)
    if anchors.order is not None:  # the first of equal priors is looked for in the source's order
        iou = iou[:, anchors.order]
    iou = torch.where(targets.valid[:, None, :], iou, -1.0)
    if rule.inside_only:
        outside = ((corners < 0) | (corners > 1)).any(-1).expand(count, priors) & targets.valid.any(1)[:, None]
        iou = torch.where(outside[..., None], 0.0, iou)
    overlap, best = iou.max(dim=2)
    if rule.forced == "greedy":
        matched = _greedy(iou.clone(), matched, rule.least)
    elif rule.forced != "none":
        matched = _per_object(iou, targets.valid, matched, rule)
    if rule.ties != "none":
        shared = (iou.gather(2, best[..., None])[..., 0] >= iou.amax(dim=1).gather(1, best)) & (overlap >= 0)
        if rule.ties == "overlapping":
            shared &= overlap > 0
        matched = torch.where((matched < 0) & shared, best, matched)
    if rule.threshold is not None:
        matched = torch.where((matched < 0) & (overlap >= rule.threshold), best, matched)
    if rule.inside_only:
        matched = torch.where(outside, IGNORED, matched)
    overlap = overlap.clamp_min(0.0)
    if anchors.order is not None:
        place = torch.empty_like(anchors.order)
        place[anchors.order] = torch.arange(priors, device=place.device)
        matched, overlap = matched[:, place], overlap[:, place]
    return Matches(matched, overlap)


def _greedy(iou: Tensor, matched: Tensor, least: float) -> Tensor:
    """(N, P, G) IoU, which is used up, and (N, P) -1 -> (N, P) matched objects. Ties: first prior, then first object."""
    objects = torch.arange(iou.shape[2], device=iou.device)
    while True:
        value, prior = iou.max(dim=1)  # best prior of each object: (N, G)
        rows = iou.gather(1, prior[:, :, None].expand(-1, -1, iou.shape[2]))  # (N, G, G): that prior's IoUs
        mutual = (rows.argmax(dim=2) == objects) & (value > least)
        if not bool(mutual.any()):
            return matched
        image, chosen = mutual.nonzero(as_tuple=True)
        taken = prior[image, chosen]
        matched[image, taken] = chosen
        iou[image, taken, :] = -1.0
        iou[image, :, chosen] = -1.0


def _per_object(iou: Tensor, valid: Tensor, matched: Tensor, rule: MatchRule) -> Tensor:
    """The best prior of each object; the rule says which object keeps a prior that several want."""
    overlap, prior = iou.max(dim=1)  # (N, G)
    index = torch.arange(iou.shape[2], device=iou.device).expand_as(prior)
    order, rank = index, index
    if rule.equal == "numpy_argsort":
        prior, order = _by_argsort(iou, valid)
        rank = torch.empty_like(order).scatter_(1, order, index)
    elif rule.forced != "per_object":  # rank objects by overlap, the one to keep last, then the largest rank wins
        key, least = torch.where(valid, overlap, -torch.inf), rule.forced == "per_object_least"
        order = key.argsort(dim=1, descending=True, stable=True)  # the first of equal ones first
        order = order if least else order.flip(1)
        rank = torch.empty_like(order).scatter_(1, order, index)
    rank = torch.where(valid, rank, -1)
    won = torch.full_like(matched, -1).scatter_reduce(1, prior, rank, "amax", include_self=True)
    return torch.where(won < 0, matched, order.gather(1, won.clamp_min(0)))


def _by_argsort(iou: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """jedol's order: all pairs by numpy's default sort, backwards; each object takes the first pair that it comes to.

    That sort is not stable, and where the processor has vectors for it, newer numpy sorts doubles otherwise than numpy 1.16
    did. Long doubles are sorted by the old code everywhere.

    Returns:
        (N, G) prior of each object, and (N, G) objects in the order in which they came, those that do not count last.
    """
    count, _, objects = iou.shape
    priors, orders = np.zeros((count, objects), np.int64), np.zeros((count, objects), np.int64)
    for image in range(count):
        real = valid[image].nonzero()[:, 0].cpu().numpy()
        rest = [g for g in range(objects) if g not in set(real.tolist())]
        table = iou[image].cpu().numpy()[:, real]
        pairs = np.argsort(table.ravel().astype(np.longdouble))[::-1]
        columns = pairs % max(len(real), 1)
        _, first = np.unique(columns, return_index=True)
        priors[image, real] = pairs[first] // max(len(real), 1)
        orders[image] = [*real[np.argsort(first, kind="stable")], *rest]
    return torch.from_numpy(priors).to(iou.device), torch.from_numpy(orders).to(iou.device)
