"""The MultiBox loss of SSD (arXiv:1512.02325, equations 1-3) with hard negative mining, in its sources' variants.

loc: smooth L1 (beta 1) of the encoded offsets of matched priors; conf: softmax cross entropy of matched priors and of the
hardest unmatched ones. Both are sums over the batch, divided by the recipe's normaliser.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdconv.ssd_ref.boxes import encode
from ssdconv.ssd_ref.priors import Priors
from ssdconv.ssd_ref.train.matching import Matches, match
from ssdconv.ssd_ref.train.rules import LossRule
from ssdconv.ssd_ref.train.targets import Targets


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


def multibox_loss(loc: Tensor, conf: Tensor, priors: Priors, targets: Targets, rule: LossRule | None = None) -> Loss:
    """Loss of a batch.

    Args:
        loc: (N, P, 4) raw offsets.
        conf: (N, P, C) raw class outputs, background 0.
        priors: of the network, in the heads' dtype.
        targets: objects of the N images.
        rule: the recipe's; default: Caffe's.

    Returns:
        Differentiable terms; an image without objects contributes nothing.
    """
    rule = rule or LossRule()
    matches = match(priors.corners, targets, rule.matching)
    positive = matches.positive
    labels = _labels(matches, targets)
    wanted = _offsets(matches, targets, priors)
    loc_each = F.smooth_l1_loss(loc, wanted, reduction="none").sum(-1)
    conf_each = F.cross_entropy(conf.transpose(1, 2), labels, reduction="none")
    negative = hard_negatives(conf_each.detach(), matches, rule)
    positives, negatives = positive.sum(), negative.sum()
    chosen = positive | negative
    count = positives.clamp_min(1).to(conf.dtype)
    if rule.conf_normalizer == "selected":
        conf_count = chosen.sum().clamp_min(1).to(conf.dtype) / (1.0 + rule.neg_pos_ratio)
    else:
        conf_count = count
    zero = conf_each.new_zeros(())
    return Loss(
        rule.loc_weight * torch.where(positive, loc_each, zero).sum() / count,
        torch.where(chosen, conf_each, zero).sum() / conf_count,
        positives,
        negatives,
    )


def _labels(matches: Matches, targets: Targets) -> Tensor:
    if targets.labels.shape[1] == 0:
        return torch.zeros_like(matches.object)
    labels = targets.labels.gather(1, matches.object.clamp_min(0))
    return torch.where(matches.positive, labels, 0)


def _offsets(matches: Matches, targets: Targets, priors: Priors) -> Tensor:
    """(N, P, 4) encoded offsets; 0 where no object is matched (an unmatched prior encodes itself)."""
    shape = (*matches.object.shape, 4)
    own = priors.corners.expand(shape)
    if targets.boxes.shape[1] == 0:
        return torch.zeros(shape, dtype=own.dtype, device=own.device)
    index = matches.object.clamp_min(0)[..., None].expand(shape)
    boxes = torch.where(matches.positive[..., None], targets.boxes.to(own.dtype).gather(1, index), own)
    return encode(boxes, priors.form("center_size"), priors.variances, "center_size")


@torch.no_grad()
def hard_negatives(conf_each: Tensor, matches: Matches, rule: LossRule) -> Tensor:
    """The unmatched priors with the largest conf loss, ``neg_pos_ratio`` per positive: (N, P) bool.

    Equal losses are taken in the order of the priors.
    """
    candidate = ~matches.positive & (matches.overlap < rule.neg_overlap)
    losses = torch.where(candidate, conf_each, conf_each.new_tensor(-torch.inf))
    positives = matches.positive
    if rule.mining == "batch":
        losses, candidate, positives = (t.reshape(1, -1) for t in (losses, candidate, positives))
    allowed = (positives.sum(1) * rule.neg_pos_ratio).floor().long()
    allowed = torch.minimum(allowed, candidate.sum(1))
    order = losses.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < allowed[:, None]).view_as(matches.positive)
