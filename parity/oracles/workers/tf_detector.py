"""Frozen graphs run as they are: any detection graph from prepared pixels to its own detections, and SSD.TensorFlow's layers. For ``tf_worker``.

Of SSD.TensorFlow's graphs nothing is taken but the weights' names:
what to read is found by following the graph from them; padding, dilation, eps and the order of layers are the graph's.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
BETWEEN = ("Identity", "Reshape", "ExpandDims", "Cast", "BatchToSpaceND")
COMPUTING = {
    "Add", "AddV2", "All", "Any", "ArgMax", "Assert", "AvgPool", "BatchToSpaceND", "BiasAdd", "BroadcastTo", "Cast",
    "Ceil", "CombinedNonMaxSuppression", "ConcatV2", "Const", "Conv2D", "DepthwiseConv2dNative", "Div", "Elu",
    "Enter", "Equal", "Exit", "Exp", "ExpandDims", "Fill", "Floor", "FloorDiv", "FloorMod", "FusedBatchNorm",
    "FusedBatchNormV2", "FusedBatchNormV3", "Gather", "GatherV2", "Greater", "GreaterEqual", "Identity",
    "LeakyRelu", "Less", "LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "LoopCond", "Max", "MaxPool",
    "Maximum", "Mean", "Merge", "Min", "Minimum", "Mul", "Neg", "NextIteration", "NoOp", "NonMaxSuppression",
    "NonMaxSuppressionV2", "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5", "NotEqual",
    "OnesLike", "Pack", "Pad", "PadV2", "Placeholder", "PlaceholderWithDefault", "Pow", "PreventGradient", "Prod",
    "Range", "Rank", "RealDiv", "Relu", "Relu6", "Reshape", "ResizeBilinear", "ResizeNearestNeighbor", "Round",
    "Rsqrt", "Select", "SelectV2", "Selu", "Shape", "Sigmoid", "Size", "Slice", "Softmax", "Softplus", "Softsign",
    "SpaceToBatchND", "Split", "SplitV", "Sqrt", "Square", "Squeeze", "StopGradient", "StridedSlice", "Sub", "Sum",
    "Switch", "Tanh", "TensorArrayGatherV3", "TensorArrayReadV3", "TensorArrayScatterV3", "TensorArraySizeV3",
    "TensorArrayV3", "TensorArrayWriteV3", "Tile", "TopKV2", "Transpose", "Unpack", "Where", "ZerosLike",
}  # fmt: skip
"""Operations that do nothing but compute; a graph with others is not run (there are some that read and write files)."""
DETECTIONS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


class Graph:
    """The nodes of a GraphDef by name, and who takes their outputs."""

    def __init__(self, stored):
        self.nodes = {node.name: node for node in stored.node}
        self.takers = {}
        for node in stored.node:
            for name in self.inputs(node):
                self.takers.setdefault(name, []).append(node.name)

    def inputs(self, node):
        """Names of the nodes whose outputs a node takes."""
        return [name.split(":")[0] for name in node.input if not name.startswith("^")]

    def after(self, name, ops, through=BETWEEN):
        """The only node of ``ops`` that takes an output, directly or through nodes that regroup; None for none."""
        found = set()
        for taker in self.takers.get(name, ()):
            op = self.nodes[taker].op
            if op in ops:
                found.add(taker)
            elif op in through:
                found.add(self.after(taker, ops, through))
        found.discard(None)
        if len(found) > 1:
            raise ValueError(f"several nodes of {ops} take the output of {name!r}: {sorted(found)[:3]}")
        return found.pop() if found else None

    def layer(self, weight):
        """The node whose output is the layer's that holds a weight: behind its bias, and its ReLU where one follows."""
        if weight not in self.nodes:
            raise ValueError(f"the graph has no node {weight!r}")
        first = self.after(weight, ("Conv2D", "Mul"))
        if first is None:
            raise ValueError(f"no convolution or product of the graph takes {weight!r}")
        if self.nodes[first].op == "Mul":
            return first
        end = self.after(first, ("BiasAdd", "Add", "AddV2")) or first
        return self.after(end, ("Relu",), ()) or end

    def entry(self, weight):
        """The node whose output enters the first convolution, before any padding."""
        (name, *_) = self.inputs(self.nodes[self.after(weight, ("Conv2D",))])
        while self.nodes[name].op in ("Pad", "PadV2", "SpaceToBatchND"):
            name = self.inputs(self.nodes[name])[0]
        return name

    def joined(self, heads):
        """The graph's own concatenation of these heads in their order, and of nothing else; None where it has none."""
        for node in self.nodes.values():
            if node.op == "ConcatV2":
                parts = self.inputs(node)[:-1]
                if [self._source(part) for part in parts] == heads:
                    return node.name
        return None

    def _source(self, name):
        while self.nodes[name].op in ("Reshape", "Transpose", "Identity"):
            name = self.inputs(self.nodes[name])[0]
        return name

    def check(self, wanted, entry=None):
        """Raise unless everything that the wanted nodes are made of, from ``entry`` on, only computes."""
        seen, left = {entry}, list(wanted)
        while left:
            name = left.pop()
            if name in seen:
                continue
            seen.add(name)
            if name not in self.nodes:
                raise ValueError(f"the graph has no node {name!r}")
            node = self.nodes[name]
            if node.op not in COMPUTING:
                raise ValueError(f"node {name!r} is a {node.op}, which is not run from a file")
            left += [other.lstrip("^").split(":")[0] for other in node.input]


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
    Graph(stored).check(wanted)
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
    Graph(stored).check([job["entry"]])
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
