"""amdegroot/ssd.pytorch: train.py, utils/augmentations.py, layers/box_utils.py, data/config.py."""

from __future__ import annotations

from dataclasses import replace

from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics
from ssdconv.train.augment.sources import SSD_PYTORCH
from ssdconv.train.recipe import InitSpec, OptimizerSpec, Recipe, ScheduleSpec

VOC = Recipe(
    "ssd.pytorch",
    "ssd.pytorch, VOC",
    "amdegroot/ssd.pytorch@5b0b77fa train.py, utils/augmentations.py, layers/modules/multibox_loss.py, layers/box_utils.py",
    batch_size=32,
    loss=LossRule(
        MatchRule(forced="per_object", numerics=Numerics("ssd.pytorch")),
        MiningRule(hardness="batch_shifted", equal="torch", positives_last=True),
        without_positives="nan",
        without_objects="error",
    ),
    optimizer=OptimizerSpec(velocity="lr_outside"),
    schedule=ScheduleSpec("iterations", 120_000, (80_000, 100_000)),
    augment=SSD_PYTORCH,
    init=InitSpec("xavier_uniform"),
    difficult="drop",
    origin=1,
    notes=(
        "weight decay on biases and the L2Norm scale too",
        "the crop's IoU test cannot reject (its two conditions are joined by `and` with an infinite bound)",
        "an image without objects is an error there (IndexError in its data set), here it is not cropped",
        "colours are floats: nothing is rounded or cut to 0..255 on the way",
    ),
)

COCO = replace(
    VOC,
    name="ssd.pytorch-coco",
    title="ssd.pytorch, COCO",
    schedule=ScheduleSpec("iterations", 400_000, (280_000, 360_000)),
)

RECIPES = (VOC, COCO)
