"""Greedy NMS whose union is a little larger than the boxes: by a margin of their sides, or by a small number.

IoU = overlap / ((w1 + m)(h1 + m) + (w2 + m)(h2 + m) - overlap + e). AIZOOTech/FaceMaskDetection (utils/nms.py) has m = 0.001 of the
image, qfgaohao/pytorch-ssd and Ultra-Light-Fast-Generic-Face-Detector-1MB (``iou_of``) have e = 1e-5 of its area: small boxes
overlap a little less than they do. Candidates are few there (scores above 0.5), so one row of overlaps at a time is enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssdconv.errors import FormatError


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
