"""Rules of matching and loss as data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class MatchRule:
    """How priors are matched.

    Attributes:
        threshold: a prior is matched to its best object when their IoU is at least this.
        forced: how every object gets a prior: ``greedy`` (Caffe, Chainer, GluonCV: best pair of all first), ``per_object``
            (the best prior of each object; where several objects want one prior, the last of them gets it: ssd.pytorch,
            torchvision), ``per_object_best`` (the one that overlaps it most: HiKapok), ``per_object_least`` (the one that
            overlaps it least: jedol), ``none`` (simple-ssd).
        ties: a prior whose best object it overlaps exactly as much as that object's best prior does is matched too (GluonCV).
    """

    threshold: float = 0.5
    forced: Literal["greedy", "per_object", "per_object_best", "per_object_least", "none"] = "greedy"
    ties: bool = False


@dataclass(frozen=True)
class LossRule:
    """One recipe's loss.

    Attributes:
        matching: see ``MatchRule``.
        neg_pos_ratio: hard negatives per positive.
        neg_overlap: an unmatched prior is a candidate negative only below this best IoU (Caffe's ``neg_overlap``).
        mining: negatives are counted and chosen per ``image`` or over the whole ``batch`` (ssd_keras).
        conf_normalizer: ``positives``, or ``selected`` / (1 + ratio) (HiKapok: the mean over the selected, times four).
        loc_weight: factor on the loc term.
    """

    matching: MatchRule = field(default_factory=MatchRule)
    neg_pos_ratio: float = 3.0
    neg_overlap: float = 0.5
    mining: Literal["image", "batch"] = "image"
    conf_normalizer: Literal["positives", "selected"] = "positives"
    loc_weight: float = 1.0


@dataclass(frozen=True)
class NormRule:
    """How batch normalisation keeps its running statistics while training.

    Attributes:
        share: of the batch's statistics in the running ones at each step: torch's ``momentum``, 1 - MXNet's and Keras'.
        variance: ``unbiased`` (times n / (n - 1): torch, Caffe, TensorFlow's fused kernel) or ``biased`` (MXNet).
        frozen: it runs on its stored statistics, which stay.
    """

    share: float = 0.1
    variance: Literal["unbiased", "biased"] = "unbiased"
    frozen: bool = False
