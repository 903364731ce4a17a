"""A frozen detection graph run as it is, from prepared pixels to its own detections. Run by ``tf_worker.py``.

Only operations that compute are run: a graph may hold some that read and write files.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_frozen

v1 = tf.compat.v1
COMPUTING = {
    *tf_frozen.ARITHMETIC, "All", "Any", "ArgMax", "Assert", "BroadcastTo", "Ceil", "CombinedNonMaxSuppression", "DepthwiseConv2dNative",
    "Div", "Elu", "Enter", "Equal", "Exit", "Exp", "Fill", "Floor", "FloorDiv", "FloorMod", "Greater", "GreaterEqual", "LeakyRelu", "Less",
    "LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "LoopCond", "Max", "Mean", "Merge", "Min", "Neg", "NextIteration", "NoOp",
    "NonMaxSuppression", "NonMaxSuppressionV2", "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5", "NotEqual", "OnesLike",
    "Pow", "PreventGradient", "Range", "Rank", "Relu6", "ResizeBilinear", "ResizeNearestNeighbor", "Round", "Select", "SelectV2", "Selu",
    "Sigmoid", "Size", "Softmax", "Softplus", "Softsign", "Split", "SplitV", "StopGradient", "Switch", "Tanh", "TensorArrayGatherV3",
    "TensorArrayReadV3", "TensorArrayScatterV3", "TensorArraySizeV3", "TensorArrayV3", "TensorArrayWriteV3", "Tile", "TopKV2", "Unpack",
    "Where", "ZerosLike",
}  # fmt: skip
DETECTIONS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


def graph_in(path):
    """The GraphDef of a ``.pb``: the whole file, or the one graph of a SavedModel."""
    data = Path(path).read_bytes()
    if data[:1] != b"\x08":
        stored = v1.GraphDef()
        stored.ParseFromString(data)
        return stored
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(data)
    (meta,) = saved.meta_graphs
    return meta.graph_def


def check(stored, wanted, entry=None):
    """Raise unless all that the wanted nodes are made of only computes."""
    nodes = {node.name: node for node in stored.node}
    seen, left = {entry}, list(wanted)
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in nodes:
            raise ValueError(f"the graph has no node {name!r}")
        if nodes[name].op not in COMPUTING:
            raise ValueError(f"node {name!r} is a {nodes[name].op}, which is not run from a file")
        left += [other.lstrip("^").split(":")[0] for other in nodes[name].input]


def _feed(made, node, array):
    tensor = made.get_tensor_by_name(node + ":0")
    return {tensor: array.astype(tensor.dtype.as_numpy_dtype)}


def run(job, arrays, session):
    """Nodes ``probes``, heads ``loc`` and ``conf``, ``scores`` and ``anchors`` (where named) for ``input`` (N, 3, H, W) at node ``entry``.

    4-D values come as NCHW, heads as (N, P, columns). Where the graph has the Object Detection API's outputs, rows (class from 1, score,
    xmin, ymin, xmax, ymax) of image i as ``<i>/detections``.
    """
    stored = graph_in(job["path"])
    names = {node.name for node in stored.node}
    heads = {k: job[k] for k in ("loc", "conf", "scores", "anchors") if job.get(k)}
    finals = [name for name in DETECTIONS if set(DETECTIONS) <= names]
    wanted = {*job["probes"], *heads.values(), *finals}
    check(stored, wanted)
    pixels = arrays["input"].transpose(0, 2, 3, 1)
    with v1.Graph().as_default() as made, v1.Session(config=session) as running:
        v1.import_graph_def(stored, name="")
        feed = _feed(made, job["entry"], pixels)
        if job["image"] != job["entry"]:
            feed |= _feed(made, job["image"], np.zeros_like(pixels))
        values = running.run({name: made.get_tensor_by_name(name + ":0") for name in wanted}, feed)
    out = {}
    for name in job["probes"]:
        value = values[name]
        out["layers/" + name] = np.ascontiguousarray(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else value
    for kind, name in heads.items():
        value = values[name]
        out[kind] = value.reshape(-1, 4) if kind == "anchors" else value.reshape(len(pixels), -1, value.shape[-1])
    if finals:
        boxes, scores, classes, count = (values[name] for name in DETECTIONS)
        for index, kept in enumerate(count.astype(int)):
            box = boxes[index, :kept][:, [1, 0, 3, 2]]
            rows = np.concatenate([classes[index, :kept, None], scores[index, :kept, None], box], 1)
            out[f"{index}/detections"] = rows.astype(np.float32)
    return {"detections": bool(finals)}, out


def prepared(job, arrays, session):
    """RGB uint8 arrays (H, W, 3) as the graph itself hands them to its network: (3, h, w) at node ``entry``."""
    stored = graph_in(job["path"])
    check(stored, [job["entry"]])
    out = {}
    with v1.Graph().as_default() as made, v1.Session(config=session) as running:
        v1.import_graph_def(stored, name="")
        for name, image in arrays.items():
            turned = image[..., ::-1] if job["order"] == "BGR" else image
            (value,) = running.run(
                made.get_tensor_by_name(job["entry"] + ":0"), _feed(made, job["image"], turned[None])
            )
            out[name] = np.ascontiguousarray(value.transpose(2, 0, 1))
    return {}, out
