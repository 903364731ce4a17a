"""Keras 2.15 as an oracle of its weight files: whole models (``keras_whole``), and the projects' networks built from what is known of them.

jedol/SSD-Keras_Tensorflow and pierluigiferrari/ssd_keras need Keras 2.0 and TensorFlow 1, which run on no Python of today. Everything inside is
NHWC; ``width`` below the published one gives every layer that share of its channels.
"""

import math
import os

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="")

import keras_whole
import numpy as np
import tensorflow as tf
from serving import boxed, emptied, filled, serve
from tensorflow.keras import Model, layers

tf.config.threading.set_intra_op_parallelism_threads(2)
tf.config.threading.set_inter_op_parallelism_threads(1)

CELLS = {6: (4, 6, 6, 6, 4, 4), 7: (4, 6, 6, 6, 6, 4, 4)}
SIZES = {
    "300_voc": (30, 60, 111, 162, 213, 264, 315),
    "300_coco": (21, 45, 99, 153, 207, 261, 315),
    "512_voc": (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6),
    "512_coco": (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
}
STEPS = (8, 16, 32, 64, 128, 256, 512)


class L2Scale(layers.Layer):
    """``scale * x / |x|`` over channels; the weight is called as the project calls it."""

    def __init__(self, weight="scale", **options):
        super().__init__(**options)
        self.weight_name = weight

    def build(self, shape):
        self.scale = self.add_weight(name=self.weight_name, shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return tf.math.l2_normalize(x, axis=3, epsilon=1e-12) * self.scale

    def get_config(self):
        return {**super().get_config(), "weight": self.weight_name}


def _conv(x, name, out, kernel, **options):
    return layers.Conv2D(out, kernel, padding=options.pop("padding", "same"), name=name, **options)(x)


def _heads(sources, cells, classes, name, word, grids_used, padding="same"):
    """Raw heads concatenated: loc (N, P, 4), conf (N, P, classes)."""
    locs, confs = [], []
    for (label, x), count in zip(sources, cells, strict=True):
        conf = _conv(x, name.format(label, word), count * classes, 3, padding=padding)
        loc = _conv(x, name.format(label, "loc" if word != "classes" else "boxes"), count * 4, 3, padding=padding)
        confs.append(layers.Reshape((-1, classes))(conf))
        grids_used.append((loc.shape[1], loc.shape[2]))
        locs.append(layers.Reshape((-1, 4))(loc))
    return layers.Concatenate(1, name="all_loc")(locs), layers.Concatenate(1, name="all_conf")(confs)


def vgg(size, width, classes, jedol, prefix="", told=None):
    """jedol's SSD300 with ``jedol``, else ssd_keras' SSD300 or SSD512; ``told``: see ``build``."""
    told = told or {}
    image = x = layers.Input((*told.get("size", (size, size)), 3), name=prefix + "input_1")
    relu = {"activation": "relu"}
    grids, sources = [], []
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        for index in range(1, count + 1):
            x = _conv(x, f"conv{block}_{index}", width * min(2 ** (block - 1), 8), 3, **relu)
        if block == 4:
            tap = L2Scale("scale" if jedol else "conv4_3_norm_gamma", name="conv4_3_norm")(x)
            sources.append(("conv4_3_norm", tap))
        x = layers.MaxPooling2D(*((3, 1) if block == 5 else (2, 2)), padding="same", name=f"pool{block}")(x)
    x = _conv(x, "fc6", width * 16, 3, dilation_rate=6, **relu)
    x = _conv(x, "fc7", width * 16, 1, **relu)
    sources.append(("fc7", x))
    plan = [(6, 4, 8, 2), (7, 2, 4, 2), (8, 2, 4, 1), (9, 2, 4, 1)]
    if size == 512:
        plan = [(6, 4, 8, 2), (7, 2, 4, 2), (8, 2, 4, 2), (9, 2, 4, 2), (10, 2, 4, 1)]
    for stage, narrow, wide, stride in plan:
        x = _conv(x, f"conv{stage}_1", narrow * width, 1, **relu)
        kernel, padding = (4 if stage == 10 else 3), "same" if stride == 2 else "valid"
        if not jedol and (stride == 2 or stage == 10) and told.get("extras") != "same":
            x, padding = layers.ZeroPadding2D(1, name=f"conv{stage}_padding")(x), "valid"
        x = _conv(x, f"conv{stage}_2", wide * width, kernel, strides=stride, padding=padding, **relu)
        sources.append((f"conv{stage}_2", x))
    loc, conf = _heads(sources, CELLS[len(sources)], classes, "{}_mbox_{}", "logit" if jedol else "conf", grids)
    return Model(image, [conf, loc] if jedol else [loc, conf]), grids  # jedol's own order, which numbers the layers


def _block(x, stage, index, inner, out, stride, dilation):
    name = f"{stage}{'abcdef'[index]}_branch"
    shortcut = x
    parts = (("2a", inner, 1, {"strides": stride}), ("2b", inner, 3, {"dilation_rate": dilation}), ("2c", out, 1, {}))
    for branch, channels, kernel, options in parts:
        x = _conv(x, f"res{name}{branch}", channels, kernel, use_bias=False, **options)
        x = layers.BatchNormalization(epsilon=1e-3, name=f"bn{name}{branch}")(x)
        if branch != "2c":
            x = layers.Activation("relu")(x)
    if not index:
        shortcut = _conv(shortcut, f"res{name}1", out, 1, strides=stride, use_bias=False)
        shortcut = layers.BatchNormalization(epsilon=1e-3, name=f"bn{name}1")(shortcut)
    return layers.Activation("relu", name=f"res{stage}{'abcdef'[index]}")(layers.Add()([x, shortcut]))


def resnet(width, classes):
    """jedol's SSD300 on ResNet50."""
    image = x = layers.Input((300, 300, 3))
    x = layers.ZeroPadding2D(3)(x)
    x = _conv(x, "conv1", width, 7, strides=2, padding="valid")
    x = layers.Activation("relu")(layers.BatchNormalization(epsilon=1e-3, name="bn_conv1")(x))
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    sources, grids = [], []
    for stage, count, inner, out, stride in ((2, 3, 1, 4, 1), (3, 4, 2, 8, 2), (4, 6, 4, 16, 2), (5, 3, 8, 32, 1)):
        for index in range(count):
            dilation = 2 if stage == 5 and index else 1
            x = _block(x, stage, index, inner * width, out * width, stride if not index else 1, dilation)
        if stage in (3, 5):
            sources.append((f"res{stage}{'abcdef'[count - 1]}", x))
    for stage in (6, 7, 8):
        x = _block(x, stage, 0, 2 * width, 8 * width, 2, 1)
        sources.append((f"res{stage}a", x))
    sources.append(("pool8", layers.AveragePooling2D(3, 1, padding="valid", name="pool8")(x)))
    loc, conf = _heads(sources, CELLS[6], classes, "{}_mbox_{}", "logit", grids)
    return Model(image, [conf, loc]), grids


def ssd7(width, classes, told=None):
    """ssd_keras' SSD7 at the size of its notebook; ``told``: see ``build``."""
    told = told or {}
    image = x = layers.Input((*told.get("size", (300, 480)), 3))
    sources, grids = [], []
    for index, channels in enumerate((32, 48, 64, 64, 48, 48, 32), 1):
        x = _conv(x, f"conv{index}", channels * width // 32, 5 if index == 1 else 3)
        x = layers.BatchNormalization(axis=3, momentum=0.99, name=f"bn{index}")(x)
        x = layers.ELU(name=f"elu{index}")(x)
        if index >= 4:
            sources.append((str(index), x))
        if index < 7:
            x = layers.MaxPooling2D(2, name=f"pool{index}")(x)
    loc, conf = _heads(sources, (4,) * 4, classes, "{1}{0}", "classes", grids, told.get("heads", "same"))
    return Model(image, [loc, conf]), grids


def network(name, width, classes, told=None):
    """(model giving raw loc and conf, grids of its heads).

    ``told``: what the user said about the file: ``size`` (height, width), ``heads`` and ``extras`` (padding), and for ``detect`` the
    ``maps`` of priors with ``cells`` in the project's order, ``step``, ``offset`` and ``clip``, ``variances`` and ``rule``.
    """
    if name == "ssd7":
        return ssd7(width, classes, told)
    if "resnet50" in name:
        return resnet(width, classes)
    return vgg(512 if "ssd512" in name else 300, width, classes, name.startswith("jedol"), told=told)


def told_priors(told, grids):
    """As ``priors``, from what the user said."""
    rows, (height, width) = [], told["size"]
    for (down, across), entry in zip(grids, told["maps"], strict=True):
        for y in range(down):
            for x in range(across):
                cx, cy = (x + entry["offset"]) * entry["step"][1], (y + entry["offset"]) * entry["step"][0]
                for w, h in entry["cells"]:
                    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                    if entry["clip"]:  # sides beyond the image go to its last pixel, sides before it to 0
                        box = [
                            0 if v < 0 else (e - 1 if v >= e else v)
                            for v, e in zip(box, (width, height) * 2, strict=True)
                        ]
                    corner = np.array(box) / np.array([width, height] * 2)
                    rows.append([*(corner[:2] + corner[2:]) / 2, *(corner[2:] - corner[:2])])
    return np.array(rows, np.float32), np.float32(told["variances"])


def priors(name, grids):
    """(P, 4) cx, cy, w, h as fractions of the image, in the project's order within a cell; and the variances."""
    jedol, seven = name.startswith("jedol"), name == "ssd7"
    size = 512 if "ssd512" in name else 300
    sizes = SIZES[f"{size}_{'coco' if name.endswith('coco') else 'voc'}"]
    rows = []
    for index, (height, width) in enumerate(grids):
        if seven:
            scales = (0.08, 0.16, 0.32, 0.64, 0.96)
            side, middle = 300 * scales[index], 300 * math.sqrt(scales[index] * scales[index + 1])
            ratios = (0.5, 1.0, 0.0, 2.0)
            steps, extent = (300 / height, 480 / width), (480.0, 300.0)
        else:
            side, middle = sizes[index], math.sqrt(sizes[index] * sizes[index + 1])
            long = 0 < index < len(grids) - 2
            ratios = (1.0, 0.0, 2.0, 0.5) if not long else (1.0, 0.0, 2.0, 0.5, 3.0, 1 / 3)
            if jedol and long:
                ratios = (1.0, 0.0, 2.0, 3.0, 0.5, 1 / 3)
            step = (8, 16, 32, 64, 100, 300)[index] if size == 300 else STEPS[index]
            steps, extent = (step, step), (float(size), float(size))
        cells = [(middle, middle) if not r else (side * math.sqrt(r), side / math.sqrt(r)) for r in ratios]
        for y in range(height):
            for x in range(width):
                for w, h in cells:
                    centre = ((x + 0.5) * steps[1] / extent[0], (y + 0.5) * steps[0] / extent[1])
                    rows.append((*centre, w / extent[0], h / extent[1]))
    return np.array(rows, np.float32), np.float32([1, 1, 1, 1] if seven else [0.1, 0.1, 0.2, 0.2])


def detect(name, grids, loc, conf, told=None):
    """One image's detections (label, score, x0, y0, x1, y1 as fractions): 400 per class after NMS, then the best 200."""
    anchors, variances = told_priors(told, grids) if told else priors(name, grids)
    threshold, overlap, most, keep = (told or {}).get("rule", (0.01, 0.45, 400, 200))
    boxes = boxed(anchors, loc, variances).astype(np.float32)
    usable = np.ones(len(boxes), bool)
    if name.startswith("jedol"):
        boxes = np.clip(boxes, 0, 1)
        usable = (boxes[:, 2:] > boxes[:, :2]).all(1)
    scores = tf.nn.softmax(conf).numpy()
    found = []
    for label in range(1, conf.shape[1]):
        index = np.flatnonzero(usable & (scores[:, label] > threshold))
        kept = tf.image.non_max_suppression(boxes[index][:, [1, 0, 3, 2]], scores[index, label], most, overlap).numpy()
        found += [(label, scores[i, label], *boxes[i]) for i in index[kept]]
    found.sort(key=lambda row: -row[1])
    return np.array(found[:keep], np.float32).reshape(-1, 6)


def loaded(job):
    """The network with the weights of ``path``, each of which must come from there."""
    model, grids = network(job["network"], job["width"], job["classes"], job.get("told"))
    emptied(model)
    path = job["path"]
    if path.endswith((".keras", ".weights.h5")):
        model.load_weights(path)
    else:
        model.load_weights(path, by_name=True)
    filled(model)
    return model, grids


def activations(job, arrays):
    """Every named layer's output for ``input`` (N, 3, H, W), NCHW, raw heads, and detections ``<i>/detections``."""
    model, grids = loaded(job)
    kinds = (tf.keras.layers.InputLayer, tf.keras.layers.Reshape, tf.keras.layers.ZeroPadding2D)
    wanted = {la.name: la.output for la in model.layers if not isinstance(la, kinds)}
    shown = tf.keras.Model(model.input, wanted)
    out = {n: a.numpy() for n, a in shown(arrays["input"].transpose(0, 2, 3, 1), training=False).items()}
    heads = out.pop("all_loc"), out.pop("all_conf")
    out = {"layers/" + n: np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for n, a in out.items()}
    out["loc"], out["conf"] = heads
    for index, (loc, conf) in enumerate(zip(*heads, strict=True)):
        out[f"{index}/detections"] = detect(job["network"], grids, loc, conf, job.get("told"))
    return {"grids": grids}, out


def whole(job, arrays):
    """A model that describes itself: see ``keras_whole.run``."""
    return keras_whole.run(job, arrays)


JOBS = (activations, whole)

if __name__ == "__main__":
    serve(*JOBS)
