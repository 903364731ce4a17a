"""Matching, mining and loss of a training as data: of a recipe, or of a Caffe net's own MultiBoxLoss layer.

The defaults are those of the original Caffe (caffe.proto, ``MultiBoxLossParameter``; src/caffe/util/bbox_util.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

PriorArithmetic = Literal["caffe", "ssd.pytorch", "simple-ssd", "chainer", "gluon", "jedol", "ssd_keras", "hikapok"]
"""Whose way to compute the priors that objects are matched to; ``ssd_ref.train.anchors`` has the formulas."""


@dataclass(frozen=True)
class Numerics:
    """The arithmetic in which overlaps are taken. Priors lie symmetrically and boxes are whole pixels, so that overlaps are
    often equal, or exactly at the threshold, but for rounding: another precision or unit matches other priors.

    Attributes:
        priors: how the priors were computed.
        units: overlaps are taken in fractions of the image or in pixels of the network's input.
        dtype: of priors, objects and overlaps.
        object_areas: the objects' own areas are taken in this precision before they meet the rest (ChainerCV gets its objects
            as float32 and its priors as float64); None for ``dtype``.
        form: ``centers``: objects go through centre form and back before the overlap (ssd_keras; its priors do so anyway).
        cell_order: the order of a cell's priors in which the first of equal ones is looked for. ``inverses_last``: 2, 3, 1/2,
            1/3 instead of the reference's 2, 1/2, 3, 1/3 (jedol); ``middle_first``: that, and the larger square before the
            smaller one (HiKapok).

    The overlap is intersection / (area + area - intersection) in every source, without the pixel convention's +1.
    """

    priors: PriorArithmetic = "caffe"
    units: Literal["fractions", "pixels"] = "fractions"
    dtype: Literal["float32", "float64"] = "float32"
    object_areas: Literal["float32", "float64"] | None = None
    form: Literal["corners", "centers"] = "corners"
    cell_order: Literal["reference", "inverses_last", "middle_first"] = "reference"


@dataclass(frozen=True)
class MatchRule:
    """How priors are matched.

    Attributes:
        threshold: a prior is matched to its best object (the first of equal ones) when their IoU is at least this; None: only
            the forced matches count (Caffe's ``BIPARTITE``).
        forced: how every object gets a prior: ``greedy`` (Caffe, Chainer, GluonCV: best pair of all first), ``per_object``
            (the best prior of each object; where several objects want one prior, the last of them gets it: ssd.pytorch,
            torchvision), ``per_object_best`` (the one that overlaps it most, the first of equal ones: HiKapok),
            ``per_object_least`` (the one that overlaps it least: jedol), ``none`` (simple-ssd).
        ties: a prior whose best object it overlaps at least as much as that object's best prior does is matched too
            (GluonCV): ``overlapping`` asks for an overlap above 0, ``all`` does not, so that an object that nothing
            overlaps takes every prior that overlaps nothing, if it comes first.
        least: a forced pair of ``greedy`` must overlap by more than this.
        equal: which of the priors that overlap an object equally is its best one. ``numpy_argsort``: the last one in the order
            of numpy 1's unstable sort (jedol).
        boxes: overlaps are taken with the ``priors``, or with the boxes that the network predicts (Caffe's
            ``use_prior_for_matching: false``).
        inside_only: priors with a corner outside of the image are neither matched nor negatives (Caffe's
            ``ignore_cross_boundary_bbox``).
        numerics: see ``Numerics``.
    """

    threshold: float | None = 0.5
    forced: Literal["greedy", "per_object", "per_object_best", "per_object_least", "none"] = "greedy"
    ties: Literal["none", "overlapping", "all"] = "none"
    least: float = 1e-6
    equal: Literal["first", "numpy_argsort"] = "first"
    boxes: Literal["priors", "predicted"] = "priors"
    inside_only: bool = False
    numerics: Numerics = field(default_factory=Numerics)


@dataclass(frozen=True)
class MiningRule:
    """Which unmatched priors the class loss sees.

    Attributes:
        kind: ``negatives``: the hardest, ``ratio`` per positive (Caffe's ``MAX_NEGATIVE``); ``examples``: the ``samples``
            hardest of all priors, matched ones too, others are left out (``HARD_EXAMPLE``); ``none``: all.
        ratio: negatives per positive.
        overlap: an unmatched prior is a candidate only below this best IoU.
        scope: negatives are counted and chosen per ``image`` or over the whole ``batch`` (ssd_keras).
        hardness: ``loss``: the class loss; ``batch_shifted``: log sum exp after the largest output of the whole batch was
            subtracted, which underflows where a row lies 88 below it (ssd.pytorch); ``background``: the smallest probability
            of the background (HiKapok).
        equal: of equally hard ones the ``first`` are taken, ``all`` as hard as the last one are (HiKapok), ``none`` as hard
            as the first that is too many (jedol), or those that an unstable sort brings first: ``torch``'s on this device
            (ssd.pytorch, simple-ssd; MXNet's took the same ones where both were recorded), ``numpy`` 1's (ChainerCV).
        counted: negatives are counted by the ``positives``, or by all priors that are ``not_background``, neutral ones too
            (HiKapok).
        positives_last: positives take part with a loss of 0, so that they use up places where nothing harder is left
            (ssd.pytorch, simple-ssd, ChainerCV, GluonCV).
        samples: of ``examples``.
        nms: of ``examples``: those that overlap a harder one more than this are left out; 0 for none.
        nms_top_k: of ``examples``: candidates of that suppression, -1 for all.
        nms_boxes: it looks at ``priors`` or ``predicted`` boxes.
    """

    kind: Literal["negatives", "examples", "none"] = "negatives"
    ratio: float = 3.0
    overlap: float = 0.5
    scope: Literal["image", "batch"] = "image"
    hardness: Literal["loss", "batch_shifted", "background"] = "loss"
    equal: Literal["first", "all", "none", "torch", "numpy"] = "first"
    counted: Literal["positives", "not_background"] = "positives"
    positives_last: bool = False
    samples: int = 64
    nms: float = 0.0
    nms_top_k: int = -1
    nms_boxes: Literal["priors", "predicted"] = "predicted"


@dataclass(frozen=True)
class LossRule:
    """One recipe's loss.

    Attributes:
        matching, mining: see there.
        loc, conf: form of the terms: ``l2`` is half the square, ``logistic`` the sum of the classes' binary cross entropies.
        normalizer: what both terms are divided by: matched priors (Caffe's ``VALID``), priors of the batch (``FULL``), images
            (``BATCH_SIZE``), 1 (``NONE``); at least 1.
        conf_normalizer: ``same``, or ``selected`` / (1 + ratio) (HiKapok: the mean over the selected, times four).
        loc_weight: factor on the loc term.
        largest: a class loss counts as at most this (its gradient does not change): Caffe's -log(FLT_MIN), ssd_keras'
            -log(1e-15), where ``saturated`` gives no gradient either; None for no limit.
        saturated: no gradient where the class loss is at ``largest``.
        background: conf channel of the background.
        agnostic: every object is class ``background`` + 1 (Caffe's ``map_object_to_agnostic``).
        code: how loc is coded against the priors.
        variance_in_target: targets are encoded without variances, and targets and outputs are divided by them afterwards;
            the gradient is that of the divided output (Caffe's ``encode_variance_in_target``).
        inside_only: no loss on coordinates whose matched box's corner is outside of the image (Caffe's ``bp_inside``).
        share_location: one box per prior; else one per prior and class: loc is (N, P, classes, 4).
        without_positives: of a batch: loss 0, or not a number (ssd.pytorch, simple-ssd divide by 0).
        without_objects: of an image: its priors are background, or an error (ssd.pytorch).
        use_difficult: whether difficult objects are trained on (Caffe's ``use_difficult_gt``; ``Recipe.difficult`` decides).
    """

    matching: MatchRule = field(default_factory=MatchRule)
    mining: MiningRule = field(default_factory=MiningRule)
    loc: Literal["smooth_l1", "l2"] = "smooth_l1"
    conf: Literal["softmax", "logistic"] = "softmax"
    normalizer: Literal["positives", "priors", "images", "one"] = "positives"
    conf_normalizer: Literal["same", "selected"] = "same"
    loc_weight: float = 1.0
    largest: float | None = None
    saturated: bool = False
    background: int = 0
    agnostic: bool = False
    code: Literal["center_size", "corner", "corner_size"] = "center_size"
    variance_in_target: bool = False
    inside_only: bool = False
    share_location: bool = True
    without_positives: Literal["zero", "nan"] = "zero"
    without_objects: Literal["background", "error"] = "background"
    use_difficult: bool = True


def sane(rule: LossRule) -> LossRule:
    """A source's rule without its accidents: what is no number, an error or an underflow there has a value here.

    Mining looks at the exact class loss and counts matched priors only, a batch without positives has loss 0, an image
    without objects is background, and a prior that overlaps nothing is matched to nothing.
    """
    ties: Literal["none", "overlapping"] = "none" if rule.matching.ties == "none" else "overlapping"
    hardness: Literal["loss", "background"] = "background" if rule.mining.hardness == "background" else "loss"
    return replace(
        rule,
        matching=replace(rule.matching, ties=ties),
        mining=replace(rule.mining, hardness=hardness, counted="positives", positives_last=False),
        without_positives="zero",
        without_objects="background",
    )
