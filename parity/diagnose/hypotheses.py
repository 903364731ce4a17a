"""Every hypothesis, in the order in which they are tried at one layer."""

from __future__ import annotations

from ssdconv.parity.diagnose import boxes
from ssdconv.parity.diagnose.hypothesis import ConfigHypothesis, Mistake
from ssdconv.parity.diagnose.layers import LAYERS
from ssdconv.parity.diagnose.pixels import PIXELS
from ssdconv.parity.diagnose.weights import CORRUPTED, HALF, SWAPPED, WEIGHTS

FIX = "convert again naming the network: `ssdconv convert SOURCE out.pth --network NAME`"

BOXES: tuple[ConfigHypothesis, ...] = (
    ConfigHypothesis(
        "score-activation", "class outputs become scores in another way",
        "Softmax over the classes and sigmoid per class give other scores, and other ranks, from the same outputs.",
        "fact: SSD's conf is softmax; some ports and face detectors use sigmoid", "config", frozenset({"scores"}),
        FIX, boxes.activation,
    ),
    ConfigHypothesis(
        "prior-order", "the prior boxes of a cell are in another order than the heads",
        "Heads answer for priors by position: jedol's Keras SSD has 2, 3, 1/2, 1/3, SSD.TensorFlow its extra square first.",
        "fact: trap 4, anchor permutation", "config", frozenset({"priors"}), FIX, boxes.order,
    ),
    ConfigHypothesis(
        "prior-truncation", "prior sizes are cut to whole pixels, or not",
        "Caffe casts sizes to integers (35.84 becomes 35): first-map boxes of SSD512 differ by 2.4 %, mAP hardly at all.",
        "fact: trap 14, int truncation at 512", "config", frozenset({"priors"}), FIX, boxes.truncation,
    ),
    ConfigHypothesis(
        "prior-sizes", "prior boxes have another network's sizes",
        "VOC and COCO networks share all shapes and differ in prior sizes; GluonCV's 512 networks start at 51.2.",
        "fact: traps 15 and 16, VOC and COCO prior sizes", "config", frozenset({"priors"}), FIX, boxes.sizes,
    ),
    ConfigHypothesis(
        "prior-clip", "prior boxes are clipped to the image, or not",
        "ssd.pytorch and torchvision clamp priors, Caffe does not: boxes of the coarsest maps differ, scores do not.",
        "fact: trap 13, prior clamp", "config", frozenset({"priors"}), FIX, boxes.clip,
    ),
    ConfigHypothesis(
        "prior-steps", "prior boxes have other centres",
        "Steps are given (8, 16, 32 …) or follow from image over grid, and centres lie in the middle of a cell.",
        "fact: steps of table 1.2", "config", frozenset({"priors"}), FIX, boxes.steps,
    ),
    ConfigHypothesis(
        "box-variances", "box variances are applied twice or not at all",
        "Decoding multiplies by 0.1, 0.1, 0.2, 0.2 unless loc has them already (variance_encoded_in_target).",
        "fact: variances 0.1, 0.1, 0.2, 0.2 for all systems", "config", frozenset({"priors", "detections"}),
        FIX, boxes.variances,
    ),
    ConfigHypothesis(
        "detection-rule", "detections are chosen by another rule",
        "Score threshold, candidates before NMS, NMS threshold and limits differ between sources and between deploy and test nets.",
        "fact: traps 18 and 24; https://github.com/lufficc/SSD/issues/53", "config", frozenset({"detections"}),
        FIX, boxes.rule,
    ),
    ConfigHypothesis(
        "background", "another class counts as background",
        "Class 0 is background; taking another one for it reports background as objects and loses a class.",
        "fact: class 0 of every source is background", "config", frozenset({"detections"}), FIX, boxes.background,
    ),
)  # fmt: skip

CONFIGS: tuple[ConfigHypothesis, ...] = (*PIXELS, *LAYERS, *BOXES)
TABLE: dict[str, Mistake] = {m.name: m for m in (*PIXELS, *WEIGHTS, SWAPPED, HALF, CORRUPTED, *LAYERS, *BOXES)}
"""Name -> hypothesis, of all."""
