"""ChainerCV as an oracle: its networks, pixels and detections, its training step, and its training by epochs. Python 3.8 on.

In training, targets come from ``MultiboxCoder.encode``, the loss from ``multibox_loss``, updates from ``MomentumSGD`` with the hooks ``GradientScaling``
and ``WeightDecay``, which ChainerCV's example puts on biases and on everything else. By epochs, images and boxes come from ``VOCBboxDataset``,
augmentation from ``chainercv.transforms`` and the transforms of its SSD, batches from Chainer's ``SerialIterator``, and ``StandardUpdater`` updates;
the order of the steps of augmentation is that of ChainerCV's example, which is not in its package.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import random
import sys
import time
import warnings

warnings.filterwarnings("ignore")

import chainer
import chainer.links as L
import numpy as np
from chainer.datasets import TransformDataset
from chainer.optimizer_hooks import WeightDecay
from chainercv import transforms
from chainercv.datasets import VOCBboxDataset
from chainercv.datasets.voc import voc_utils
from chainercv.links import SSD300, SSD512
from chainercv.links.model.ssd import (
    GradientScaling,
    Normalize,
    multibox_loss,
    random_crop_with_bbox_constraints,
    random_distort,
    resize_with_random_interpolation,
)
from serving import serve

chainer.config.train = False
chainer.config.enable_backprop = False


def _network(job):
    """SSD300 or SSD512; with ``width`` below 64 every layer of the extractor has that share of its channels."""
    model = {300: SSD300, 512: SSD512}[job["size"]](n_fg_class=job["classes"] - 1)
    width = job.get("width", 64)
    if width != 64:
        extractor = model.extractor
        for name, link in list(extractor.namedlinks(skipself=True)):
            name = name[1:]
            if isinstance(link, Normalize):
                new = Normalize(width * 8, eps=link.eps)
            else:
                options = {"dilate": link.dilate} if isinstance(link, L.DilatedConvolution2D) else {}
                count = link.out_channels * width // 64
                new = type(link)(None, count, link.ksize, link.stride, link.pad, **options)
            delattr(extractor, name)
            with extractor.init_scope():
                setattr(extractor, name, new)
    return model


def _loaded(job):
    model = _network(job)
    model(np.zeros((1, 3, job["size"], job["size"]), np.float32))  # gives every link its input channels
    chainer.serializers.load_npz(job["npz"], model)  # strict: a name too few or too many raises
    return model


class _Record(chainer.LinkHook):
    """Keeps every link's output by the link's path."""

    name = "record"

    def __init__(self, model):
        super().__init__()
        self.outputs = {}
        self.names = {id(link): name for name, link in model.namedlinks()}

    def forward_postprocess(self, args):
        if not isinstance(args.out, (tuple, list)):
            self.outputs[self.names[id(args.link)]] = args.out.array.copy()


def activations(job, arrays):
    """Every link's output for ``input`` (N, 3, H, W), raw locs and confs, and detections by ``preset``.

    Detections of image i: ``<i>/boxes`` (n, 4) yxyx in pixels of the input, ``<i>/labels`` from 0, ``<i>/scores``.
    """
    model = _loaded(job)
    with _Record(model) as record:
        locs, confs = model(arrays["input"])
    out = {"links" + name: value for name, value in record.outputs.items()}
    out["locs"], out["confs"] = locs.array, confs.array
    out["defaults"] = model.coder._default_bbox
    model.use_preset(job.get("preset", "evaluate"))
    for index, (loc, conf) in enumerate(zip(locs.array, confs.array)):
        found = model.coder.decode(loc, conf, model.nms_thresh, model.score_thresh)
        for key, value in zip(("boxes", "labels", "scores"), found):
            out[f"{index}/{key}"] = value
    return {"links": sorted(record.outputs)}, out


def predict(job, arrays):
    """``SSD.predict`` on the RGB uint8 image (H, W, 3) ``image``: boxes yxyx in pixels of the image."""
    model = _loaded(job)
    model.use_preset(job.get("preset", "evaluate"))
    image = arrays["image"].transpose(2, 0, 1).astype(np.float32)
    (boxes,), (labels,), (scores,) = model.predict([image])
    return {}, {"boxes": boxes, "labels": labels, "scores": scores}


def prepare(job, arrays):
    """``SSD._prepare`` on each RGB uint8 array (H, W, 3) ``0``, ``1``, …: (3, size, size) float32."""
    model = _network(job)
    return {}, {name: model._prepare(a.transpose(2, 0, 1).astype(np.float32)) for name, a in arrays.items()}


def save(job, arrays):
    """Load ``npz`` and save the model again to ``out``, by Chainer's own serializers."""
    save = chainer.serializers.save_npz
    save(job["out"], _loaded(job), compression=job.get("compression", True))
    return {}, {}


def train(job, arrays):
    """Steps on one batch: ``input`` (N, 3, H, W), ``boxes<i>`` (g, 4) yxyx pixels of the input and ``labels<i>`` (g,) from 0.

    With ``double`` everything is computed in float64, and the offsets are ``locs`` (N, P, 4): the coder only makes float32.

    Arrays: ``losses`` (steps, 2) loc and conf before each update, ``target/labels``, ``target/locs``, ``gradient/<name>`` of
    the first step as backward leaves it, ``weight/<k>/<name>`` after k updates for each k of ``keep``. ``scaling`` and
    ``decay`` are the hooks' rates, ``ratio`` the negatives per positive.
    """
    model = _loaded(job)
    with chainer.using_config("train", True), chainer.using_config("enable_backprop", True):
        return _trained(job, arrays, model)


def _trained(job, arrays, model):
    x = arrays["input"]
    targets = [model.coder.encode(arrays[f"boxes{i}"], arrays[f"labels{i}"]) for i in range(len(x))]
    locs, labels = (np.stack(part) for part in zip(*targets))
    if job["double"]:
        for param in model.params():
            param.array = param.array.astype(np.float64)
    optimizer = chainer.optimizers.MomentumSGD(lr=job["lr"], momentum=job["momentum"])
    optimizer.setup(model)
    for param in model.params():
        hook = GradientScaling(job["scaling"]) if param.name == "b" else WeightDecay(job["decay"])
        param.update_rule.add_hook(hook)
    out, losses = {"target/labels": labels, "target/locs": locs}, []
    if job["double"]:
        x, locs = x.astype(np.float64), arrays["locs"]
    for step in range(max(job["keep"])):
        mb_locs, mb_confs = model(x)
        loc_loss, conf_loss = multibox_loss(mb_locs, mb_confs, locs, labels, job["ratio"])
        losses.append((float(loc_loss.array), float(conf_loss.array)))
        model.cleargrads()
        (loc_loss + conf_loss).backward()
        if step == 0:
            out.update({"gradient" + name: param.grad.copy() for name, param in model.namedparams()})
        if step in job.get("drop", ()):
            optimizer.lr *= 0.1
        optimizer.update()
        if step + 1 in job["keep"]:
            head = f"weight/{step + 1}"
            out.update({head + name: param.array.copy() for name, param in model.namedparams()})
    out["losses"] = np.array(losses)
    return {}, out


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
    model = _loaded(dict(job, classes=len(job["classes"]) + 1))
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
    serve(activations, predict, prepare, save, train, epochs)
