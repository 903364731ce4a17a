"""The original Caffe SSD (weiliu89/caffe, branch ssd): examples/ssd/ssd_pascal.py, ssd_coco.py and src/caffe.

The reference of all others: RECIPE's loss, augmentation and initialisers are the defaults of their dataclasses.
"""

from __future__ import annotations

from dataclasses import replace
from math import log

from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.train.augment.sources import CAFFE
from ssdconv.train.recipe import InitSpec, NormRule, OptimizerSpec, ParamRule, Recipe, ScheduleSpec

FACTS = (
    "weiliu89/caffe@4817bf8b examples/ssd/ssd_pascal.py, ssd_coco.py, src/caffe/util/bbox_util.cpp, im_transforms.cpp"
)

LOSS = LossRule(largest=-log(2.0**-126))
"""caffe.proto's defaults; the class loss is the logarithm of at least FLT_MIN."""

BIASES = (ParamRule(("bias",), lr=2.0, decay=0.0),)
"""Caffe's usual ``param { lr_mult: 2 decay_mult: 0 }`` of every bias; the L2Norm scale has both at 1."""

VOC = Recipe(
    "caffe",
    "Caffe, VOC",
    FACTS,
    batch_size=32,
    loss=LOSS,
    optimizer=OptimizerSpec(velocity="lr_inside", rules=BIASES),
    schedule=ScheduleSpec("iterations", 120_000, (80_000, 100_000)),
    augment=CAFFE,
    init=InitSpec("xavier_uniform_fan_in"),
    difficult="keep",
    origin=0,
    norm=NormRule(scales="outside"),
    notes=(
        "four GPUs with eight images each: Caffe divides each eight's loss by its own matched priors, here it is the batch's",
        "the rate is written 0.00004 x 25",
    ),
)

COCO = replace(
    VOC,
    name="caffe-coco",
    title="Caffe, COCO",
    schedule=ScheduleSpec("iterations", 400_000, (280_000, 360_000)),
    notes=(*VOC.notes, "COCO has no difficult objects"),
)

NO_DIFFICULT = replace(
    VOC,
    name="caffe-no-difficult",
    title="Caffe, VOC without difficult objects",
    difficult="drop",
    notes=(*VOC.notes, "use_difficult_gt: false of MultiBoxLossParameter; the released weights were made with true"),
)

RECIPES = (VOC, COCO, NO_DIFFICULT)
