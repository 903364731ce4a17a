"""HosinPrime/simple-ssd-for-beginners: train.py, config.py, lib/augmentations.py, lib/multibox_encoder.py, lib/ssd_loss.py."""

from __future__ import annotations

from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics
from ssdconv.train.augment.sources import SIMPLE_SSD
from ssdconv.train.recipe import InitSpec, OptimizerSpec, Recipe, ScheduleSpec

RECIPES = (
    Recipe(
        "simple-ssd",
        "simple-ssd-for-beginners",
        "HosinPrime/simple-ssd-for-beginners@0b87e8fc train.py, config.py, voc_dataset.py, lib/",
        batch_size=32,
        loss=LossRule(
            MatchRule(forced="none", numerics=Numerics("simple-ssd", dtype="float64")),
            MiningRule(equal="torch", positives_last=True),
            without_positives="nan",
        ),
        optimizer=OptimizerSpec(velocity="lr_outside"),
        schedule=ScheduleSpec("epochs", 100, (30, 60, 90), factor=0.2),
        augment=SIMPLE_SSD,
        init=InitSpec("torch_default"),
        difficult="keep",
        origin=1,
        notes=(
            "an object that no prior overlaps by half trains nothing",
            "no object need stay in a crop: a tenth to a fifth of the samples have none",
            "every image passes through HSV bytes once, which alters a third of the pixels",
            "images come in the order of the list, epoch after epoch: the loader does not shuffle",
        ),
    ),
)
