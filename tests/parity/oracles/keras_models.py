"""Run by Keras 2.15 (on TensorFlow) or Keras 3 (``KERAS_BACKEND`` set): save and load weights of two of the projects' networks.

Called with a JSON file, a list of ``{"do": "save" | "load", "network": ..., "width": ..., "classes": ..., "path": ..., "out": npz}``.
The networks end as the projects' do: class scores through a softmax, joined with the boxes. Weights go to ``out`` as ``<layer>/<k>``.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

if "KERAS_BACKEND" in os.environ:
    import keras
else:
    from tensorflow import keras
layers = keras.layers


class L2Normalization(layers.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(name="gamma", shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.gamma


def vgg300(width, classes):
    def conv(x, name, out, kernel, **options):
        return layers.Conv2D(out, kernel, padding="same", name=name, **options)(x)

    image = x = layers.Input((300, 300, 3))
    sources = []
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        for index in range(1, count + 1):
            x = conv(x, f"conv{block}_{index}", width * min(2 ** (block - 1), 8), 3)
        if block == 4:
            sources.append(("conv4_3_norm", L2Normalization(name="conv4_3_norm")(x)))
        x = layers.MaxPooling2D(3 if block == 5 else 2, 1 if block == 5 else 2, padding="same")(x)
    x = conv(x, "fc6", width * 16, 3, dilation_rate=6)
    x = conv(x, "fc7", width * 16, 1)
    sources.append(("fc7", x))
    for stage, narrow, wide, stride in ((6, 4, 8, 2), (7, 2, 4, 2), (8, 2, 4, 1), (9, 2, 4, 1)):
        x = conv(x, f"conv{stage}_1", narrow * width, 1)
        x = conv(x, f"conv{stage}_2", wide * width, 3, strides=stride)
        sources.append((f"conv{stage}_2", x))
    confs, locs = [], []
    for (name, x), cells in zip(sources, (4, 6, 6, 6, 4, 4), strict=True):
        confs.append((f"{name}_mbox_conf", x, cells * classes))
        locs.append((f"{name}_mbox_loc", x, cells * 4))
    return image, confs, locs


def ssd7(width, classes):
    image = x = layers.Input((300, 480, 3))
    confs, locs = [], []
    for index, channels in enumerate((32, 48, 64, 64, 48, 48, 32), 1):
        x = layers.Conv2D(channels * width // 32, 5 if index == 1 else 3, padding="same", name=f"conv{index}")(x)
        x = layers.ELU()(layers.BatchNormalization(name=f"bn{index}")(x))
        if index >= 4:
            confs.append((f"classes{index}", x, 4 * classes))
            locs.append((f"boxes{index}", x, 16))
        if index < 7:
            x = layers.MaxPooling2D(2)(x)
    return image, confs, locs


def model_of(network, width, classes):
    image, confs, locs = (ssd7 if network == "ssd7" else vgg300)(width, classes)
    joined = []
    for heads, values in ((confs, classes), (locs, 4)):
        convs = [layers.Conv2D(out, 3, padding="same", name=name)(x) for name, x, out in heads]
        joined.append(layers.Concatenate(1)([layers.Reshape((-1, values))(x) for x in convs]))
    scores = layers.Activation("softmax")(joined[0])
    return keras.Model(image, layers.Concatenate(2)([scores, joined[1]]))


def main(job):
    model = model_of(job["network"], job["width"], job["classes"])
    if job["do"] == "save":
        rng = np.random.default_rng(3)
        for layer in model.layers:
            layer.set_weights([rng.normal(size=w.shape).astype("f4") for w in layer.get_weights()])
        model.save_weights(job["path"])
    else:
        for layer in model.layers:
            layer.set_weights([np.full(w.shape, np.nan, "f4") for w in layer.get_weights()])
        model.load_weights(job["path"], **({} if job["path"].endswith(".weights.h5") else {"by_name": True}))
    np.savez(job["out"], **{f"{la.name}/{k}": w for la in model.layers for k, w in enumerate(la.get_weights())})


for job in json.loads(Path(sys.argv[1]).read_text()):
    main(job)
