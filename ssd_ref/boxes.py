"""Boxes: the two forms, the three codes of loc against priors, and intersection over union.

Corner form is (xmin, ymin, xmax, ymax), centre form (cx, cy, w, h), both fractions of the image. The codes are those of
Caffe's SSD branch (PriorBoxParameter.CodeType), computed in the order of its ``bbox_util``; CENTER_SIZE is the SSD
paper's code (Liu et al. 2016, equation 2) with variances.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

Code = Literal["center_size", "corner", "corner_size"]


def to_centers(corners: Tensor) -> Tensor:
    """(..., 4) xmin, ymin, xmax, ymax to cx, cy, w, h."""
    low, high = corners[..., :2], corners[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def to_corners(centers: Tensor) -> Tensor:
    """(..., 4) cx, cy, w, h to xmin, ymin, xmax, ymax."""
    middle, half = centers[..., :2], centers[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def decode(
    loc: Tensor,
    priors: Tensor,
    variances: Tensor,
    code: Code,
    variance_encoded: bool = False,
    max_exponent: float | None = None,
) -> Tensor:
    """Box regressions to boxes.

    With d = loc, v = variances (1 when they are encoded in loc already) and the prior p:

    - ``center_size``: c = v_xy d_xy p_wh + p_xy, s = exp(v_wh d_wh) p_wh, box = c -+ s/2
    - ``corner``: box = p + v d
    - ``corner_size``: box = p + v d (p_w, p_h, p_w, p_h)

    Args:
        loc: (..., P, 4) in the order dx, dy, dw, dh (or dxmin, dymin, dxmax, dymax).
        priors: (P, 4), broadcast against loc; centre form for ``center_size``, else corner form.
        variances: (P, 4), broadcast against loc.
        max_exponent: cap of v_wh d_wh for ``center_size``, None for none.

    Returns:
        (..., P, 4) xmin, ymin, xmax, ymax as fractions of the image, not clipped.
    """
    delta = loc if variance_encoded else variances * loc
    match code:
        case "center_size":
            size = priors[..., 2:]
            middle = delta[..., :2] * size + priors[..., :2]
            growth = delta[..., 2:] if max_exponent is None else delta[..., 2:].clamp(max=max_exponent)
            half = torch.exp(growth) * size / 2
            return torch.cat([middle - half, middle + half], dim=-1)
        case "corner":
            return priors + delta
        case "corner_size":
            return priors + delta * _sides(priors)
    assert_never(code)


def encode(boxes: Tensor, priors: Tensor, variances: Tensor, code: Code, variance_encoded: bool = False) -> Tensor:
    """Boxes to box regressions: the inverse of ``decode``, same arguments with boxes (..., P, 4) in corner form.

    For ``center_size``, boxes and priors need a positive width and height.
    """
    match code:
        case "center_size":
            centers = to_centers(boxes)
            shift = (centers[..., :2] - priors[..., :2]) / priors[..., 2:]
            delta = torch.cat([shift, torch.log(centers[..., 2:] / priors[..., 2:])], dim=-1)
        case "corner":
            delta = boxes - priors
        case "corner_size":
            delta = (boxes - priors) / _sides(priors)
        case _:
            assert_never(code)
    return delta if variance_encoded else delta / variances


def _sides(corners: Tensor) -> Tensor:
    """(..., 4) corners to w, h, w, h."""
    size = corners[..., 2:] - corners[..., :2]
    return torch.cat([size, size], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Area of (..., 4) corner boxes, without the pixel convention's +1; 0 for an inverted box."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (Jaccard index) of every pair, as Caffe's ``JaccardOverlap``: no +1, 0 where boxes only
    touch, and where an intersection has no area.

    Args:
        a: (..., N, 4) corner form.
        b: (..., M, 4) corner form; leading dimensions broadcast.

    Returns:
        (..., N, M) in [0, 1]; NaN only where areas overflow to infinity.
    """
    ax0, ay0, ax1, ay1 = (a[..., i].unsqueeze(-1) for i in range(4))
    bx0, by0, bx1, by1 = (b[..., i].unsqueeze(-2) for i in range(4))
    inter = (torch.minimum(ax1, bx1).sub_(torch.maximum(ax0, bx0))).clamp_(min=0)
    inter *= (torch.minimum(ay1, by1).sub_(torch.maximum(ay0, by0))).clamp_(min=0)
    union = (area(a).unsqueeze(-1) + area(b).unsqueeze(-2)).sub_(inter)
    return torch.where(inter > 0, inter / union, torch.zeros((), dtype=inter.dtype, device=inter.device))
