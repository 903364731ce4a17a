"""Seeded weights whose activations, boxes and scores have the sizes that trained ones give, for networks of any depth.

Three steps over ``ssd_ref.seeded``, on the generated picture and on noise: batch statistics become those of the features, each off
by a random factor; heads whose outputs are large are scaled down by a power of two (the box decoder's exp would overflow);
the background is favoured just as much as leaves about ``CANDIDATES`` scores above the threshold. Otherwise every prior
would be a candidate for every class, and what is detected would be decided by ties and limits instead of scores and boxes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssdconv.converters.tensors import Array
from ssdconv.parity.inputs import noise_image, synthetic_picture
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.detect import scores_of
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.pixels import prepare
from ssdconv.ssd_ref.seeded import seeded_tensors

CANDIDATES = 300
"""How many scores of the generated picture shall pass the threshold: about as many as trained weights give."""
LARGEST = {"loc": 0.5, "conf": 2.0}
"""Standard deviation of a map's raw outputs beyond which its head is scaled down."""


def calibrated_tensors(config: SSDConfig, seed: int) -> dict[str, Array]:
    """Reference tensors of a staged config, the same for the same seed up to the rounding of one forward pass."""
    model = SSD(config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in seeded_tensors(config, seed).items()})
    model.eval()
    with torch.no_grad():
        pixels = prepare([synthetic_picture(seed), noise_image(config.pixels.size, seed)], config.pixels)
        _settle_statistics(model, pixels)
        _settle_heads(model, *model(pixels))
        _settle_background(model, model(pixels[:1])[1])
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _settle_statistics(model: nn.Module, pixels: Tensor) -> None:
    """Running mean and variance as offset and factor (as seeded) of what the features have."""
    hooks = [
        module.register_forward_pre_hook(_settled)
        for module in model.modules()
        if isinstance(getattr(module, "running_var", None), Tensor)
    ]
    model(pixels)
    for hook in hooks:
        hook.remove()


def _settled(module: Any, inputs: tuple[Tensor, ...]) -> None:
    x = inputs[0]
    variance = x.var((0, 2, 3), unbiased=False).clamp(min=0.05 * float(x.square().mean()))
    module.running_mean.mul_(variance.sqrt()).add_(x.mean((0, 2, 3)))
    module.running_var.mul_(variance)


def _settle_heads(model: SSD, loc: Tensor, conf: Tensor) -> None:
    for word, values in (("loc", loc), ("conf", conf)):
        start = 0
        for index, one in enumerate(model.config.priors):
            part = values[:, start : start + one.count]
            start += one.count
            spread = max(float(image.std()) for image in part)
            factor = 2.0 ** -max(0, round(math.log2(spread / LARGEST[word])))
            for tensor in _predictor(model, word, index).parameters():
                tensor.mul_(factor)


def _settle_background(model: SSD, conf: Tensor) -> None:
    rule, classes = model.config.detect, model.config.num_classes
    # Without a background class all classes are disfavoured alike.
    change = torch.full((classes,), -1.0) if rule.background is None else torch.zeros(classes)
    if rule.background is not None:
        change[rule.background] = 1.0
    low, high = 0.0, 32.0
    for _ in range(12):
        middle = (low + high) / 2
        passed = scores_of(conf + middle * change, rule.activation) > rule.score_threshold
        if rule.background is not None:
            passed[..., rule.background] = False
        low, high = (middle, high) if int(passed.sum()) > CANDIDATES else (low, middle)
    for index in range(len(model.config.priors)):
        bias = _predictor(model, "conf", index).bias
        assert bias is not None
        bias.view(-1, classes).add_(round(high, 2) * change)


def _predictor(model: SSD, word: str, index: int) -> nn.Conv2d:
    head = model.heads.get_submodule(f"{word}.{index}")
    found = head if isinstance(head, nn.Conv2d) else head.get_submodule("predictor")
    assert isinstance(found, nn.Conv2d)
    return found
