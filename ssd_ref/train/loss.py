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
from ssdconv.ssd_ref.train.distributed import Peers, Place
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


def multibox_loss(
    loc: Tensor,
    conf: Tensor,
    priors: Priors,
    targets: Targets,
    rule: LossRule | None = None,
    peers: Peers | None = None,
) -> Loss:
    """Loss of a batch.

    Args:
        loc: (N, P, 4) raw offsets.
        conf: (N, P, C) raw class outputs, background 0.
        priors: of the network, in the heads' dtype.
        targets: objects of the N images.
        rule: the recipe's; default: Caffe's.
        peers: the processes among which the batch is cut up; default: this one has all of it.

    Returns:
        Differentiable terms; an image without objects contributes nothing. With peers ``loc`` and ``conf`` are this process's
        share: they add up to the loss of the whole batch. ``positives`` and ``negatives`` are the whole batch's.
    """
    rule = rule or LossRule()
    peers = peers or Place()
    matches = match(priors.corners, targets, rule.matching)
    positive = matches.positive
    labels = _labels(matches, targets)
    wanted = _offsets(matches, targets, priors)
    loc_each = F.smooth_l1_loss(loc, wanted, reduction="none").sum(-1)
    conf_each = F.cross_entropy(conf.transpose(1, 2), labels, reduction="none")
    negative = hard_negatives(conf_each.detach(), matches, rule, peers)
    positives, negatives = peers.total(torch.stack([positive.sum(), negative.sum()])).unbind()
    chosen = positive | negative
    count = positives.clamp_min(1).to(conf.dtype)
    if rule.conf_normalizer == "selected":
        conf_count = (positives + negatives).clamp_min(1).to(conf.dtype) / (1.0 + rule.neg_pos_ratio)
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
def hard_negatives(conf_each: Tensor, matches: Matches, rule: LossRule, peers: Peers | None = None) -> Tensor:
    """The unmatched priors with the largest conf loss, ``neg_pos_ratio`` per positive: (N, P) bool.

    Equal losses are taken in the order of the priors. Mining over the batch looks at the images of all ``peers``.
    """
    candidate = ~matches.positive & (matches.overlap < rule.neg_overlap)
    losses = torch.where(candidate, conf_each, conf_each.new_tensor(-torch.inf))
    positives = matches.positive
    own, whole = slice(None), losses.shape
    if rule.mining == "batch":
        if peers is not None and peers.world > 1:
            losses = peers.gather(losses)
            candidate, positives = (peers.gather(t.byte()).bool() for t in (candidate, positives))
            own, whole = slice(peers.rank * len(conf_each), (peers.rank + 1) * len(conf_each)), losses.shape
        losses, candidate, positives = (t.reshape(1, -1) for t in (losses, candidate, positives))
    allowed = (positives.sum(1) * rule.neg_pos_ratio).floor().long()
    allowed = torch.minimum(allowed, candidate.sum(1))
    order = losses.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < allowed[:, None]).view(whole)[own]
