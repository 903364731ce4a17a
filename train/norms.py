"""Normalisation while training, as a recipe's source does it."""

from __future__ import annotations

from torch import nn

from ssdconv.ssd_ref.caffe_layers.normalization import Normalize
from ssdconv.ssd_ref.caffe_layers.registry import LAYERS, CaffeLayer
from ssdconv.ssd_ref.layers import BatchNorm, L2Norm, Standardize
from ssdconv.train.recipe import Recipe


def training_mode(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Put a network into training mode: ``model.train()``, with running statistics and the L2 norm's gradient by the recipe's rule.

    Batch normalisations of a layer graph always run on their stored statistics.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, L2Norm | Normalize):
            module.outside = recipe.norm.scales == "outside"
        if isinstance(module, BatchNorm | Standardize):
            module.momentum = recipe.norm.share
            if isinstance(module, BatchNorm):
                module.biased = recipe.norm.variance == "biased"
            if recipe.norm.frozen:
                module.eval()
        elif isinstance(module, CaffeLayer) and isinstance(module, (LAYERS["BatchNorm"], LAYERS["BatchNormalization"])):
            module.eval()
    return model
