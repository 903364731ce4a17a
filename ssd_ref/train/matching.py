"""Which prior is responsible for which object: bipartite matching, then every prior with enough overlap.

Batched on the device of its inputs, without a loop over images, objects or priors. The greedy bipartite step (best pair
of all first, then the best pair of what is left, …; caffe/src/caffe/util/bbox_util.cpp ``MatchBBox``, the same rule in
ChainerCV's ``MultiboxCoder.encode`` and MXNet's ``bipartite_matching``) is done in rounds: all pairs that are the best of
their object and of their prior at once are matched together, which gives the greedy result because such pairs cannot
take each other's place. A handful of rounds settles any image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdconv.ssd_ref.boxes import iou_matrix
from ssdconv.ssd_ref.train.rules import MatchRule
from ssdconv.ssd_ref.train.targets import Targets

NO_OVERLAP = 1e-6
"""Caffe ignores overlaps up to this when it looks for the best pair."""


@dataclass(frozen=True)
class Matches:
    """Result of matching.

    Attributes:
        object: (N, P) int64, index of the matched object, -1 for none.
        overlap: (N, P) best IoU of each prior with any object, 0 where the image has none.
    """

    object: Tensor
    overlap: Tensor

    @property
    def positive(self) -> Tensor:
        """(N, P) bool: priors with an object."""
        return self.object >= 0


@torch.no_grad()
def match(priors: Tensor, targets: Targets, rule: MatchRule) -> Matches:
    """Match the priors of each image.

    Args:
        priors: (P, 4) corner form, fractions of the image, unclipped.
        targets: objects of N images.
        rule: of the recipe.

    Overlaps are always computed in float32, as all sources do: priors lie symmetrically, so that two of them often overlap
    an object equally up to rounding, and another precision would choose another one.
    """
    priors = priors.float()
    count, objects = targets.valid.shape
    matched = torch.full((count, len(priors)), -1, dtype=torch.int64, device=priors.device)
    if objects == 0 or len(priors) == 0:
        return Matches(matched, torch.zeros(matched.shape, dtype=priors.dtype, device=priors.device))
    iou = iou_matrix(priors, targets.boxes.float())
    iou = torch.where(targets.valid[:, None, :], iou, iou.new_tensor(-1.0))
    overlap, best = iou.max(dim=2)
    if rule.forced == "greedy":
        matched = _greedy(iou.clone(), matched)
    elif rule.forced != "none":
        matched = _per_object(iou, targets.valid, matched, rule.forced)
    if rule.ties:
        shared = (iou.gather(2, best[..., None])[..., 0] >= iou.amax(dim=1).gather(1, best)) & (overlap > 0)
        matched = torch.where((matched < 0) & shared, best, matched)
    by_threshold = (matched < 0) & (overlap >= rule.threshold)
    return Matches(torch.where(by_threshold, best, matched), overlap.clamp_min(0.0))


def _greedy(iou: Tensor, matched: Tensor) -> Tensor:
    """(N, P, G) IoU, which is used up, and (N, P) -1 -> (N, P) matched objects. Ties: first prior, then first object."""
    objects = torch.arange(iou.shape[2], device=iou.device)
    while True:
        value, prior = iou.max(dim=1)  # best prior of each object: (N, G)
        rows = iou.gather(1, prior[:, :, None].expand(-1, -1, iou.shape[2]))  # (N, G, G): that prior's IoUs
        mutual = (rows.argmax(dim=2) == objects) & (value > NO_OVERLAP)
        if not bool(mutual.any()):
            return matched
        image, chosen = mutual.nonzero(as_tuple=True)
        taken = prior[image, chosen]
        matched[image, taken] = chosen
        iou[image, taken, :] = -1.0
        iou[image, :, chosen] = -1.0


def _per_object(iou: Tensor, valid: Tensor, matched: Tensor, whose: str) -> Tensor:
    """The best prior of each object; ``whose`` says which object keeps a prior that several want. Equal ones: the last."""
    overlap, prior = iou.max(dim=1)  # (N, G)
    index = torch.arange(iou.shape[2], device=iou.device).expand_as(prior)
    if whose != "per_object":  # rank objects by overlap, the one to keep last, then the largest rank wins
        order = torch.where(valid, overlap, -torch.inf).argsort(
            dim=1, descending=whose == "per_object_least", stable=True
        )
        rank = torch.empty_like(order).scatter_(1, order, index)
    else:
        order, rank = index, index
    rank = torch.where(valid, rank, -1)
    won = torch.full_like(matched, -1).scatter_reduce(1, prior, rank, "amax", include_self=True)
    return torch.where(won < 0, matched, order.gather(1, won.clamp_min(0)))
