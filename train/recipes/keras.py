"""jedol/SSD-Keras_Tensorflow: tools/config.py, lib/ssd/target.py, lib/ssd/models, lib/sample.

``l2(5e-4)`` adds 5e-4 w² to the loss, whose gradient is 1e-3 w: twice Caffe's decay. Biases, batch normalisation and the
L2Norm scale have none.
"""

from __future__ import annotations

from dataclasses import replace

from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics
from ssdconv.train.augment.sources import JEDOL, JEDOL_RESNET
from ssdconv.train.recipe import InitSpec, NormRule, OptimizerSpec, ParamRule, Recipe, ScheduleSpec

KERNELS_ONLY = (ParamRule(("bias", "gamma", "beta", "scale"), decay=0.0),)

_VGG = Recipe(
    "keras",
    "SSD-Keras_Tensorflow, VGG16",
    "jedol/SSD-Keras_Tensorflow@e6253896 tools/config.py, lib/ssd/target.py, lib/ssd/models/VGG.py, lib/sample/",
    batch_size=32,
    loss=LossRule(
        MatchRule(
            forced="per_object_least",
            equal="numpy_argsort",
            numerics=Numerics("jedol", dtype="float64", cell_order="inverses_last"),
        ),
        MiningRule(equal="none"),
    ),
    optimizer=OptimizerSpec(weight_decay=1e-3, velocity="lr_outside", rules=KERNELS_ONLY),
    schedule=ScheduleSpec("iterations", 120_000, (80_000, 100_000)),
    augment=JEDOL,
    init=InitSpec("xavier_uniform"),
    difficult="keep",
    origin=1,
    notes=(
        "brightness and hue never run: their branch tests `0 > beta >= 1`",
        "images are JPEGs that were encoded a second time when the LMDB was made",
        "an object's best prior is looked for among all priors, those taken by another object too",
    ),
)

_RESNET = replace(
    _VGG,
    name="keras-resnet50",
    title="SSD-Keras_Tensorflow, ResNet50",
    facts="jedol/SSD-Keras_Tensorflow@e6253896 tools/config.py, lib/ssd/models/ResNet.py, lib/sample/",
    optimizer=replace(
        _VGG.optimizer,
        rules=(
            *KERNELS_ONLY,
            *(ParamRule(("weight",), f"backbone.{layer}.*", decay=0.0) for layer in ("conv1", "res5b", "res5c")),
        ),
    ),
    augment=JEDOL_RESNET,
    norm=NormRule(0.01),
    notes=(
        *_VGG.notes,
        "the committed code does not run (its loss returns another value): not exactly what made the weights",
    ),
)

RECIPES = (_VGG, _RESNET)
