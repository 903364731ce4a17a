"""ChainerCV: examples/ssd/train.py, links/model/ssd (multibox_loss, multibox_coder, transforms, ssd_vgg16)."""

from __future__ import annotations

from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics
from ssdconv.train.augment.sources import CHAINER
from ssdconv.train.recipe import InitSpec, OptimizerSpec, ParamRule, Recipe, ScheduleSpec

RECIPES = (
    Recipe(
        "chainer",
        "ChainerCV",
        "chainer/chainercv@71596166 examples/ssd/train.py, chainercv/links/model/ssd/",
        batch_size=32,
        loss=LossRule(
            MatchRule(numerics=Numerics("chainer", "pixels", "float64", "float32")),
            MiningRule(equal="numpy", positives_last=True),
        ),
        optimizer=OptimizerSpec(velocity="lr_inside", rules=(ParamRule(("bias",), lr=2.0, decay=0.0),)),
        schedule=ScheduleSpec("iterations", 120_000, (80_000, 100_000)),
        augment=CHAINER,
        init=InitSpec("lecun_uniform"),
        difficult="drop",
        origin=1,
        notes=(
            "the bias factor 2 is a gradient hook (GradientScaling), which is the same as twice the rate",
            "the published 80.1 mAP was trained with batches of 24",
            "an image without objects is never cropped",
            "boxes are float32 on the way, here float64",
        ),
    ),
)
