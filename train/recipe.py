"""A training recipe as data: everything that one source does differently from another when it trains an SSD.

Plain frozen dataclasses: a recipe travels inside a run's folder and its checkpoints as JSON, and the table of the docs
is made from it. The instances are in ``ssd_ref.train.recipes``, one file per source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.train.augment.spec import AugmentSpec

Role = Literal["weight", "bias", "gamma", "beta", "scale"]
"""What a parameter is: kernel, bias, BatchNorm's gamma and beta, L2Norm's scale."""


@dataclass(frozen=True)
class ParamRule:
    """Multipliers of the parameters that it is meant for; of several rules the first that fits counts.

    Attributes:
        roles: which kinds of parameter.
        names: glob over the reference parameter's name.
        lr: multiplies the learning rate; 0 freezes.
        decay: multiplies the weight decay.
    """

    roles: tuple[Role, ...] = ("weight", "bias", "gamma", "beta", "scale")
    names: str = "*"
    lr: float = 1.0
    decay: float = 1.0


@dataclass(frozen=True)
class OptimizerSpec:
    """The update rule; weight decay is the factor of the parameter in its gradient (an L2 penalty of w²·decay/2).

    Attributes:
        kind: momentum SGD or RMSProp.
        lr: base learning rate at ``Recipe.batch_size``.
        momentum: of SGD.
        weight_decay: added to the gradient as ``weight_decay * parameter``.
        rho: RMSProp's decay of the mean square.
        eps: RMSProp's small number, added after the root.
        velocity: whether the learning rate is inside the velocity (``lr_inside``: v = m v + lr g, w -= v; Caffe, Chainer,
            MXNet, TensorFlow's is outside) or outside (PyTorch: v = m v + g, w -= lr v). They differ when the rate changes.
        rules: multipliers per parameter.
    """

    kind: Literal["sgd", "rmsprop"] = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rho: float = 0.98
    eps: float = 1e-8
    velocity: Literal["lr_inside", "lr_outside"] = "lr_outside"
    rules: tuple[ParamRule, ...] = ()


@dataclass(frozen=True)
class ScheduleSpec:
    """The learning rate over time.

    Attributes:
        unit: what ``length``, ``milestones`` and ``warmup`` count.
        length: of the whole training.
        mode: ``step``: times ``factor`` at each milestone; ``cos``: half a cosine down to 0.
        warmup: the rate rises linearly from ``warmup_factor`` x to 1 x over this long; ``constant`` keeps the low rate.
        warmup_unit: what ``warmup`` counts; None for ``unit``.
    """

    unit: Literal["iterations", "epochs"] = "iterations"
    length: int = 120_000
    milestones: tuple[int, ...] = (80_000, 100_000)
    factor: float = 0.1
    mode: Literal["step", "cos"] = "step"
    warmup: int = 0
    warmup_factor: float = 0.1
    warmup_form: Literal["linear", "constant"] = "linear"
    warmup_unit: Literal["iterations", "epochs"] | None = None


Kernel = Literal[
    "xavier_uniform_fan_in",
    "xavier_uniform",
    "lecun_uniform",
    "he_normal",
    "he_normal_fan_out",
    "xavier_uniform_magnitude_2",
    "torch_default",
    "normal_001",
]
"""Distributions of new kernels, see ``InitSpec``."""


@dataclass(frozen=True)
class InitSpec:
    """How parameters that no backbone file brings start: heads and extra layers.

    Attributes:
        kernel: ``xavier_uniform_fan_in`` U(±sqrt(3/fan_in)) (Caffe's xavier), ``xavier_uniform`` U(±sqrt(6/(fan_in+fan_out))),
            ``lecun_uniform`` U(±sqrt(3/fan_in)) (Chainer), ``he_normal`` N(0, 2/fan_in) (Caffe's msra), ``he_normal_fan_out``
            N(0, 2/fan_out) and ``xavier_uniform_magnitude_2`` U(±sqrt(4/(fan_in+fan_out))) (MXNet's Xavier with magnitude 2,
            gaussian over fan out and uniform over both), ``torch_default`` U(±sqrt(1/fan_in)), its bias too,
            ``normal_001`` N(0, 0.01²).
        bias: constant.
        l2norm: start of the L2Norm scale.
        heads: distribution of the heads' kernels; None for ``kernel``.
    """

    kernel: Kernel = "xavier_uniform_fan_in"
    bias: float = 0.0
    l2norm: float = 20.0
    heads: Kernel | None = None


@dataclass(frozen=True)
class NormRule:
    """How batch normalisation keeps its running statistics while training, and which gradient an L2 norm hands down.

    Attributes:
        share: of the batch's statistics in the running ones at each step: torch's ``momentum``, 1 - MXNet's and Keras'.
        variance: ``unbiased`` (times n / (n - 1): torch, Caffe, TensorFlow's fused kernel) or ``biased`` (MXNet).
        frozen: it runs on its stored statistics, which stay.
        scales: of the L2 norm's channels: in its gradient (``exact``), or multiplied after it (``outside``: Caffe's Normalize
            layer, on CPU and GPU; another gradient as soon as scales differ).
    """

    share: float = 0.1
    variance: Literal["unbiased", "biased"] = "unbiased"
    frozen: bool = False
    scales: Literal["exact", "outside"] = "exact"


@dataclass(frozen=True)
class Recipe:
    """One source's way to train.

    Attributes:
        name: of the command line (``caffe``, ``gluon``, ``chainer``, ``ssd.pytorch``, ``simple-ssd``, ``keras``, …).
        title: for tables.
        facts: where its figures come from (file of the source project).
        batch_size: images per step over all devices.
        difficult: VOC's difficult objects: trained on (``keep``), left out (``drop``), or left out unless the image has
            nothing else, then its first stays (``drop_keep_one``, HiKapok).
        origin: what is subtracted from VOC's 1-based corners before they are divided by the image's size.
        norm: running statistics of batch normalisation (``norms.training_mode`` applies it).
        notes: what the data cannot say.
    """

    name: str
    title: str
    facts: str
    batch_size: int = 32
    loss: LossRule = field(default_factory=LossRule)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    init: InitSpec = field(default_factory=InitSpec)
    difficult: Literal["keep", "drop", "drop_keep_one"] = "keep"
    origin: Literal[0, 1] = 1
    norm: NormRule = field(default_factory=NormRule)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The recipe as one line of JSON; ``from_json`` gives an equal recipe back."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """Read ``to_json``'s output back.

        Raises:
            FormatError: not JSON, or not a recipe.
        """
        try:
            told = msgspec.json.decode(text)
            if isinstance(told, dict) and isinstance(told.get("loss"), dict):
                told["loss"] = _newer(told["loss"])
            return msgspec.convert(told, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            raise FormatError(f"not a training recipe: {error}") from None


def _newer(loss: dict[str, Any]) -> dict[str, Any]:
    """A loss as recipes of older runs have it, where mining was part of it: the same loss today."""
    if "neg_pos_ratio" not in loss:
        return loss
    mining = {"ratio": loss.pop("neg_pos_ratio"), "overlap": loss.pop("neg_overlap"), "scope": loss.pop("mining")}
    matching = dict(loss.get("matching", {}))
    if isinstance(matching.get("ties"), bool):
        matching["ties"] = "overlapping" if matching["ties"] else "none"
    normalizer = "selected" if loss.get("conf_normalizer") == "selected" else "same"
    return {**loss, "matching": matching, "mining": mining, "conf_normalizer": normalizer}
