"""chuanqi305/MobileNet-SSD: voc/MobileNetSSD_train.prototxt and voc/solver.prototxt.

Only the six conf heads learn at the full rate; everything else, loc heads included, at a tenth.
"""

from __future__ import annotations

from ssdconv.train.augment.sources import CAFFE
from ssdconv.train.recipe import InitSpec, NormRule, OptimizerSpec, ParamRule, Recipe, ScheduleSpec
from ssdconv.train.recipes.caffe import LOSS

RULES = (
    ParamRule(("weight",), "*conf*", lr=1.0, decay=1.0),
    ParamRule(("bias",), "*conf*", lr=2.0, decay=0.0),
    ParamRule(("weight",), lr=0.1, decay=0.1),
    ParamRule(("gamma",), lr=0.1, decay=0.0),
    ParamRule(("bias", "beta"), lr=0.2, decay=0.0),
)

RECIPES = (
    Recipe(
        "caffe-mobilenet",
        "MobileNet-SSD (Caffe)",
        "chuanqi305/MobileNet-SSD voc/MobileNetSSD_train.prototxt, voc/solver.prototxt; caffe.proto (rms_decay 0.99, delta 1e-8)",
        batch_size=24,
        loss=LOSS,
        optimizer=OptimizerSpec("rmsprop", lr=5e-4, momentum=0.0, weight_decay=5e-5, rho=0.99, eps=1e-8, rules=RULES),
        schedule=ScheduleSpec("iterations", 120_000, (20_000, 40_000), factor=0.5),
        augment=CAFFE,
        init=InitSpec("he_normal"),
        difficult="keep",
        origin=0,
        norm=NormRule(0.001),
        notes=(
            "starts from a COCO-trained network: 72.7 mAP on VOC07 with it, 68 without",
            "Caffe's statistics are sums with a weight; from an empty start they count the first batches more than here",
        ),
    ),
)
