"""Exact greedy non-maximum suppression, batched, in torch alone.

Greedy NMS over boxes in score order is a recursion: a box is kept when no better kept box overlaps it too much. It has
one solution, and iterating ``keep <- valid and not any(keep_i and overlap_ij for i < j)`` reaches it: after n rounds
the first n boxes are right, and a round that changes nothing is the solution. Rounds run on blocks of columns, so their
number and the memory are bounded, and on all sets of the batch at once; the only Python loop is over blocks.

The test is Caffe's (``ApplyNMSFast``): IoU without +1 (``boxes.iou_matrix``), keep at IoU <= threshold. An IoU that is
not a number (areas that overflow) drops the box, as it does there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.boxes import iou_matrix

BLOCK = 64
"""Columns per block: small enough that one block's overlaps stay in a core's cache."""


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
    _check(boxes, valid, threshold)
    keep = torch.zeros_like(valid)
    if not valid.numel():
        return keep
    # Sets with many boxes first: the sets still busy in a block are then a prefix, and padding costs nothing.
    places = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    lengths, order = (places * valid).amax(1).sort(descending=True)
    boxes, valid, counts = boxes[order], valid[order], lengths.tolist()
    kept = torch.zeros_like(valid)
    for start in range(0, counts[0], BLOCK):
        stop = min(start + BLOCK, counts[0])
        busy = sum(count > start for count in counts)
        block = boxes[:busy, start:stop]
        alive = valid[:busy, start:stop]
        if start:
            alive = alive & ~_suppressed_by(boxes[:busy, :start], kept[:busy, :start], block, threshold, inclusive)
        kept[:busy, start:stop] = _fixpoint(block, alive, threshold, inclusive)
    keep[order] = kept
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


def _too_close(overlap: Tensor, threshold: float, inclusive: bool) -> Tensor:
    return ~((overlap < threshold) if inclusive else (overlap <= threshold))


def _suppressed_by(rows: Tensor, kept: Tensor, columns: Tensor, threshold: float, inclusive: bool) -> Tensor:
    """(B, M) bool: columns (B, M, 4) that a kept row (B, R, 4; kept (B, R)) suppresses."""
    most = int(kept.sum(1).max())
    if most < kept.shape[1]:  # bring the kept rows to the front; a few sets fill up with rows that were not kept
        front = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        rows = rows.gather(1, front[..., None].expand(-1, -1, 4))
        kept = kept.gather(1, front)
    close = _too_close(iou_matrix(rows, columns), threshold, inclusive)
    return close.logical_and_(kept[..., None]).any(1)


def _fixpoint(boxes: Tensor, alive: Tensor, threshold: float, inclusive: bool) -> Tensor:
    """(B, M) bool: greedy NMS among boxes (B, M, 4), of which ``alive`` (B, M) take part."""
    close = _too_close(iou_matrix(boxes, boxes), threshold, inclusive).triu_(1)
    close.logical_and_(alive[..., None])
    keep = alive
    while True:
        following = alive & ~(close & keep[..., None]).any(1)
        if torch.equal(following, keep):
            return keep
        keep = following


def _check(boxes: Tensor, valid: Tensor, threshold: float) -> None:
    if boxes.dim() != 3 or boxes.shape[-1] != 4 or boxes.shape[:2] != valid.shape or valid.dtype != torch.bool:
        raise UsageError(
            "NMS needs boxes (B, K, 4) and a bool mask (B, K)",
            got=f"{tuple(boxes.shape)} and {valid.dtype} {tuple(valid.shape)}",
        )
    if not threshold >= 0:
        raise UsageError("the NMS threshold must not be negative", got=threshold)
    if bool((boxes.isnan().any(-1) & valid).any()):
        raise FormatError("a box has a coordinate that is not a number")
