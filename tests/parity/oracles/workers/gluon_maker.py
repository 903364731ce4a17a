"""What tests and benchmarks want of GluonCV and MXNet besides ``gluon_worker``'s jobs: files that they wrote, and what they read.

Random weights keep every activation finite.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4] / "parity" / "oracles" / "workers"))

import numpy as np
from gluon_worker import JOBS, loaded, make, mx  # which sets how MXNet runs before it loads it
from gluoncv.model_zoo.ssd.target import SSDTargetGenerator
from serving import serve

STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_var")


def randomise(net, seed, size, batch=2):
    """Give every tensor of an SSD or backbone random values by ``seed``.

    He-scaled convolutions, heads brought to a given spread, gammas in 0.5..1.5, small biases. Statistics come from one training pass
    on random pictures of ``size`` pixels (the moving average of MXNet starts from 0 and takes a tenth of the batch's) and
    are then shaken a little; the gammas that MXNet counts as 1 get other values, which must not matter.
    """
    mx.random.seed(seed)
    rng = np.random.RandomState(seed)
    net.initialize(mx.init.Zero(), force_reinit=True)
    pictures = mx.nd.array(_pictures(rng, batch, size))
    net(pictures[:1])
    params = net.collect_params()
    for name, param in params.items():
        if isinstance(param, mx.gluon.Constant):
            continue
        param.set_data(mx.nd.array(_values(name, param.shape, rng).astype("float32")))
    if any(name.endswith(STATISTICS) for name in params):
        _calibrate(net, pictures)
        for name, param in params.items():
            if name.endswith(("running_mean", "moving_mean")):
                values = param.data().asnumpy() * 10
                param.set_data(mx.nd.array(values + rng.normal(0, 0.05, values.shape)))
            elif name.endswith(("running_var", "moving_var")):
                values = np.maximum(param.data().asnumpy() * 10, 0.05)
                param.set_data(mx.nd.array(values * rng.uniform(0.8, 1.25, values.shape)))
            elif name.endswith("gamma") and _fixed(name):
                param.set_data(mx.nd.array(rng.uniform(0.5, 1.5, param.shape)))
    if hasattr(net, "class_predictors"):
        _scale_heads(net, pictures)


def _pictures(rng, batch, size):
    """Noise and smooth fields by turns, over the range of normalised pixels: (batch, 3, size, size) float32."""
    noise = rng.uniform(-2.1, 2.6, (batch, 3, size, size))
    tile = -(-size // 4)
    for item in range(1, batch, 2):
        noise[item] = np.kron(rng.uniform(-2.1, 2.6, (3, 4, 4)), np.ones((tile, tile)))[:, :size, :size]
    return noise.astype("float32")


def _scale_heads(net, pictures):
    """Bring every head's outputs to a spread of 1.5 (classes) and 1 (boxes): scores of all sizes, boxes of sane sizes."""
    for feature, classes, boxes in zip(net.features(pictures), net.class_predictors, net.box_predictors):
        for head, spread in ((classes, 1.5), (boxes, 1.0)):
            weight, bias = head.predictor.weight, head.predictor.bias.data().reshape((1, -1, 1, 1))
            values = mx.nd.broadcast_sub(head(feature), bias).asnumpy()
            weight.set_data(weight.data() * float(spread / max(values.std(), 1e-6)))


def _values(name, shape, rng):
    if name.endswith("weight"):
        fan_in = int(np.prod(shape[1:]))
        scale = np.sqrt(2.0 / fan_in)
        return rng.normal(0, scale, shape)
    if name.endswith("gamma"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("normalize_scale"):
        return rng.uniform(10, 20, shape)
    if name.endswith(("_mean", "_var")):
        return np.zeros(shape)
    return rng.normal(0, 0.05, shape)


def _fixed(name):
    """Gammas that MXNet counts as 1: the expander's, and the first BatchNorm of ResNet v2."""
    return "expand_" in name or ("resnetv2" in name and "stage" not in name and name.endswith("batchnorm0_gamma"))


def _calibrate(net, pictures):
    """One training pass; MXNet updates moving statistics in backward."""
    with mx.autograd.record():
        outputs = net(pictures)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        total = sum((out * 0).sum() for out in outputs[:2])
    total.backward()
    mx.nd.waitall()


def saved(net, folder, stem, dialects):
    """Write the network's weights in the wanted dialects; returns dialect -> path."""
    paths = {}
    for dialect in dialects:
        path = f"{folder}/{stem}.{dialect}.params"
        if dialect == "structural":
            net.save_parameters(path)
        elif dialect == "legacy":
            net.collect_params().save(path)
        elif dialect == "stripped":
            net.collect_params().save(path, strip_prefix=net.prefix)
        elif dialect == "export":
            net.hybridize()
            net(mx.nd.zeros((1, 3, 300, 300)))
            net.export(f"{folder}/{stem}", epoch=0)
            net.hybridize(active=False)
            path = f"{folder}/{stem}-0000.params"
        else:
            raise ValueError(f"no dialect {dialect!r}")
        paths[dialect] = path
    return paths


def build(job, arrays):
    """A network with random weights, saved in ``folder`` under ``stem`` in each of ``dialects``."""
    net = make(job["network"], job.get("classes"), job.get("prefix"))
    randomise(net, job.get("seed", 0), job["size"])
    return {"paths": saved(net, job["folder"], job["stem"], job["dialects"])}, {}


def graph(job, arrays):
    """Names of all nodes of a network's graph, and what it says about its batch normalisations; nothing is computed."""
    net = make(job["network"], None, "ssd0_")
    symbol = mx.sym.Group(list(net(mx.sym.var("data"))))
    nodes = [node for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]
    norms = {node["name"]: node.get("attrs", {}) for node in nodes if node["op"] == "BatchNorm"}
    return {"nodes": [node["name"] for node in nodes], "batch_norms": norms}, {}


def load(job, arrays):
    """What ``mx.nd.load`` makes of a file: names in order, and the arrays under their indices."""
    with mx.util.np_shape(bool(job.get("np_shape"))):
        loaded = mx.nd.load(job["path"])
        if not isinstance(loaded, dict):
            loaded = {str(index): value for index, value in enumerate(loaded)}
        return {"names": list(loaded)}, {str(index): value.asnumpy() for index, value in enumerate(loaded.values())}


def save(job, arrays):
    """Write the request's arrays with ``mx.nd.save``, under ``names`` or as a list without names."""
    with mx.util.np_shape(bool(job.get("np_shape"))):
        values = [mx.nd.array(arrays[str(index)], dtype=arrays[str(index)].dtype) for index in range(len(arrays))]
        mx.nd.save(job["path"], dict(zip(job["names"], values)) if job.get("names") else values)
    return {}, {}


def save_sparse(job, arrays):
    """Write a row-sparse and a csr array."""
    dense = mx.nd.array(arrays["dense"])
    stored = {"plain": dense, job["kind"]: dense.tostype(job["kind"])}
    mx.nd.save(job["path"], stored)
    return {}, {}


def match(job, arrays):
    """Labels of SSDTargetGenerator for ``anchors`` (P, 4) cx, cy, w, h and ``boxes<i>`` (g, 4) xyxy: ``<i>`` (P,), 0 for none."""
    generator = SSDTargetGenerator(iou_thresh=0.5, negative_mining_ratio=-1)
    anchors = mx.nd.array(arrays["anchors"][None])
    out = {}
    for index in range(job["sets"]):
        boxes = arrays[f"boxes{index}"]
        ids = np.arange(len(boxes), dtype="float32")[None, :, None]
        out[str(index)] = generator(anchors, None, mx.nd.array(boxes[None]), mx.nd.array(ids))[0].asnumpy()[0]
    return {}, out


def bench_load(job, arrays):
    """Seconds of ``mx.nd.load`` and copying every array out, ``repeat`` times."""
    seconds = []
    for _ in range(job["repeat"]):
        start = time.perf_counter()
        for value in mx.nd.load(job["path"]).values():
            value.asnumpy()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}, {}


def bench(job, arrays):
    """Seconds per forward pass of ``input`` (N, 3, H, W), detections included, ``repeat`` times after two warm-up passes.

    ``threads`` and ``backend`` repeat what the environment told MXNet.
    """
    net = loaded(job)
    net.set_nms(0.45, 400, 100)
    net.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(arrays["input"])
    seconds = []
    for _ in range(job["repeat"] + 2):
        start = time.perf_counter()
        for out in net(x):
            out.wait_to_read()
        seconds.append(time.perf_counter() - start)
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    return {"seconds": seconds[2:], "threads": threads, "backend": os.environ["MXNET_SUBGRAPH_BACKEND"]}, {}


if __name__ == "__main__":
    serve(*JOBS, build, graph, load, save, save_sparse, match, bench_load, bench)
