"""ChainerCV as an oracle: its networks, pixels and detections, and its training step. Python 3.8 on.

In training, targets come from ``MultiboxCoder.encode``, the loss from ``multibox_loss``, updates from ``MomentumSGD`` with the hooks ``GradientScaling``
and ``WeightDecay``, which ChainerCV's example puts on biases and on everything else.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import warnings

warnings.filterwarnings("ignore")

import chainer
import chainer.links as L
import numpy as np
from chainer.optimizer_hooks import WeightDecay
from chainercv.links import SSD300, SSD512
from chainercv.links.model.ssd import (
    GradientScaling,
    Normalize,
    multibox_loss,
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


def loaded(job):
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
    model = loaded(job)
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


def prepare(job, arrays):
    """``SSD._prepare`` on each RGB uint8 array (H, W, 3) ``0``, ``1``, …: (3, size, size) float32."""
    model = _network(job)
    return {}, {name: model._prepare(a.transpose(2, 0, 1).astype(np.float32)) for name, a in arrays.items()}


def train(job, arrays):
    """Steps on one batch: ``input`` (N, 3, H, W), ``boxes<i>`` (g, 4) yxyx pixels of the input and ``labels<i>`` (g,) from 0.

    With ``double`` everything is computed in float64, and the offsets are ``locs`` (N, P, 4): the coder only makes float32.

    Arrays: ``losses`` (steps, 2) loc and conf before each update, ``target/labels``, ``target/locs``, ``gradient/<name>`` of
    the first step as backward leaves it, ``weight/<k>/<name>`` after k updates for each k of ``keep``. ``scaling`` and
    ``decay`` are the hooks' rates, ``ratio`` the negatives per positive.
    """
    model = loaded(job)
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


JOBS = (activations, prepare, train)

if __name__ == "__main__":
    serve(*JOBS)
