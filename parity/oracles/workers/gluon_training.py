"""GluonCV's training step as an oracle: the jobs of ``gluon_worker`` and ``train``, ``match``. Python 3.8 on.

Targets by ``SSDTargetGenerator`` as GluonCV's training transform makes them, loss by ``SSDMultiBoxLoss``, update by
``gluon.Trainer`` with momentum SGD and ``step(1)``, as in GluonCV's script.
"""

import sys
from pathlib import Path

import gluon_worker
import mxnet as mx
import numpy as np
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo.ssd.target import SSDTargetGenerator


def train(job, arrays):
    """Steps on one batch: ``input`` (N, 3, H, W), ``boxes<i>`` (g, 4) xyxy pixels and ``labels<i>`` (g,) from 0.

    With ``double`` everything is computed in float64, and the offsets are ``locs`` (N, P, 4): the generator makes float32.

    Arrays: ``losses`` (steps, 2) loc and conf before each update, ``target/labels``, ``target/locs``, ``gradient/<name>`` of
    the first step as backward leaves it, ``weight/<k>/<name>`` after k updates for each k of ``keep``, running statistics
    with them.
    """
    net = gluon_worker._loaded(job)
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


gluon_worker.JOBS.update(train=train, match=match)

if __name__ == "__main__":
    gluon_worker.main(Path(sys.argv[1]))
