"""Every source's training recipe, by name. Imports no torch.

A recipe is one ``Recipe``, with the files that its figures were read from as ``facts`` and, as ``notes``, what no field can say. The
original Caffe SSD (weiliu89/caffe, branch ssd) is the reference of all others: its loss, augmentation and initialisers are the
defaults of the dataclasses.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from math import log

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule, Numerics
from ssdconv.train.augment.sources import (
    CAFFE,
    CHAINER,
    GLUON,
    JEDOL,
    JEDOL_RESNET,
    SIMPLE_SSD,
    SSD_KERAS,
    SSD_PYTORCH,
    TENSORFLOW,
    TORCHVISION,
)
from ssdconv.train.recipe import InitSpec, NormRule, OptimizerSpec, ParamRule, Recipe, ScheduleSpec

_CAFFE_FACTS = (
    "weiliu89/caffe@4817bf8b examples/ssd/ssd_pascal.py, ssd_coco.py, src/caffe/util/bbox_util.cpp, im_transforms.cpp"
)

_CAFFE_LOSS = LossRule(largest=-log(2.0**-126))
"""caffe.proto's defaults; the class loss is the logarithm of at least FLT_MIN."""

_BIASES = (ParamRule(("bias",), lr=2.0, decay=0.0),)
"""Caffe's usual ``param { lr_mult: 2 decay_mult: 0 }`` of every bias; the L2Norm scale has both at 1."""

_CAFFE_VOC = Recipe(
    "caffe",
    "Caffe, VOC",
    _CAFFE_FACTS,
    batch_size=32,
    loss=_CAFFE_LOSS,
    optimizer=OptimizerSpec(velocity="lr_inside", rules=_BIASES),
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

_CAFFE_COCO = replace(
    _CAFFE_VOC,
    name="caffe-coco",
    title="Caffe, COCO",
    schedule=ScheduleSpec("iterations", 400_000, (280_000, 360_000)),
    notes=(*_CAFFE_VOC.notes, "COCO has no difficult objects"),
)

_CAFFE_NO_DIFFICULT = replace(
    _CAFFE_VOC,
    name="caffe-no-difficult",
    title="Caffe, VOC without difficult objects",
    difficult="drop",
    notes=(
        *_CAFFE_VOC.notes,
        "use_difficult_gt: false of MultiBoxLossParameter; the released weights were made with true",
    ),
)


_MOBILENET_RULES = (  # only the six conf heads learn at the full rate; all else, loc heads included, at a tenth
    ParamRule(("weight",), "*conf*", lr=1.0, decay=1.0),
    ParamRule(("bias",), "*conf*", lr=2.0, decay=0.0),
    ParamRule(("weight",), lr=0.1, decay=0.1),
    ParamRule(("gamma",), lr=0.1, decay=0.0),
    ParamRule(("bias", "beta"), lr=0.2, decay=0.0),
)

_MOBILENET = Recipe(
    "caffe-mobilenet",
    "MobileNet-SSD (Caffe)",
    "chuanqi305/MobileNet-SSD voc/MobileNetSSD_train.prototxt, voc/solver.prototxt; caffe.proto (rms_decay 0.99, delta 1e-8)",
    batch_size=24,
    loss=_CAFFE_LOSS,
    optimizer=OptimizerSpec(
        "rmsprop", lr=5e-4, momentum=0.0, weight_decay=5e-5, rho=0.99, eps=1e-8, rules=_MOBILENET_RULES
    ),
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
)


_GLUON = Recipe(
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
)


_CHAINER = Recipe(
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
)


_SSD_PYTORCH = Recipe(
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

_SSD_PYTORCH_COCO = replace(
    _SSD_PYTORCH,
    name="ssd.pytorch-coco",
    title="ssd.pytorch, COCO",
    schedule=ScheduleSpec("iterations", 400_000, (280_000, 360_000)),
)


_SIMPLE_SSD = Recipe(
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
)


_KERNELS_ONLY = (ParamRule(("bias", "gamma", "beta", "scale"), decay=0.0),)
"""jedol's ``l2(5e-4)`` adds 5e-4 w² to the loss, whose gradient is 1e-3 w: twice Caffe's decay, and on kernels alone."""

_JEDOL = Recipe(
    "keras",
    "SSD-Keras_Tensorflow, VGG16",
    "jedol/SSD-Keras_Tensorflow@e6253896 tools/config.py, lib/ssd/target.py, lib/ssd/models/VGG.py, lib/sample/",
    batch_size=32,
    loss=LossRule(
        MatchRule(
            forced="per_object_least",
            equal="numpy_argsort",
            numerics=Numerics("jedol", dtype="float64", cell_order="inverses_last"),
        ),
        MiningRule(equal="none"),
    ),
    optimizer=OptimizerSpec(weight_decay=1e-3, velocity="lr_outside", rules=_KERNELS_ONLY),
    schedule=ScheduleSpec("iterations", 120_000, (80_000, 100_000)),
    augment=JEDOL,
    init=InitSpec("xavier_uniform"),
    difficult="keep",
    origin=1,
    notes=(
        "brightness and hue never run: their branch tests `0 > beta >= 1`",
        "images are JPEGs that were encoded a second time when the LMDB was made",
        "an object's best prior is looked for among all priors, those taken by another object too",
    ),
)

_JEDOL_RESNET = replace(
    _JEDOL,
    name="keras-resnet50",
    title="SSD-Keras_Tensorflow, ResNet50",
    facts="jedol/SSD-Keras_Tensorflow@e6253896 tools/config.py, lib/ssd/models/ResNet.py, lib/sample/",
    optimizer=replace(
        _JEDOL.optimizer,
        rules=(
            *_KERNELS_ONLY,
            *(ParamRule(("weight",), f"backbone.{layer}.*", decay=0.0) for layer in ("conv1", "res5b", "res5c")),
        ),
    ),
    augment=JEDOL_RESNET,
    norm=NormRule(0.01),
    notes=(
        *_JEDOL.notes,
        "the committed code does not run (its loss returns another value): not exactly what made the weights",
    ),
)


_SSD_KERAS = Recipe(
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
)


_TENSORFLOW = Recipe(
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
)


_TORCHVISION = Recipe(
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
)


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(_CAFFE_VOC, _CAFFE_COCO, _CAFFE_NO_DIFFICULT, _MOBILENET, _GLUON, _CHAINER, _SSD_PYTORCH, _SSD_PYTORCH_COCO),
        *(_SIMPLE_SSD, _JEDOL, _JEDOL_RESNET, _SSD_KERAS, _TENSORFLOW, _TORCHVISION),
    )
}
"""Name of the command line -> recipe."""

