"""The layers of SSD's own deploy nets that turn raw loc and conf into detections."""

from __future__ import annotations

from collections.abc import Iterable

from ssdconv.converters.caffe.rule import output_params
from ssdconv.ssd_ref.config import DetectRule, LayerSpec


def standard_tail(
    loc: str, conf: str, priors: str, num_classes: int, rule: DetectRule, taken: Iterable[str]
) -> tuple[LayerSpec, ...]:
    """Reshape to (N, P, C), softmax or sigmoid, Flatten and DetectionOutput, under the names that SSD gives them.

    Args:
        loc, conf, priors: blobs to read; ``conf`` before softmax.
        taken: layer and blob names that are in use; a name that is gets a number.
    """
    used = set(taken)

    def free(name: str) -> str:
        number = 2
        choice = name
        while choice in used:
            choice, number = f"{name}_{number}", number + 1
        used.add(choice)
        return choice

    def layer(name: str, kind: str, bottoms: tuple[str, ...], params: dict[str, object]) -> LayerSpec:
        name = free(name)
        return LayerSpec(name, kind, bottoms, (name,), params)

    tail = [layer("mbox_conf_reshape", "Reshape", (conf,), {"shape": {"dim": [0, -1, num_classes]}})]
    if rule.activation == "softmax":
        tail.append(layer("mbox_conf_softmax", "Softmax", tail[-1].tops, {"axis": 2}))
    elif rule.activation == "sigmoid":
        tail.append(layer("mbox_conf_sigmoid", "Sigmoid", tail[-1].tops, {}))
    tail.append(layer("mbox_conf_flatten", "Flatten", tail[-1].tops, {}))
    bottoms = (loc, *tail[-1].tops, priors)
    tail.append(layer("detection_out", "DetectionOutput", bottoms, output_params(num_classes, rule)))
    return tuple(tail)
