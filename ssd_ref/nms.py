"""Exact greedy non-maximum suppression, batched, in torch alone.

Greedy NMS over boxes in score order is a recursion: a box is kept when no better kept box overlaps it too much. It has
one solution, and iterating ``keep <- valid and not any(keep_i and overlap_ij for i < j)`` reaches it: after n rounds
the first n boxes are right, and a round that changes nothing is the solution. Rounds run on blocks of boxes, so their
number and the memory are bounded, and on all sets of the batch at once; the only Python loops are over blocks.

The test is Caffe's (``ApplyNMSFast``): IoU without +1 (``boxes.iou_matrix``), keep at IoU <= threshold. An IoU that is
not a number (areas that overflow) drops the box, as it does there.

Some projects make the union a little larger than the boxes, by a margin m of their sides or by a small number e, so that small boxes
overlap a little less: IoU = overlap / ((w1 + m)(h1 + m) + (w2 + m)(h2 + m) - overlap + e). AIZOOTech/FaceMaskDetection (utils/nms.py) has
m = 0.001 of the image, qfgaohao/pytorch-ssd and Ultra-Light-Fast-Generic-Face-Detector-1MB (``iou_of``) have e = 1e-5 of its area.
Candidates are few there (scores above 0.5), so one row of overlaps at a time is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.boxes import area, iou_matrix

BLOCK, FEW_SETS = 64, 32
"""Boxes of a set resolved at a time; twice as many while there are few sets, where calls cost more than work."""

PAIRS = 1 << 18
"""Overlaps computed at a time: on the CPU what fits a core's cache, elsewhere 64 times as many."""

_TAME = 1e18
"""Coordinates below this in size cannot make a float32 area, or a sum of two, overflow."""


