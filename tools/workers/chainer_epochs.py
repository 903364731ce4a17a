"""ChainerCV's training by epochs, in the interpreter of its oracle; Python 3.8 on.

Images and boxes by ``VOCBboxDataset``, augmentation by ``chainercv.transforms`` and the transforms of its SSD, targets by
``MultiboxCoder``, loss by ``multibox_loss``, batches by Chainer's ``SerialIterator``, updates by ``StandardUpdater`` and
``MomentumSGD`` with ``GradientScaling`` and ``WeightDecay`` hooks, detections by ``SSD.predict``. The order of the steps of
augmentation is that of ChainerCV's example, which is not in its package.
"""

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "parity" / "oracles" / "workers"))

import chainer
import numpy as np
from chainer.datasets import TransformDataset
from chainer.optimizer_hooks import WeightDecay
from chainer_worker import loaded
from chainercv import transforms
from chainercv.datasets import VOCBboxDataset
from chainercv.datasets.voc import voc_utils
from chainercv.links.model.ssd import (
    GradientScaling,
    multibox_loss,
    random_crop_with_bbox_constraints,
    random_distort,
    resize_with_random_interpolation,
)
from serving import serve


class _Loss(chainer.Chain):
    """loc + conf, per positive; keeps both of every update."""

    def __init__(self, model, ratio):
        super().__init__()
        self.ratio, self.losses = ratio, []
        with self.init_scope():
            self.model = model

    def forward(self, images, locs, labels):
        found = self.model(images)
        loc, conf = multibox_loss(*found, locs, labels, self.ratio)
        self.losses.append((float(loc.array), float(conf.array)))
        return loc + conf


def _sample(model, example):
    """Image (3, S, S) without its mean, and the targets of all priors."""
    image, boxes, labels = example
    image = random_distort(image)
    if random.random() < 0.5:
        image, drawn = transforms.random_expand(image, fill=model.mean, return_param=True)
        boxes = transforms.translate_bbox(boxes, y_offset=drawn["y_offset"], x_offset=drawn["x_offset"])
    image, window = random_crop_with_bbox_constraints(image, boxes, return_param=True)
    edges = {"y_slice": window["y_slice"], "x_slice": window["x_slice"]}
    boxes, left = transforms.crop_bbox(boxes, allow_outside_center=False, return_param=True, **edges)
    labels, size = labels[left["index"]], (model.insize, model.insize)
    boxes = transforms.resize_bbox(boxes, image.shape[1:], size)
    image = resize_with_random_interpolation(image, size)
    image, flip = transforms.random_flip(image, x_random=True, return_param=True)
    boxes = transforms.flip_bbox(boxes, size, x_flip=flip["x_flip"])
    locs, classes = model.coder.encode(boxes, labels)
    return image - model.mean.astype(np.float32), locs, classes


def _detected(model, held):
    """Rows image, class from 0, score, xyxy as fractions."""
    rows = []
    for index in range(len(held)):
        image = held[index][0]
        (boxes,), (labels,), (scores,) = model.predict([image])
        fractions = boxes[:, [1, 0, 3, 2]] / np.array(image.shape[:0:-1] * 2)
        rows.append(np.column_stack([np.full(len(boxes), index), labels, scores, fractions]))
    return np.concatenate(rows)


def epochs(job, arrays):
    """Train from ``npz`` on part train of the set in VOC's form at ``root``; detect on part val every ``every`` epochs.

    Answers ``epochs``, a dict per epoch: its number, seconds, and the losses loc and conf of every update. Arrays:
    ``rows<epoch>``, see ``_detected``.
    """
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    voc_utils.voc_bbox_label_names = tuple(name.lower() for name in job["classes"])
    train, held = (VOCBboxDataset(job["root"], part) for part in ("train", "val"))
    model = loaded(dict(job, classes=len(job["classes"]) + 1))
    model.use_preset("evaluate")
    whole, optimizer = _Loss(model, 3), chainer.optimizers.MomentumSGD(lr=job["lr"])
    optimizer.setup(whole)
    for param in whole.params():
        param.update_rule.add_hook(GradientScaling(2) if param.name == "b" else WeightDecay(5e-4))
    samples = TransformDataset(train, lambda example: _sample(model, example))
    updater = chainer.training.updaters.StandardUpdater(
        chainer.iterators.SerialIterator(samples, job["batch"]), optimizer, device=-1
    )
    answers, out = [], {}
    for epoch in range(1, job["epochs"] + 1):
        began, done = time.time(), len(whole.losses)
        with chainer.using_config("train", True), chainer.using_config("enable_backprop", True):
            while updater.epoch < epoch:
                updater.update()
        answers.append({"epoch": epoch, "seconds": time.time() - began, "losses": whole.losses[done:]})
        print(epoch, np.mean(np.sum(whole.losses[done:], 1)), answers[-1]["seconds"], file=sys.stderr, flush=True)
        if job["every"] and (epoch % job["every"] == 0 or epoch == job["epochs"]):
            out[f"rows{epoch}"] = _detected(model, held)
    return {"epochs": answers}, out


if __name__ == "__main__":
    serve(epochs)
