"""PriorBox layers of the SSD branch as ``PriorMap`` data."""

from __future__ import annotations

from ssdconv.converters.caffe.specs import short_float
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.caffe_layers.params import Params
from ssdconv.ssd_ref.cells import caffe_cells
from ssdconv.ssd_ref.config import LayerSpec, PriorMap


def prior_map(spec: LayerSpec, grid: tuple[int, int], image: tuple[int, int]) -> PriorMap:
    """The priors of one PriorBox layer, as Caffe's ``PriorBoxLayer`` makes them.

    Args:
        spec: the layer; ``params`` is its ``prior_box_param``.
        grid: (rows, columns) of the feature map it reads.
        image: (height, width) in pixels of the input blob.

    Raises:
        FormatError: sizes, ratios or variances that Caffe refuses.
    """
    p = Params(spec.params, f"layer {spec.name!r} (PriorBox)")
    declared = _image(p)
    step = _step(p, grid, declared or image)
    try:
        cells = caffe_cells(
            p.numbers("min_size"), p.numbers("max_size"), p.numbers("aspect_ratio"), flip=p.flag("flip", True)
        )
    except FormatError as error:
        raise FormatError(error.what, where=p.where, expected=error.expected, got=error.got) from None
    return PriorMap(
        grid=grid,
        step=step,
        cells=cells,
        offset=short_float(p.number("offset", 0.5)),
        clip="corners" if p.flag("clip", False) else "none",
        variances=_variances(p),
        image=declared if declared != image else None,
    )


def _image(p: Params) -> tuple[int, int] | None:
    """``img_size``, or ``img_h`` and ``img_w``: the image size (height, width) that sizes and steps refer to."""
    if "img_h" in p or "img_w" in p:
        if "img_size" in p:
            raise p.fail("img_size is given together with img_h or img_w")
        return p.integer("img_h", 0, low=1), p.integer("img_w", 0, low=1)
    return (p.integer("img_size", 0, low=1),) * 2 if "img_size" in p else None


def _step(p: Params, grid: tuple[int, int], image: tuple[int, int]) -> tuple[float, float]:
    if "step_h" in p or "step_w" in p:
        if "step" in p:
            raise p.fail("step is given together with step_h or step_w")
        step = p.number("step_h", 0.0), p.number("step_w", 0.0)
    else:
        step = (p.number("step", 0.0),) * 2
        if "step" not in p:
            return image[0] / grid[0], image[1] / grid[1]
    if min(step) <= 0:
        raise p.fail("steps must be positive", got=step)
    return short_float(step[0]), short_float(step[1])


def _variances(p: Params) -> tuple[float, float, float, float]:
    values = p.numbers("variance") or (0.1,)
    if len(values) not in (1, 4) or min(values) <= 0:
        raise p.fail("variances must be positive", expected="1 or 4 of them", got=values)
    first, second, third, last = (short_float(v) for v in (values * 4 if len(values) == 1 else values))
    return first, second, third, last
