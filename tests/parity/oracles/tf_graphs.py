"""Run by TensorFlow 2.15: frozen graphs of small SSDs, built of plain operations as the Object Detection API's exporter lays them out.

Called with a JSON file ``{"folder": ..., "nets": {name: {"lite": bool, "scores": "sigmoid" | "softmax", "folded": bool, "classes": n}}}``.
``lite`` has depthwise heads, ``folded`` anchors that are constants, else computed from the maps' shapes. Pixels are scaled before the
resize with ``early``. Each net is written as ``<name>.pb``, and as a SavedModel's ``<name>_saved/saved_model.pb``.
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
v1.disable_v2_behavior()
SIZE = 64


def constant(rng, name, shape, gain=1.0, offset=0.0):
    return tf.constant((offset + gain * rng.normal(size=shape)).astype("f4"), name=name)


def unit(rng, x, name, out, stride=1, depth=False, kernel=3, padding="SAME", act=True):
    inner = x.shape[-1]
    with v1.name_scope(name):
        if depth:
            w = constant(rng, "depthwise_weights", (kernel, kernel, inner, 1), 0.4)
            x = v1.nn.depthwise_conv2d_native(x, w, [1, stride, stride, 1], padding, name="depthwise")
        else:
            w = constant(rng, "weights", (kernel, kernel, inner, out), np.sqrt(2 / (kernel * kernel * int(inner))))
            x = v1.nn.conv2d(x, w, [1, stride, stride, 1], padding, name="Conv2D")
        c = x.shape[-1]
        gamma, beta = constant(rng, "gamma", (c,), 0.1, 1.0), constant(rng, "beta", (c,), 0.1)
        mean = constant(rng, "moving_mean", (c,), 0.1)
        var = tf.constant(rng.uniform(0.5, 1.5, (c,)).astype("f4"), name="moving_variance")
        x, _, _ = v1.nn.fused_batch_norm(
            x, gamma, beta, mean, var, epsilon=1e-3, is_training=False, name="FusedBatchNorm"
        )
        return tf.nn.relu6(x, name="Relu6") if act else x


def head(rng, x, name, out, lite):
    if lite:
        x = unit(rng, x, name + "_depthwise", 0, depth=True)
    with v1.name_scope(name):
        w = constant(rng, "weights", (1 if lite else 3,) * 2 + (x.shape[-1], out), 0.15)
        return tf.nn.bias_add(
            v1.nn.conv2d(x, w, [1, 1, 1, 1], "SAME"), constant(rng, "biases", (out,), 0.3), name="BiasAdd"
        )


def grid(count, rows, columns, scales, ratios):
    """Anchors (rows * columns * n, 4) as y1, x1, y2, x2, from scalar tensors ``rows`` and ``columns``."""
    rows, columns = tf.cast(rows, tf.float32), tf.cast(columns, tf.float32)
    h, w = scales / tf.sqrt(ratios), scales * tf.sqrt(ratios)
    cy = tf.range(rows) * (1.0 / rows) + 0.5 / rows
    cx = tf.range(columns) * (1.0 / columns) + 0.5 / columns
    cx, cy = tf.meshgrid(cx, cy)
    cx, cy = tf.expand_dims(tf.reshape(cx, [-1]), 1), tf.expand_dims(tf.reshape(cy, [-1]), 1)
    corners = tf.stack([cy - 0.5 * h, cx - 0.5 * w, cy + 0.5 * h, cx + 0.5 * w], 2)
    return tf.reshape(corners, [-1, 4])


def network(rng, lite, scores, folded, classes, early):
    image = v1.placeholder(tf.uint8, (None, None, None, 3), name="image_tensor")
    x = tf.cast(image, tf.float32)
    if early:
        x = 2.0 / 255.0 * x - 1.0
    x = v1.map_fn(lambda one: v1.image.resize_images(one, (SIZE, SIZE)), x, name="Preprocessor/map")
    if not early:
        x = tf.subtract(tf.multiply(0.007843137718737125, x, name="Preprocessor/mul"), 1.0, name="Preprocessor/sub")
    x = unit(rng, x, "Conv", 8, stride=2)
    x = unit(rng, x, "a_depthwise", 0, depth=True)
    y = unit(rng, x, "a_project", 8, kernel=1, act=False)
    x = tf.add(y, unit(rng, x, "a_side", 8, kernel=1, act=False), name="add_a")
    x = tf.concat([x, v1.nn.max_pool(x, [1, 3, 3, 1], [1, 1, 1, 1], "SAME")], 3, name="mixed")
    first = unit(rng, x, "b", 12, stride=2)
    second = unit(rng, unit(rng, first, "c_1x1", 6, kernel=1), "c", 16, stride=2)
    locs, confs, anchors = [], [], []
    tables = (([0.1, 0.2, 0.2], [1.0, 2.0, 0.5]), ([0.35, 0.35, 0.35, 0.418], [1.0, 2.0, 0.3333, 1.0]))
    for k, (feature, (scale, ratio)) in enumerate(zip((first, second), tables, strict=True)):
        n, batch = len(scale), tf.shape(feature)[0]
        loc = head(rng, feature, f"BoxPredictor_{k}/BoxEncodingPredictor", 4 * n, lite)
        conf = head(rng, feature, f"BoxPredictor_{k}/ClassPredictor", (classes + 1) * n, lite)
        locs.append(tf.reshape(loc, tf.stack([batch, -1, 1, 4])))
        confs.append(tf.reshape(conf, tf.stack([batch, -1, classes + 1])))
        sides = feature.shape[1:3].as_list() if folded else tf.unstack(tf.shape(feature)[1:3])
        anchors.append(grid(n, *sides, np.float32(scale), np.float32(ratio)))
    loc, conf = tf.squeeze(tf.concat(locs, 1), [2]), tf.concat(confs, 1)
    table = tf.concat(anchors, 0, name="anchors")
    y1, x1, y2, x2 = tf.unstack(tf.transpose(tf.reshape(tf.tile(table[None], [tf.shape(loc)[0], 1, 1]), [-1, 4])))
    h, w = y2 - y1, x2 - x1
    ty, tx, th, tw = tf.unstack(tf.transpose(tf.reshape(loc, [-1, 4])))
    cy, cx = ty / 10.0 * h + (y1 + h / 2.0), tx / 10.0 * w + (x1 + w / 2.0)
    h, w = tf.exp(th / 5.0) * h, tf.exp(tw / 5.0) * w
    boxes = tf.transpose(tf.stack([cy - h / 2.0, cx - w / 2.0, cy + h / 2.0, cx + w / 2.0]))
    boxes = tf.reshape(boxes, tf.stack([tf.shape(loc)[0], tf.shape(loc)[1], 4]))
    probable = (tf.sigmoid if scores == "sigmoid" else tf.nn.softmax)(conf, name="convert_scores")[:, :, 1:]

    def one(values):
        box, score = values
        found = []
        for k in range(classes):
            mine = score[:, k]
            kept = tf.image.non_max_suppression(box, mine, tf.minimum(20, tf.shape(box)[0]), 0.6, 0.01)
            found.append((tf.gather(box, kept), tf.gather(mine, kept), tf.zeros_like(tf.gather(mine, kept)) + k))
        box, score, label = (tf.concat(part, 0) for part in zip(*found, strict=True))
        score, order = tf.nn.top_k(score, tf.shape(score)[0])
        box, label = tf.clip_by_value(tf.gather(box, order), 0.0, 1.0), tf.gather(label, order)
        full = tf.cast(tf.reshape(v1.where((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) > 0), [-1]), tf.int32)
        box, score, label = (tf.gather(part, full) for part in (box, score, label))
        most = tf.minimum(30, tf.shape(score)[0])
        pad = 30 - most
        return (
            tf.pad(box[:most], [[0, pad], [0, 0]]),
            tf.pad(score[:most], [[0, pad]]),
            tf.pad(label[:most], [[0, pad]]),
            most,
        )

    kinds = (tf.float32, tf.float32, tf.float32, tf.int32)
    box, score, label, count = v1.map_fn(one, (boxes, probable), dtype=kinds)
    tf.identity(box, "detection_boxes")
    tf.identity(score, "detection_scores")
    tf.add(label, 1.0, name="detection_classes")
    tf.cast(count, tf.float32, name="num_detections")


def main(path):
    job = json.loads(Path(path).read_text())
    v1.disable_control_flow_v2()
    for name, options in job["nets"].items():
        with v1.Graph().as_default() as graph:
            network(np.random.default_rng(len(name)), **options)
            data = graph.as_graph_def()
        outputs = ["detection_boxes", "detection_scores", "detection_classes", "num_detections"]
        data = v1.graph_util.extract_sub_graph(data, outputs)
        (Path(job["folder"]) / f"{name}.pb").write_bytes(data.SerializeToString())
        from tensorflow.core.protobuf import saved_model_pb2

        saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
        saved.meta_graphs.add().graph_def.CopyFrom(data)
        folder = Path(job["folder"]) / f"{name}_saved"
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(saved.SerializeToString())


if __name__ == "__main__":
    main(sys.argv[1])
