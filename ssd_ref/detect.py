"""From raw heads to detections, by the rule of the source (``DetectRule``), batched over images and classes.

Order of work, shared by all sources: scores, score test, candidates kept before NMS, decoding, NMS per class, limits
after NMS. Candidates are compacted right after the score test, so the cost follows their number and not the number of
priors times classes.

Ties. Equal scores are ordered by class and then by prior: within a class this is Caffe's order (a stable sort over the
priors). Where Caffe cuts to ``keep_top_k`` it sorts without regard to ties, so which of several boxes with exactly the
score at the cut stays is undetermined there; here the lower class, then the lower prior, stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.boxes import decode
from ssdconv.ssd_ref.config import DetectRule, PriorMap
from ssdconv.ssd_ref.detections import Detections, caffe_rows
from ssdconv.ssd_ref.nms import adaptive_nms_mask, nms_mask
from ssdconv.ssd_ref.priors import Priors

__all__ = ["Detections", "caffe_rows", "detect", "detect_with", "scores_of"]


def detect(
    loc: Tensor, conf: Tensor, maps: Sequence[PriorMap], image_size: tuple[int, int], rule: DetectRule
) -> list[Detections]:
    """Raw heads to detections per image, with the priors of a config.

    Args:
        loc: (N, P, 4); with ``share_location`` off (N, P, C, 4) or (N, P, C * 4).
        conf: (N, P, C) before ``rule.activation``.
        maps: the config's priors, P in all.
        image_size: input height and width in pixels.
        rule: the source's rule.

    Returns:
        One ``Detections`` per image, boxes as fractions of the image, best score first. Dtype and device of the heads;
        float64 heads are treated in float64 throughout.

    Raises:
        FormatError: shapes do not fit each other, or heads hold values that are not numbers.
    """
    return detect_with(loc, conf, Priors.of(maps, image_size, conf.dtype, conf.device), rule)


@torch.no_grad()
def detect_with(loc: Tensor, conf: Tensor, priors: Priors, rule: DetectRule) -> list[Detections]:
    """``detect`` with the priors given as tensors; see there."""
    loc = _checked_loc(loc, conf, priors, rule)
    images, count, classes = conf.shape
    scores = scores_of(conf, rule.activation)
    passed = scores >= rule.score_threshold if rule.score_inclusive else scores > rule.score_threshold
    if rule.background is not None:
        passed[..., rule.background] = False
    # A candidate is a place in (image, prior, class); as (image, class, prior) it sorts by class, then prior.
    place = passed.view(-1).nonzero().squeeze(1)
    score = scores.view(-1)[place]
    prior, label = place // classes % count, place % classes
    image = place // (count * classes)
    group = image * classes + label

    if rule.min_size > 0:  # the size test comes before the candidates are counted
        boxes = _boxes(loc, priors, rule, image, prior, label)
        large = (boxes[:, 2:] - boxes[:, :2] > rule.min_size).all(1)
        image, prior, label, group, score = (t[large] for t in (image, prior, label, group, score))
    order = score.argsort(descending=True, stable=True)
    if rule.top_k_scope == "image" and rule.top_k >= 0:
        order = _by_score(score, group)
        order = order[image[order].argsort(stable=True)]
        order = order[_rank(image[order], images) < rule.top_k]
    order = order[group[order].argsort(stable=True)]
    rank = _rank(group[order], images * classes)
    if rule.top_k_scope == "class" and rule.top_k >= 0:
        inside = rank < rule.top_k
        order, rank = order[inside], rank[inside]
    image, prior, label, group, score = (t[order] for t in (image, prior, label, group, score))
    boxes = _boxes(loc, priors, rule, image, prior, label)
    if bool(boxes.sum().isnan()) and bool(boxes.isnan().any()):
        raise FormatError("loc has values that are not numbers", hint="look for NaN weights: ssdconv inspect")

    keep = _nms(boxes, group, rank, rule)
    image, prior, label, score, boxes, group = (t[keep] for t in (image, prior, label, score, boxes, group))
    if rule.clip == "after":
        boxes = boxes.clamp(0, 1)
    order = score.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    if rule.keep_top_k >= 0:
        order = order[_rank(image[order], images) < rule.keep_top_k]
    sizes = torch.bincount(image[order], minlength=images).tolist()
    parts = (t[order].split(sizes) for t in (boxes, label, score, prior))
    return [Detections(*fields) for fields in zip(*parts, strict=True)]


def scores_of(conf: Tensor, activation: str) -> Tensor:
    """Class outputs (..., C) to scores: softmax over the last axis, sigmoid, or unchanged ("none")."""
    if activation == "softmax":
        return conf.softmax(-1)
    return conf.sigmoid() if activation == "sigmoid" else conf.contiguous()


def _checked_loc(loc: Tensor, conf: Tensor, priors: Priors, rule: DetectRule) -> Tensor:
    """loc as (N, P, 1 or C, 4), after checking shapes and that conf holds numbers."""
    if conf.dim() != 3 or conf.shape[1] != len(priors):
        raise FormatError("conf does not fit the priors", expected=f"(N, {len(priors)}, C)", got=tuple(conf.shape))
    images, count, classes = conf.shape
    boxes = 1 if rule.share_location else classes
    if loc.shape[:2] != conf.shape[:2] or loc[:1, :1].numel() != boxes * 4 * min(images, 1):
        raise FormatError(
            "loc does not fit conf and the priors",
            expected=f"({images}, {count}, {boxes} * 4)",
            got=tuple(loc.shape),
            hint="share_location off needs one box per prior and class" if not rule.share_location else None,
        )
    if bool(conf.sum().isnan()) and bool(conf.isnan().any()):
        raise FormatError("conf has values that are not numbers", hint="look for NaN weights: ssdconv inspect")
    return loc.reshape(images, count, boxes, 4)


def _boxes(loc: Tensor, priors: Priors, rule: DetectRule, image: Tensor, prior: Tensor, label: Tensor) -> Tensor:
    """Decoded boxes (M, 4) of the candidates, clipped where the rule clips before NMS."""
    column = torch.zeros_like(label) if rule.share_location else label
    chosen = loc[image, prior, column]
    boxes = decode(chosen, priors.form(rule.code)[prior], priors.variances[prior], rule.code, rule.variance_encoded)
    return boxes.clamp(0, 1) if rule.clip == "before_nms" else boxes


def _by_score(score: Tensor, group: Tensor) -> Tensor:
    """Order by descending score, equal ones by group and then as given."""
    order = group.argsort(stable=True)
    return order[score[order].argsort(descending=True, stable=True)]


def _rank(key: Tensor, keys: int) -> Tensor:
    """Place of each entry among those of its key; ``key`` (M,) is sorted and below ``keys``."""
    counts = torch.bincount(key, minlength=keys)
    return torch.arange(len(key), device=key.device) - (counts.cumsum(0) - counts)[key]


def _nms(boxes: Tensor, group: Tensor, rank: Tensor, rule: DetectRule) -> Tensor:
    """Which candidates stay (M,) bool; group (image and class) ascending, rank their place by score within it."""
    if not len(group):
        return torch.zeros_like(group, dtype=torch.bool)
    _, slot, counts = group.unique_consecutive(return_inverse=True, return_counts=True)
    longest = int(counts.max())
    padded = boxes.new_zeros(len(counts), longest, 4)
    padded[slot, rank] = boxes
    valid = torch.arange(longest, device=group.device) < counts[:, None]
    if rule.nms_eta < 1:
        keep = adaptive_nms_mask(padded, valid, rule.nms_threshold, rule.nms_eta)
    else:
        keep = nms_mask(padded, valid, rule.nms_threshold, rule.nms_inclusive)
    if rule.max_per_class >= 0:
        keep &= keep.cumsum(1) <= rule.max_per_class
    return keep[slot, rank]
