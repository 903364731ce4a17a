"""From raw heads to detections, by the rule of the source (``Postprocess``), batched over images and classes.

Order of work, shared by all sources: scores, score test, candidates kept before NMS, decoding, NMS per class, limits
after NMS. Candidates are compacted right after the score test, so the cost follows their number and not the number of
priors times classes.

Ties. Equal scores are ordered by class and then by prior: within a class this is Caffe's order (a stable sort over the
priors). Where Caffe cuts to ``keep_top_k`` it sorts without regard to ties, so which of several boxes with exactly the
score at the cut stays is undetermined there; here the lower class, then the lower prior, stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.boxes import area, decode
from ssdconv.ssd_ref.config import Postprocess, PriorMap
from ssdconv.ssd_ref.nms import adaptive_nms_mask, margin_nms_mask, nms_mask
from ssdconv.ssd_ref.priors import Priors


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best score first; equal scores by class, then by prior.

    Attributes:
        boxes: (n, 4) xmin, ymin, xmax, ymax; fractions of the image as ``detect`` returns them, pixels after
            ``scaled``.
        labels: (n,) int64, the channel of conf (0 is background where there is one, so it never appears then).
        scores: (n,) after softmax or sigmoid.
        priors: (n,) int64, the prior that each box was decoded from.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    priors: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def scaled(self, width: float, height: float) -> Detections:
        """The same detections with boxes multiplied by the image's width and height: pixels of that image."""
        return Detections(
            self.boxes * self.boxes.new_tensor([width, height, width, height]), self.labels, self.scores, self.priors
        )

    def above(self, threshold: float) -> Detections:
        """The detections whose score is above a threshold."""
        chosen = self.scores > threshold
        return Detections(self.boxes[chosen], self.labels[chosen], self.scores[chosen], self.priors[chosen])

    def cpu(self) -> Detections:
        """The same detections in main memory."""
        return Detections(self.boxes.cpu(), self.labels.cpu(), self.scores.cpu(), self.priors.cpu())

    def numpy(self) -> dict[str, npt.NDArray[Any]]:
        """Boxes, labels, scores and priors as NumPy arrays under these names."""
        return {
            "boxes": self.boxes.detach().cpu().numpy(),
            "labels": self.labels.cpu().numpy(),
            "scores": self.scores.detach().cpu().numpy(),
            "priors": self.priors.cpu().numpy(),
        }

    def to_json(self, class_names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """One JSON-ready dict per detection: label, name (when names are given), score, box."""
        rows: list[dict[str, Any]] = []
        for box, label, score in zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True):
            name = {"name": class_names[label]} if class_names else {}
            rows.append({"label": label, **name, "score": score, "box": box})
        return rows


def caffe_rows(detections: Sequence[Detections]) -> npt.NDArray[np.float32]:
    """Detections of a batch as Caffe's DetectionOutput writes them.

    Returns:
        (n, 7) float32 rows (item, label, score, xmin, ymin, xmax, ymax): by item, then label, then best first. When
        no image has any, one row (item, -1, -1, -1, -1, -1, -1) per image.
    """
    if not any(len(found) for found in detections):
        rows = torch.full((len(detections), 7), -1.0)
        rows[:, 0] = torch.arange(len(detections))
        return rows.numpy()
    parts = []
    for item, found in enumerate(detections):
        order = found.labels.argsort(stable=True)
        columns = torch.cat([found.labels[:, None], found.scores[:, None], found.boxes], 1)[order]
        parts.append(torch.nn.functional.pad(columns.float().cpu(), (1, 0), value=item))
    return torch.cat(parts).numpy()


__all__ = ["Detections", "caffe_rows", "detect", "detect_with", "scores_of"]

_NAN_HINT = "weights that are not numbers do this: ssdconv inspect names them"


