"""torchvision: references/detection (README, train.py, engine.py, presets.py, transforms.py), models/detection/ssd.py."""

from __future__ import annotations

from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, Numerics
from ssdconv.train.augment.sources import TORCHVISION
from ssdconv.train.recipe import InitSpec, OptimizerSpec, Recipe, ScheduleSpec

RECIPES = (
    Recipe(
        "torchvision",
        "torchvision",
        "pytorch/vision references/detection/ (README, engine.py, presets.py, transforms.py), torchvision/models/detection/ssd.py",
        batch_size=32,
        loss=LossRule(MatchRule(forced="per_object", numerics=Numerics(units="pixels"))),
        optimizer=OptimizerSpec(lr=2e-3, velocity="lr_outside"),
        schedule=ScheduleSpec(
            "epochs", 120, (80, 110), warmup=1000, warmup_factor=1e-3, warmup_form="linear", warmup_unit="iterations"
        ),
        augment=TORCHVISION,
        init=InitSpec("xavier_uniform"),
        difficult="keep",
        origin=0,
        notes=(
            "brightness is a factor of 0.875 to 1.125 there, here ±32 are added",
            "trained on COCO: what it does with VOC's difficult objects and corners is not defined",
            "priors are clipped to the image",
        ),
    ),
)
