"""SSD.TensorFlow's SSD300 built with TensorFlow 1 operations from what is known of it; the original 2018 code needs TensorFlow 1.6.

Names, SAME padding, L2 normalisation, priors, box coding and detection rule are HiKapok/SSD.TensorFlow's. ``width`` below 64 gives
every layer that share of its channels. Everything is NHWC. Run by ``tf_worker.py``.
"""

import math

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
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


def build(width, classes, scope="ssd300"):
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
    anchors = priors()
    centres = anchors[:, :2] + loc[:, :2] * 0.1 * anchors[:, 2:]
    sizes = anchors[:, 2:] * np.exp(loc[:, 2:] * 0.2)
    boxes = np.clip(np.concatenate([centres - sizes / 2, centres + sizes / 2], 1), 0, 1).astype(np.float32)
    scores = tf.nn.softmax(conf).numpy()
    large = ((boxes[:, 2:] - boxes[:, :2]) > 0.03).all(1)
    found = []
    for label in range(1, conf.shape[1]):
        index = np.flatnonzero(large & (scores[:, label] > 0.01))
        index = index[np.argsort(-scores[index, label], kind="stable")[:400]]
        kept = tf.image.non_max_suppression(boxes[index], scores[index, label], 200, 0.45).numpy()
        found += [(label, scores[i, label], *boxes[i][[1, 0, 3, 2]]) for i in index[kept]]
    return np.array(found, np.float32).reshape(-1, 6)