@dataclass(frozen=True)
class _Test:
    """When a box drops another one; ``tame``: no coordinate exceeds ``_TAME``."""

    threshold: float
    inclusive: bool
    tame: bool

    def drops(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(B, R, M) of 1 and 0 in the boxes' dtype: row (B, R, 4) would drop column (B, M, 4)."""
        if self.tame:
            overlap = _tame_iou(rows, columns)
            return overlap.ge_(self.threshold) if self.inclusive else overlap.gt_(self.threshold)
        overlap = iou_matrix(rows, columns)
        return (~(overlap < self.threshold if self.inclusive else overlap <= self.threshold)).to(rows.dtype)


def nms_mask(boxes: Tensor, valid: Tensor, threshold: float, inclusive: bool = False) -> Tensor:
    """Which boxes greedy NMS keeps, for many independent sets at once.

    Args:
        boxes: (B, K, 4) xmin, ymin, xmax, ymax; in each set by descending score. Any unit.
        valid: (B, K) bool; False marks padding, which neither is kept nor suppresses.
        threshold: a box is dropped when its IoU with a better kept one exceeds it.
        inclusive: also drop at IoU equal to the threshold.

    Returns:
        (B, K) bool.

    Raises:
        FormatError: a valid box has a coordinate that is not a number.
        UsageError: a negative threshold, or shapes that do not fit.
    """
    tame = _check(boxes, valid, threshold)
    test = _Test(threshold, inclusive, tame)
    keep = torch.zeros_like(valid)
    if not valid.numel():
        return keep
    # Sets with many boxes first: the sets still busy in a block are then a prefix, and padding costs nothing.
    places = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    lengths, order = (places * valid).amax(1).sort(descending=True)
    counts = [count for count in lengths.tolist() if count]
    order = order[: len(counts)]
    boxes, alive = boxes[order], valid[order][:, None].to(boxes.dtype)
    better = boxes[:, :0], alive[..., :0]
    width = BLOCK * 2 if len(counts) <= FEW_SETS else BLOCK
    for start in range(0, max(counts, default=0), width):
        busy, stop = sum(count > start for count in counts), min(start + width, counts[0])
        block, state = boxes[:busy, start:stop], alive[:busy, :, start:stop]
        entering = _untouched(state, better[0][:busy], better[1][:busy], block, test)
        state.copy_(_fixpoint(entering, test.drops(block, block).triu_(1)))
        if stop < counts[0]:
            better = _append(better[0][:busy], better[1][:busy], block, state)
    keep[order] = alive[:, 0] > 0
    return keep


def adaptive_nms_mask(boxes: Tensor, valid: Tensor, threshold: float, eta: float) -> Tensor:
    """Caffe's adaptive NMS: after each kept box the threshold is multiplied by ``eta`` while it is above 0.5.

    The threshold that a box meets depends on all boxes kept before it, so this walks the K boxes one by one, for all
    sets at once. Arguments, result and errors as in ``nms_mask``; ``eta`` is in (0, 1], 1 being plain NMS.
    """
    _check(boxes, valid, threshold)
    if not 0 < eta <= 1:
        raise UsageError("the adaptive NMS factor must lie in (0, 1]", got=eta)
    keep = torch.zeros_like(valid)
    limit = torch.full(valid.shape[:1], threshold, dtype=boxes.dtype, device=boxes.device)
    for index in range(valid.shape[1]):
        overlap = iou_matrix(boxes[:, index : index + 1], boxes[:, :index])[:, 0]
        clear = ((overlap <= limit[:, None]) | ~keep[:, :index]).all(1)
        keep[:, index] = valid[:, index] & clear
        limit = torch.where(keep[:, index] & (limit > 0.5), limit * eta, limit)
    return keep


def _tame_iou(a: Tensor, b: Tensor) -> Tensor:
    """``iou_matrix`` of (B, R, 4) and (B, M, 4) in fewer passes, equal to the last bit where no area overflows."""
    ax0, ay0, ax1, ay1 = a.movedim(-1, 0).unsqueeze(-1).contiguous()
    bx0, by0, bx1, by1 = b.movedim(-1, 0).unsqueeze(-2).contiguous()
    inter = torch.minimum(ax1, bx1).sub_(torch.maximum(ax0, bx0)).clamp_(min=0)
    inter.mul_(torch.minimum(ay1, by1).sub_(torch.maximum(ay0, by0)).clamp_(min=0))
    union = (area(a).unsqueeze(-1) + area(b).unsqueeze(-2)).sub_(inter)
    # Two boxes without area: 0 / smallest positive number gives the 0 that is wanted, and changes no other union.
    return inter.div_(union.clamp_(min=torch.finfo(a.dtype).smallest_normal * torch.finfo(a.dtype).eps))


def _untouched(alive: Tensor, better: Tensor, weight: Tensor, block: Tensor, test: _Test) -> Tensor:
    """``alive`` (B, 1, M) less the boxes (B, M, 4) that a better kept one (B, R, 4; weight (B, 1, R) 1 or 0) drops."""
    pairs = PAIRS if block.device.type == "cpu" else PAIRS << 6
    step = max(pairs // (block.shape[0] * block.shape[1]), 8)
    for at in range(0, better.shape[1], step):
        alive = _less(alive, weight[..., at : at + step], test.drops(better[:, at : at + step], block))
    return alive


def _fixpoint(alive: Tensor, drops: Tensor) -> Tensor:
    """(B, 1, M) of 1 and 0: greedy NMS among the ``alive`` (B, 1, M), given who would drop whom (B, M, M)."""
    keep = alive
    for _ in range(alive.shape[-1]):  # drops is strictly upper triangular, so this many rounds always do
        following = _less(alive, keep, drops)
        if torch.equal(following, keep):
            break
        keep = following
    return keep


def _less(alive: Tensor, keep: Tensor, drops: Tensor) -> Tensor:
    """``alive`` (B, 1, M) without what a kept row (B, 1, R) drops (B, R, M); all of 1 and 0, so counts are exact."""
    return torch.baddbmm(alive, keep, drops, alpha=-1).clamp_(min=0)


def _append(better: Tensor, weight: Tensor, block: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Add a block's kept boxes to the better ones, padded (weight 0) to the most that a set kept."""
    most = int(keep.sum(-1).max())
    kept, front = keep.sort(stable=True, dim=-1, descending=True)
    chosen = block.gather(1, front[:, 0, :most, None].expand(-1, -1, 4))
    return torch.cat([better, chosen], 1), torch.cat([weight, kept[..., :most]], -1)


def _check(boxes: Tensor, valid: Tensor, threshold: float) -> bool:
    """Refuse what cannot be judged; returns whether all coordinates are tame."""
    if boxes.dim() != 3 or boxes.shape[-1] != 4 or boxes.shape[:2] != valid.shape or valid.dtype != torch.bool:
        raise UsageError(
            "NMS needs boxes (B, K, 4) and a bool mask (B, K)",
            got=f"{tuple(boxes.shape)} and {valid.dtype} {tuple(valid.shape)}",
        )
    if not threshold >= 0:
        raise UsageError("the NMS threshold must not be negative", got=threshold)
    if boxes.dtype not in (torch.float32, torch.float64) or not boxes.numel():
        return False
    if float(boxes.abs().amax()) < _TAME:
        return True
    if bool((boxes.isnan().any(-1) & valid).any()):
        raise FormatError("a box has a coordinate that is not a number")
    return False


def margin_nms_mask(
    boxes: Tensor, valid: Tensor, threshold: float, margin: float, epsilon: float = 0.0, inclusive: bool = False
) -> Tensor:
    """Which boxes greedy NMS keeps.

    Args:
        boxes: (B, K, 4) xyxy, in each set by descending score, in the unit of ``margin``.
        valid: (B, K) bool; False marks padding.
        threshold: a box is dropped when its IoU with a better kept one exceeds it, or with ``inclusive`` equals it.
        margin: added to the sides in the areas.
        epsilon: added to the union.

    Returns:
        (B, K) bool.

    Raises:
        FormatError: a coordinate is not a number.
    """
    if bool(boxes.isnan().any()):
        raise FormatError("boxes have coordinates that are not numbers")
    keep = valid.clone()
    sides = boxes[..., 2:] - boxes[..., :2] + margin
    areas = sides[..., 0] * sides[..., 1]
    for index in range(boxes.shape[1] - 1):
        if not bool(keep[:, index].any()):
            continue
        one, rest = boxes[:, index, None], boxes[:, index + 1 :]
        overlap = (torch.minimum(one[..., 2:], rest[..., 2:]) - torch.maximum(one[..., :2], rest[..., :2])).clamp_min(0)
        shared = overlap[..., 0] * overlap[..., 1]
        union = areas[:, index, None] + areas[:, index + 1 :] - shared + epsilon
        share = shared / union
        near = share >= threshold if inclusive else share > threshold
        keep[:, index + 1 :] &= ~(near & keep[:, index, None])
    return keep
