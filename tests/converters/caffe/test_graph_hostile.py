"""Broken and hostile net definitions: whatever is wrong, only our own errors come out, and soon."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssdconv.converters.caffe.graph import graph_config, graph_net
from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.prototxt import read_prototxt
from ssdconv.errors import SsdconvError

VALUES: list[Any] = [0, -1, 1, 3, 2**31, 2**63, -(2**31), 0.0, -1.5, 1e300, float("nan"), float("inf"), "x", "", None]
VALUES += [True, [], [0], [-1], [2**40] * 5, {}, {"dim": [0, -1, 0]}, [1.5], "WITHIN_CHANNEL"]
FIELDS = ["axis", "pad", "kernel_size", "shape", "num_output", "group", "min_size", "max_size", "step", "img_size"]
MUTANTS = 1000


def mutated(params: Mapping[str, Any], draw: random.Random) -> dict[str, Any]:
    result = dict(params)
    if not result or draw.random() < 0.2:
        result[draw.choice(FIELDS)] = draw.choice(VALUES)
        return result
    key = draw.choice(list(result))
    value = result[key]
    if isinstance(value, dict) and draw.random() < 0.8:
        result[key] = mutated(value, draw)
    elif isinstance(value, list) and value and draw.random() < 0.5:
        result[key] = [draw.choice(VALUES), *value[1:]]
    elif draw.random() < 0.2:
        del result[key]
    else:
        result[key] = draw.choice(VALUES)
    return result


def mutant(net: CaffeNet, draw: random.Random) -> CaffeNet:
    layers, inputs = list(net.layers), dict(net.inputs)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(layers))
        layer, other = layers[at], draw.choice(layers)
        change = draw.randrange(9)
        if change == 0 and len(layers) > 1:
            layers.pop(at)
        elif change == 1:
            layers.insert(at, replace(other, name=layer.name if draw.random() < 0.3 else f"{other.name}_"))
        elif change == 2:
            layers[at] = replace(layer, type=other.type)
        elif change == 3:
            layers[at] = replace(layer, bottoms=other.tops if draw.random() < 0.5 else layer.bottoms[1:])
        elif change == 4:
            layers[at] = replace(layer, tops=other.tops if draw.random() < 0.5 else layer.tops[1:])
        elif change == 5:
            sides = [0, 1, 3, 300, 2**31, -1]
            inputs = {k: tuple(draw.choice(sides) for _ in range(draw.randint(0, 5))) for k in inputs}
        elif change == 6:
            layers[at] = replace(layer, phase=draw.choice(["TRAIN", "TEST"]))
        else:
            layers[at] = replace(layer, params=mutated(layer.params, draw))
    return CaffeNet(net.name, inputs, tuple(layers))


@pytest.mark.shared
def test_mutants_of_real_nets_end_in_a_config_or_in_our_errors(shared: Path) -> None:
    nets = [read_prototxt(path) for path in sorted((shared / "weights").rglob("*.prototxt"))]
    refused = 0
    for seed in range(MUTANTS):
        draw = random.Random(seed)
        net = mutant(draw.choice(nets), draw)
        start = time.process_time()
        try:
            config = graph_config(net, name="mutant", weights=draw.choice([None, *nets]))
            graph_net(config)
            config.to_json()
        except SsdconvError:
            refused += 1
        assert time.process_time() - start < 2, seed
    assert MUTANTS // 2 < refused < MUTANTS
