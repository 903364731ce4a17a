"""HiKapok/SSD.TensorFlow: train_ssd.py, preprocessing/ssd_preprocessing.py, utility/anchor_manipulator.py, net/ssd_net.py."""

from __future__ import annotations

from ssdconv.ssd_ref.train.augment.spec import AugmentSpec, Crop, CropSampler, Expand, Photometric
from ssdconv.ssd_ref.train.recipe import InitSpec, OptimizerSpec, ParamRule, Recipe, ScheduleSpec
from ssdconv.ssd_ref.train.rules import LossRule, MatchRule

COLOUR = Photometric(
    probability=1.0,
    orders=(("brightness", "saturation"), *(("saturation", "brightness"),) * 3),
)
"""``fast_mode``: of four orderings the first puts brightness first, the other three saturation; always both, no hue, no
contrast."""

CROP = Crop(
    samplers=tuple(CropSampler(least) for least in (0.1, 0.3, 0.5, 0.7, 0.9)),
    unconstrained=True,
    choice="mode",
    meets="all",
    scale=(0.3, 0.999),
    shape="sides",
)

RECIPES = (
    Recipe(
        "tensorflow",
        "SSD.TensorFlow",
        "HiKapok/SSD.TensorFlow@b47ff616 train_ssd.py, preprocessing/ssd_preprocessing.py, utility/anchor_manipulator.py",
        batch_size=32,
        loss=LossRule(MatchRule(forced="per_object_best"), conf_normalizer="selected"),
        optimizer=OptimizerSpec(velocity="lr_outside", rules=(ParamRule(("scale",), decay=0.1),)),
        schedule=ScheduleSpec(
            "iterations", 120_000, (80_000, 100_000), warmup=500, warmup_factor=0.1, warmup_form="constant"
        ),
        augment=AugmentSpec(
            stages=("photometric", "expand", "crop", "flip", "resize"),
            photometric=COLOUR,
            expand=Expand(ratio=(1.1, 4.0)),
            crop=CROP,
            interpolations=("linear",),
        ),
        init=InitSpec("xavier_uniform"),
        difficult="drop_keep_one",
        origin=0,
        notes=(
            "weight decay on biases too; a tenth of it on the L2Norm scale",
            "the crop's limit is asked of the objects whose centre is inside, here of all objects",
            "objects under 0.1 % or over 90 % of the crop's area or under 2.5 % of its side are left out there",
            "the resize has TensorFlow 1's legacy grid",
        ),
    ),
)
