"""The reference SSD: raw loc and conf from prepared pixels, detections from images; and seeded weights for it.

Seeded weights behave like trained ones, for parity at full size without any download. Convolutions are scaled by fan-in (He et al.,
arXiv:1502.01852), so that activations neither die nor blow up over the depth; the first layer takes the pixel range away; L2 scales
spread around 10 as trained ones do; batch statistics vary, and head outputs are small enough for the box decoder's exp.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ssdconv.errors import FormatError, MissingError
from ssdconv.ssd_ref.backbones import build_backbone
from ssdconv.ssd_ref.config import SSDConfig, Staged
from ssdconv.ssd_ref.layers import ExtraStages, MultiBoxHeads

if TYPE_CHECKING:
    from ssdconv.ssd_ref.postprocess import Detections


class SSD(nn.Module):
    """A Single Shot MultiBox Detector built from its config.

    Children: ``backbone``, ``extras``, ``heads`` for a staged network, ``layers`` for a layer graph (torch.export keeps its own under ``graph``).
    Tensors: pixels (N, channels, H, W) float32 as ``ssd_ref.pixels.prepare`` makes them; loc (N, P, 4) as (dx, dy, dw, dh);
    conf (N, P, C) before softmax or sigmoid, in the config's class order; P runs over maps, then cells row by row, then
    anchors of a cell.
    """

    def __init__(self, config: SSDConfig) -> None:
        super().__init__()
        self.config = config
        if isinstance(config.layers, Staged):
            self._build_stages(config.layers)
        else:
            from ssdconv.ssd_ref.graph.network import LayerGraph

            self.layers = LayerGraph(config.graph)

    def _build_stages(self, staged: Staged) -> None:
        self.backbone = build_backbone(staged.backbone)
        channels: list[int] = list(self.backbone.channels)  # type: ignore[arg-type]
        self.extras = ExtraStages(channels[-1], staged.extras)
        channels += self.extras.channels
        anchors = [len(m.box_sizes) for m in self.config.priors]
        self.heads = MultiBoxHeads(channels, anchors, self.config.num_classes, staged.heads)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps that the heads of a staged network read: (N, 3, H, W) -> (N, C_i, h_i, w_i) per source."""
        taps: list[Tensor] = self.backbone(pixels)
        more: list[Tensor] = self.extras(taps[-1])
        return taps + more

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, H, W) prepared pixels -> raw loc (N, P, 4) and conf (N, P, C)."""
        loc, conf = self.heads(self.features(pixels)) if isinstance(self.config.layers, Staged) else self.layers(pixels)
        return loc, conf

    @torch.inference_mode()
    def detect(self, images: Sequence[Any], threshold: float | None = None) -> list[Detections]:
        """Detect objects in images, with the source's own pixels and detection rule.

        Args:
            images: paths, or uint8 arrays (height, width, 3) in OpenCV's BGR order.
            threshold: report only scores above it; None for the source's own threshold.

        Returns:
            Per image: boxes (n, 4) xyxy in pixels of the original image, labels (n,), scores (n,), best first.

        Raises:
            MissingError: the network's priors are unknown, or an image file is missing.
            FormatError: a file is not an image.
        """
        from ssdconv.ssd_ref.image_file import read_image
        from ssdconv.ssd_ref.preprocess import prepare

        arrays = [read_image(image) if not hasattr(image, "shape") else image for image in images]
        if not arrays:
            return []
        where = next(self.parameters())
        pixels = prepare(arrays, self.config.pixels).to(where.device, where.dtype)
        found = self.postprocess(*self(pixels))
        sized = [d.scaled(a.shape[1], a.shape[0]) for d, a in zip(found, arrays, strict=True)]
        return sized if threshold is None else [d.above(threshold) for d in sized]

    def postprocess(self, loc: Tensor, conf: Tensor) -> list[Detections]:
        """Raw heads -> detections per image, boxes normalised to [0, 1] of the image."""
        from ssdconv.ssd_ref.postprocess import detect

        if not self.config.priors:
            raise MissingError(
                "the file that this network came from does not tell its priors, so boxes cannot be decoded",
                where=self.config.name,
                hint="convert with --spec FILE, which gives them (`ssdconv inspect SRC --spec-template` writes one to fill in), "
                "or with --network NAME of a network that knows them",
            )
        return detect(loc, conf, self.config.priors, self.config.pixels.size, self.config.detect)


def head_shapes(config: SSDConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of loc and conf for one image, (1, P, 4 or C * 4) and (1, P, C), from the layers alone; computes nothing.

    Raises:
        FormatError: the layers do not fit this input size.
    """
    height, width = config.pixels.size
    try:
        with torch.device("meta"), torch.inference_mode():
            loc, conf = SSD(config).eval()(torch.empty(1, config.pixels.channels, height, width))
    except (RuntimeError, IndexError, ValueError) as error:
        raise FormatError(
            f"the layers do not fit an input of {width}x{height}: {str(error).splitlines()[0]}", where=config.name
        ) from None
    return tuple(loc.shape), tuple(conf.shape)


def reference_shapes(config: SSDConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors; allocates none of them."""
    with torch.device("meta"):
        state = SSD(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


Array = npt.NDArray[np.float32]


def seeded_tensors(config: SSDConfig, seed: int = 0) -> dict[str, Array]:
    """Reference tensors of a staged or graph config; the same for the same seed on every machine.

    Each tensor has its own generator, seeded by the seed and its name, so that one tensor does not depend on the others.
    """
    shapes = reference_shapes(config)
    pixel_range = 255.0 / config.pixels.unit * config.pixels.scale / min(config.pixels.std) / 3
    return {
        name: _tensor(name, shape, _generator(seed, name), pixel_range if index == 0 else 1.0, shapes)
        for index, (name, shape) in enumerate(shapes.items())
    }


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])


def _tensor(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, input_range: float, shapes: Mapping[str, Any]
) -> Array:
    kind = name.rsplit(".", 1)[-1]
    loc, conf = ".loc." in name or "_loc" in name, ".conf." in name or "_conf" in name
    if kind == "factor":
        values: npt.NDArray[Any] = np.full(shape, 999.98236)
    elif kind == "scale" and len(shape) == 4:
        values = 255 * np.array([0.229, 0.224, 0.225]).reshape(shape)
    elif kind in ("variance", "running_var"):
        values = rng.uniform(0.5, 1.5, shape) * (999.98236 if kind == "variance" else 1.0)
    elif kind in ("mean", "running_mean"):
        values = rng.normal(0.0, 0.1, shape) * (999.98236 if kind == "mean" else 1.0)
    elif kind == "bias":
        values = rng.normal(0.0, 0.05, shape)
    elif len(shape) == 1:
        l2 = "norm" in name and re.search(r"\.norm\d*\.", name) is None
        values = rng.uniform(4.0, 16.0, shape) if l2 else rng.uniform(0.7, 1.3, shape)
    else:
        fan_in = int(np.prod(shape[1:]))
        gain = np.sqrt((1.0 if loc or conf else 2.0) / fan_in) / input_range
        values = rng.normal(0.0, gain * (0.3 if loc else 1.0), shape)
    return values.astype(np.float32)
