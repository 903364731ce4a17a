"""What is known of the two Keras projects' code, by date: what their weight files leave open, and what it was at other times.

Dates and commits are those of pierluigiferrari/ssd_keras and jedol/SSD-Keras_Tensorflow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ssdconv.converters.assumed import Project, Reading, flipped
from ssdconv.ssd_ref.config import SSDConfig, Staged
from ssdconv.ssd_ref.networks.caffe import RATIOS, SIZES
from ssdconv.ssd_ref.networks.keras import SSD7_SCALES


def project_of(config: SSDConfig) -> Project:
    """The history of a network's project."""
    if config.name == "ssd7":
        return SSD7
    return _jedol(config) if config.name.startswith("jedol") else _ssd_keras(config)


def _heads(padding: int | None, staged: Staged) -> Staged:
    return replace(staged, heads=replace(staged.heads, padding=padding))


def _strided(padding: int | Literal["same"], staged: Staged) -> Staged:
    """The extra layers' strided convolutions with that padding."""
    stages = tuple(
        tuple(replace(c, padding=padding) if c.stride == 2 else c for c in stage) for stage in staged.extras.stages
    )
    return replace(staged, extras=replace(staged.extras, stages=stages))


HEADS = Reading(
    "heads.padding",
    "same",
    {
        "same": ("heads padded (SAME), since 2018-01-30 (8c49088)", lambda staged: _heads(None, staged)),
        "valid": ("heads not padded (VALID), before 2018-01-30", lambda staged: _heads(0, staged)),
    },
)
"""SSD7's classes4 … boxes7."""

STRIDED = Reading(
    "extras.padding",
    "caffe",
    {
        "caffe": (
            "conv6_2 and conv7_2 padded by 1 on all sides, since 2018-01-08 (794b28a)",
            lambda staged: _strided(1, staged),
        ),
        "same": (
            "conv6_2 and conv7_2 padded as TensorFlow's SAME, before 2018-01-08",
            lambda staged: _strided("same", staged),
        ),
    },
)
"""SSD300 before 794b28a; there, pools without padding behind a row of zeros gave what SAME pools give. SSD512 came later."""

SSD7 = Project(
    "ssd_keras' SSD7 notebook",
    scales={"": SSD7_SCALES},
    ratios=((2.0, 0.5),) * 4,
    readings=(HEADS,),
    means_note="models built before 2018-01-11 (a5155c3) compute x / 127.5 - 1, which is the same",
    clip="pixels",
    notes={
        "priors.scales": "its builder's own default is 0.1,0.3,0.5,0.7,0.9",
        "priors.clip": "where nothing was said, its builder clipped before 2018-01-30",
    },
)


def _scales(size: int) -> dict[str, tuple[float, ...]]:
    return {word: tuple(side / size for side in SIZES[f"ssd{size}_{word}"]) for word in ("voc", "coco")}


def _ssd_keras(config: SSDConfig) -> Project:
    size = 512 if "ssd512" in config.name else 300
    return Project(
        "ssd_keras' code since 2018-01-19 (d183dd9)",
        scales=_scales(size),
        scale="coco" if config.name.endswith("coco") else "voc",
        ratios=flipped(RATIOS[size]),
        readings=(STRIDED,) if size == 300 else (),
        means=("123,117,104",),
        means_note="123,117,104 is what models built between 2018-01-15 and 2018-01-19 subtract, none what older ones do",
        clip="pixels",
        notes={
            "priors.steps": "given since 2018-01-11, even before",
            "priors.clip": "since 2017-04-25, 7bc48a1",
        },
    )


def _jedol(config: SSDConfig) -> Project:
    resnet = "resnet50" in config.name
    return Project(
        "jedol's code (553804f, layers and priors unchanged since 2017-07)",
        scales={"voc": _scales(300)["voc"]},
        scale="voc",
        ratios=flipped(RATIOS[300]),
        means_note="its ResNet50 subtracts none" if resnet else "",
    )
