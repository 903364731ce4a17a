"""Which channel order a file's first layer reads: told by the user, by a known file with the same weights, or not at all.

The same names and shapes exist in both orders (ssd.pytorch trains RGB; weights made from Caffe read BGR), and a wrong guess
costs about 5 mAP without any error. So nothing is guessed: weights that equal a known file's first layer, as they are or with
their input channels reversed, decide; weights that are merely near do not, because training may have started from weights of
the other order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssdconv.converters.convert import open_source
from ssdconv.converters.registry import recognise
from ssdconv.converters.same_network import FIRST_LAYER
from ssdconv.converters.tensors import Array
from ssdconv.errors import SsdconvError, UsageError
from ssdconv.ssd_ref.files import CHECKPOINTS

KNOWN: dict[str, dict[str, str]] = {
    "caffe": {"conv1_1/0": "BGR"},
    "chainer": {"extractor/conv1_1/W": "RGB", "conv1_1/W": "RGB"},
}
"""Source -> name of VGG16's first layer in its files, backbone-only ones included, and the order that it reads."""

REVERSED = {"RGB": "BGR", "BGR": "RGB"}

EXPLANATION = (
    "ssd.pytorch's code feeds RGB, so weights trained by it need RGB; weights that were converted from Caffe, such as "
    "ssd_300_VOC0712.pth, need BGR. Say `--channel-order RGB` or `--channel-order BGR`; a file with the same weights in a known "
    "order (a .caffemodel, a ChainerCV .npz) decides it too: option like=FILE"
)


def known_first_layer(path: Path) -> tuple[Array, str]:
    """The first layer (O, 3, 3, 3) of a file whose channel order is known, and that order.

    Raises:
        UsageError: the file does not tell its order.
        MissingError, FormatError, UnsafeFileError: it cannot be read.
    """
    if path.suffix in CHECKPOINTS:
        from ssdconv.ssd_ref.checkpoint import read

        own = read(path)
        if FIRST_LAYER in own.state_dict:
            return own.state_dict[FIRST_LAYER].numpy(), own.config.pixels.order
    source = recognise(path)
    with source.module.read(path) as table:
        for name, order in KNOWN.get(source.name, {}).items():
            if name in table:
                return np.array(table[name].load()), order
    with (opened := open_source(path, source.name)).table as table:
        for entry, array in opened.plan.mapping.forward(table):
            if entry.target == FIRST_LAYER:
                return np.array(array), opened.plan.config.pixels.order
    raise UsageError("this file has no first layer of a VGG16 to compare with", where=str(path))


def order_like(first: Array, path: Path) -> str:
    """The order that ``first`` (O, 3, 3, 3) reads, by comparison with a known file.

    Raises:
        UsageError: the weights are not those of that file in either order.
    """
    try:
        known, order = known_first_layer(path)
    except UsageError:
        raise
    except SsdconvError as error:
        error.hint = error.hint or "like=FILE wants a .caffemodel, a ChainerCV .npz or a checkpoint of ssdconv"
        raise
    if first.shape == known.shape:
        if np.array_equal(first, known):
            return order
        if np.array_equal(first, known[:, ::-1]):
            return REVERSED[order]
        size = float(np.linalg.norm(known)) or 1.0
        as_is, turned = (float(np.linalg.norm(first - k)) / size for k in (known, known[:, ::-1]))
        got = f"relative distance {as_is:.3g} as it is, {turned:.3g} with channels reversed"
    else:
        got = f"shapes {first.shape} and {known.shape}"
    raise UsageError(
        "the first layer is not that of the known file, in neither channel order, so it does not tell which one it reads",
        where=str(path),
        expected="equal weights",
        got=got,
        hint="near is not enough: training may have started from weights of the other order. " + EXPLANATION,
    )
