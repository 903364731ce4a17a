"""ChainerCV's training step as an oracle: the jobs of ``chainer_worker`` and ``train``. Python 3.8 on.

Targets by ``MultiboxCoder.encode``, loss by ``multibox_loss``, update by ``MomentumSGD`` with ``GradientScaling`` and
``WeightDecay`` hooks, which ChainerCV's example puts on biases and on everything else.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import sys

import chainer
import chainer_worker
import numpy as np
from chainer.optimizer_hooks import WeightDecay
from chainercv.links.model.ssd import GradientScaling, multibox_loss


def train(job, arrays):
    """Steps on one batch: ``input`` (N, 3, H, W), ``boxes<i>`` (g, 4) yxyx pixels of the input and ``labels<i>`` (g,) from 0.

    With ``double`` everything is computed in float64, and the offsets are ``locs`` (N, P, 4): the coder only makes float32.

    Arrays: ``losses`` (steps, 2) loc and conf before each update, ``target/labels``, ``target/locs``, ``gradient/<name>`` of
    the first step as backward leaves it, ``weight/<k>/<name>`` after k updates for each k of ``keep``. ``scaling`` and
    ``decay`` are the hooks' rates, ``ratio`` the negatives per positive.
    """
    model = chainer_worker._loaded(job)
    chainer.config.train = chainer.config.enable_backprop = True
    try:
        return _train(job, arrays, model)
    finally:
        chainer.config.train = chainer.config.enable_backprop = False


def _train(job, arrays, model):
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


chainer_worker.DO["train"] = train

if __name__ == "__main__":
    chainer_worker.main(sys.argv[1])
