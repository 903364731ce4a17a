"""HiKapok/SSD.TensorFlow: train_ssd.py, preprocessing/ssd_preprocessing.py, utility/anchor_manipulator.py, net/ssd_net.py."""

from __future__ import annotations

from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics
from ssdconv.train.augment.sources import TENSORFLOW
from ssdconv.train.recipe import InitSpec, OptimizerSpec, ParamRule, Recipe, ScheduleSpec

RECIPES = (
    Recipe(
        "tensorflow",
        "SSD.TensorFlow",
        "HiKapok/SSD.TensorFlow@b47ff616 train_ssd.py, preprocessing/ssd_preprocessing.py, utility/anchor_manipulator.py",
        batch_size=32,
        loss=LossRule(
            MatchRule(forced="per_object_best", numerics=Numerics("hikapok", cell_order="middle_first")),
            MiningRule(hardness="background", equal="all", counted="not_background"),
            conf_normalizer="selected",
        ),
        optimizer=OptimizerSpec(velocity="lr_outside", rules=(ParamRule(("scale",), decay=0.1),)),
        schedule=ScheduleSpec(
            "iterations", 120_000, (80_000, 100_000), warmup=500, warmup_factor=0.1, warmup_form="constant"
        ),
        augment=TENSORFLOW,
        init=InitSpec("xavier_uniform"),
        difficult="drop_keep_one",
        origin=0,
        notes=(
            "the rate changes one update later than here: TensorFlow counts a boundary with what is before it",
            "weight decay on biases too; a tenth of it on the L2Norm scale",
            "the crop's limit is asked of the objects whose centre is inside",
            "objects of 64 pixels or less, over 96 % of the crop or up to 5 pixels wide or high are left out",
            "the resize has TensorFlow 1's legacy grid",
        ),
    ),
)