FILE = "file"
"""Name of the command line for the loss that a weight file tells."""

_BY_NETWORK = (
    ("caffe", "mobilenet", "caffe-mobilenet"),
    ("caffe", "coco", "caffe-coco"),
    ("keras", "jedol_ssd300_resnet50", "keras-resnet50"),
    ("keras", "jedol", "keras"),
    ("keras", "", "ssd_keras"),
    ("pytorch", "simple_ssd", "simple-ssd"),
    ("pytorch", "torchvision", "torchvision"),
    ("pytorch", "coco", "ssd.pytorch-coco"),
    ("pytorch", "", "ssd.pytorch"),
)
"""Source, part of the network's name, recipe; the first that fits. Otherwise the recipe has the source's name."""


def recipe_of(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UsageError: no such recipe; the message names the nearest ones.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, 3)
    raise UsageError(
        f"no training recipe {name!r}",
        expected=f"one of {', '.join(RECIPES)}",
        hint=f"did you mean {' or '.join(repr(c) for c in close)}?" if close else None,
    )


def of_file(recipe: Recipe, config: SSDConfig) -> Recipe:
    """``recipe`` with the loss that the network's own file tells (``SSDConfig.loss``).

    Raises:
        UsageError: the file told none.
    """
    if config.loss is None:
        raise UsageError(
            f"the file of {config.name!r} does not tell its loss",
            expected="a network converted from a Caffe file, or prototxt, with a MultiBoxLoss layer",
            hint="convert the weights with the train prototxt, or name a recipe (--list-recipes)",
        )
    return replace(
        recipe,
        name=FILE,
        title=f"{recipe.title}, with the loss of its own file",
        loss=config.loss,
        difficult="keep" if config.loss.use_difficult else "drop",
    )


def default_recipe(config: SSDConfig) -> Recipe:
    """The recipe that a network's source trains it by; Caffe's where the source has none."""
    for source, part, name in _BY_NETWORK:
        if config.source == source and part in config.name:
            return RECIPES[name]
    return RECIPES.get(config.source, RECIPES["caffe"])
