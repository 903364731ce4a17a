"""GluonCV: scripts/detection/ssd/train_ssd.py, gluoncv/loss.py, data/transforms/presets/ssd.py, nn/matcher.py."""

from __future__ import annotations

from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics
from ssdconv.train.augment.sources import GLUON
from ssdconv.train.recipe import InitSpec, NormRule, OptimizerSpec, Recipe, ScheduleSpec

RECIPES = (
    Recipe(
        "gluon",
        "GluonCV",
        "dmlc/gluon-cv@56777561 scripts/detection/ssd/train_ssd.py, gluoncv/loss.py, data/transforms/presets/ssd.py, nn/matcher.py",
        batch_size=32,
        loss=LossRule(
            MatchRule(ties="all", least=1e-12, numerics=Numerics("gluon", "pixels")),
            MiningRule(equal="torch", positives_last=True),
        ),
        optimizer=OptimizerSpec(velocity="lr_inside"),
        schedule=ScheduleSpec("epochs", 240, (160, 200)),
        augment=GLUON,
        init=InitSpec("he_normal_fan_out", heads="xavier_uniform_magnitude_2"),
        difficult="keep",
        origin=1,
        norm=NormRule(0.1, "biased"),
        notes=(
            "weight decay on everything, biases and batch normalisation too",
            "GluonCV's saturation blends with grey and its hue turns the YIQ plane by up to 18 pi, that is by any angle",
            "its colours are not cut to 0..255 before the resize",
        ),
    ),
)
