"""pierluigiferrari/ssd_keras: ssd300_training.ipynb, keras_loss_function, data_augmentation_chain_original_ssd.py."""

from __future__ import annotations

from math import log

from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics
from ssdconv.train.augment.sources import SSD_KERAS
from ssdconv.train.recipe import InitSpec, OptimizerSpec, ParamRule, Recipe, ScheduleSpec

RECIPES = (
    Recipe(
        "ssd_keras",
        "ssd_keras",
        "pierluigiferrari/ssd_keras@3ac9adaf ssd300_training.ipynb, keras_loss_function/, data_generator/, models/keras_ssd300.py",
        batch_size=32,
        loss=LossRule(
            MatchRule(least=0.0, numerics=Numerics("ssd_keras", dtype="float64", form="centers")),
            MiningRule(scope="batch"),
            largest=-log(1e-15),
            saturated=True,
        ),
        optimizer=OptimizerSpec(
            weight_decay=1e-3, velocity="lr_inside", rules=(ParamRule(("bias", "gamma", "beta", "scale"), decay=0.0),)
        ),
        schedule=ScheduleSpec("iterations", 120_000, (80_000, 100_000)),
        augment=SSD_KERAS,
        init=InitSpec("he_normal"),
        difficult="keep",
        origin=0,
        notes=(
            "hard negatives are the hardest of the whole batch, not of each image",
            "l2(0.0005) on kernels: the gradient is 0.001 w, twice Caffe's",
            "an epoch of the notebook is 1000 steps: 120 epochs, x0.1 at 80 and 100",
            "the whole image is kept with 1/7 each time 50 trials of a crop fail",
        ),
    ),
)