def detect(
    loc: Tensor, conf: Tensor, maps: Sequence[PriorMap], image_size: tuple[int, int], rule: Postprocess
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


def detect_with(loc: Tensor, conf: Tensor, priors: Priors, rule: Postprocess) -> list[Detections]:
    """``detect`` with the priors given as tensors; see there."""
    if not len(conf):
        return []
    with torch.inference_mode():
        fields, sizes = _select(loc, conf, priors, rule)
        most = rule.keep_top_k if rule.keep_top_k >= 0 else max(sizes, default=0)
        parts = [field.split_with_sizes(sizes) for field in fields]
    # Clones made out here are ordinary tensors, which autograd accepts.
    return [Detections(*(field[:most].clone() for field in entry)) for entry in zip(*parts, strict=True)]


def _select(loc: Tensor, conf: Tensor, priors: Priors, rule: Postprocess) -> tuple[tuple[Tensor, ...], list[int]]:
    """Boxes, labels, scores, priors after NMS, images one after the other and best first; and how many each has."""
    loc = _checked_loc(loc, conf, priors, rule)
    images, count, classes = conf.shape
    scores = scores_of(conf, rule.activation).contiguous()
    passed = scores >= rule.score_threshold if rule.score_inclusive else scores > rule.score_threshold
    if rule.background is not None:
        passed[..., rule.background] = False
    if rule.nms_scope != "class":
        passed &= _best_class(scores, None if rule.background_competes else rule.background)
    # From here on a candidate is its place in the (image, prior, class) array, and its score.
    place = passed.view(-1).nonzero().view(-1)
    score = scores.view(-1)[place]
    if rule.min_size > 0:  # the size test comes before candidates are counted
        boxes = _boxes(loc, priors, rule, place, classes)
        large = (boxes[:, 2:] - boxes[:, :2] > rule.min_size).all(1)
        place, score = place[large], score[large]
    if rule.top_k_scope == "image" and rule.top_k >= 0:
        place, score = _best_of_images(place, score, conf.shape, rule.top_k)

    score, order = score.sort(descending=True, stable=True)
    place = place[order]
    within = 0 if rule.nms_scope == "image" else place % classes
    group, order = (place // (count * classes) * classes + within).sort(stable=True)
    place, score = place[order], score[order]
    counts, rank = _rank(group, images * classes)
    if rule.top_k_scope == "class" and 0 <= rule.top_k < int(counts.max()):
        inside = (rank < rule.top_k).nonzero().view(-1)
        place, score, group, rank = place[inside], score[inside], group[inside], rank[inside]
        counts = counts.clamp(max=rule.top_k)
    boxes = _boxes(loc, priors, rule, place, classes)
    kept = _nms(boxes, group, rank, counts, rule)

    score, order = score[kept].sort(descending=True, stable=True)
    kept = kept[order]
    image, order = (place[kept] // (count * classes)).sort(stable=True)
    kept, score = kept[order], score[order]
    place, boxes = place[kept], boxes[kept]
    if rule.clip == "after":
        boxes = boxes.clamp(0, 1)
        if rule.drop_empty:
            full = (area(boxes) > 0).nonzero().view(-1)
            boxes, place, score, image = boxes[full], place[full], score[full], image[full]
    sizes = torch.bincount(image, minlength=images).tolist()
    return (boxes, place % classes, score, place // classes % count), sizes


def scores_of(conf: Tensor, activation: str) -> Tensor:
    """Class outputs (..., C) to scores: softmax over the last axis, sigmoid, or unchanged ("none")."""
    if activation == "softmax":
        return conf.softmax(-1)
    return conf.sigmoid() if activation == "sigmoid" else conf.contiguous()


def _best_class(scores: Tensor, background: int | None) -> Tensor:
    """(N, P, C) bool: True at each prior's best class, the lower of equal ones."""
    objects = scores.clone()
    if background is not None:
        objects[..., background] = -1.0
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, objects.argmax(-1, keepdim=True), True)


def _checked_loc(loc: Tensor, conf: Tensor, priors: Priors, rule: Postprocess) -> Tensor:
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
        raise FormatError("conf has values that are not numbers", hint=_NAN_HINT)
    return loc.reshape(images, count, boxes, 4)


def _boxes(loc: Tensor, priors: Priors, rule: Postprocess, place: Tensor, classes: int) -> Tensor:
    """Decoded boxes (M, 4) of the candidates, clipped where the rule clips before NMS."""
    cell = place // classes
    chosen = loc.reshape(-1, 4)[cell if rule.share_location else place]
    prior = cell % len(priors)
    boxes = decode(
        chosen,
        priors.form(rule.code)[prior],
        priors.variances[prior],
        rule.code,
        rule.variance_encoded,
        rule.max_exponent,
    )
    return boxes.clamp(0, 1) if rule.clip == "before_nms" else boxes


def _best_of_images(place: Tensor, score: Tensor, shape: torch.Size, top_k: int) -> tuple[Tensor, Tensor]:
    """The ``top_k`` best candidates of each image; of equal scores the lower class, then the lower prior."""
    images, count, classes = shape
    order = (place % classes).argsort(stable=True)
    order = order[score[order].argsort(descending=True, stable=True)]
    image, by_image = (place[order] // (count * classes)).sort(stable=True)
    order = order[by_image][_rank(image, images)[1] < top_k].sort().values
    return place[order], score[order]


def _rank(key: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """How many entries each key has (keys,), and each entry's place among those of its key; ``key`` (M,) is sorted."""
    counts = torch.bincount(key, minlength=keys)
    return counts, torch.arange(len(key), device=key.device) - (counts.cumsum(0) - counts)[key]


def _nms(boxes: Tensor, group: Tensor, rank: Tensor, counts: Tensor, rule: Postprocess) -> Tensor:
    """Indices (n,) of the candidates that NMS leaves.

    A group is a class of an image; candidate m is the ``rank[m]``-th best of ``group[m]``, which has ``counts[group]``.
    """
    longest = int(counts.max())
    padded = boxes.new_zeros(len(counts), longest, 4)
    padded[group, rank] = boxes
    valid = torch.arange(longest, device=group.device) < counts[:, None]
    try:
        if rule.nms_margin > 0 or rule.nms_epsilon > 0:
            keep = margin_nms_mask(
                padded, valid, rule.nms_threshold, rule.nms_margin, rule.nms_epsilon, rule.nms_inclusive
            )
        elif rule.nms_eta < 1:
            keep = adaptive_nms_mask(padded, valid, rule.nms_threshold, rule.nms_eta)
        else:
            keep = nms_mask(padded, valid, rule.nms_threshold, rule.nms_inclusive)
    except FormatError:
        raise FormatError("loc has values that are not numbers", hint=_NAN_HINT) from None
    if rule.max_per_class >= 0:
        keep &= keep.cumsum(1) <= rule.max_per_class
    return keep[group, rank].nonzero().view(-1)
