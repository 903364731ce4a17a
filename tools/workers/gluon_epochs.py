"""GluonCV's training by epochs, in the interpreter of its oracle; Python 3.8 on.

Its own data set, training transform, data loader, loss, trainer and detections; starting values as its networks and its
script have them.
"""

import logging
import os
import random
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")
sys.path.insert(0, str(Path(__file__).parents[2] / "parity" / "oracles" / "workers"))

import mxnet as mx
import numpy as np
from gluoncv.data import VOCDetection
from gluoncv.data.batchify import Stack, Tuple
from gluoncv.data.transforms.presets.ssd import SSDDefaultTrainTransform, SSDDefaultValTransform
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo import get_model
from serving import serve

logging.disable(logging.WARNING)


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
    serve(epochs)
