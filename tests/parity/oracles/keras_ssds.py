"""Run by Keras 2.15: SSD-shaped models of its own parts, saved whole as .h5 and .keras.

Called with a folder of workers (for the layers that Keras does not have) and a folder to write to. Backbones: MobileNet and ResNet50
of ``keras.applications``, MobileNetV2 as a model within the model, a plain one whose channels were pruned to odd counts, and one with
every layer that has a place in the reference and stands in none of the others.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

sys.path.insert(0, sys.argv[1])
import keras_whole

layers, keras = tf.keras.layers, tf.keras
STATED = ("img_height", "img_width", "this_scale", "next_scale", "aspect_ratios", "variances", "two_boxes_for_ar1", "clip_boxes", "coords", "normalize_coords")  # fmt: skip


class AnchorBoxes(keras_whole.AnchorBoxes):
    def __init__(self, **options):
        self.told = {name: options[name] for name in STATED if name in options}
        super().__init__(**options)

    def get_config(self):
        return {**super().get_config(), **self.told}


class L2Normalization(keras_whole.L2Normalization):
    def get_config(self):
        return {"name": self.name, "trainable": True, "gamma_init": 20}


class DecodeDetections(keras_whole.DecodeDetections):
    def __init__(self, **options):
        self.told = {k: v for k, v in options.items() if k not in ("name", "trainable", "dtype")}
        super().__init__(**options)

    def get_config(self):
        return {**super().get_config(), **self.told}


def ssd(image, sources, classes, size, decode):
    """Heads, anchors and the end of ssd_keras on maps."""
    confs, locs, priors = [], [], []
    ratios = [1.0, 2.0, 0.5]
    for index, x in enumerate(sources):
        conf = layers.Conv2D(4 * classes, 3, padding="same", name=f"conf_{index}")(x)
        loc = layers.Conv2D(16, 3, padding="same", name=f"loc_{index}")(x)
        scale = 0.15 + 0.3 * index
        boxes = AnchorBoxes(
            img_height=size[0], img_width=size[1], this_scale=scale, next_scale=scale + 0.3, aspect_ratios=ratios,
            variances=[0.1, 0.1, 0.2, 0.2], normalize_coords=True, name=f"anchors_{index}",
        )(loc)  # fmt: skip
        confs.append(layers.Reshape((-1, classes))(conf))
        locs.append(layers.Reshape((-1, 4))(loc))
        priors.append(layers.Reshape((-1, 8))(boxes))
    scores = layers.Softmax()(layers.Concatenate(1)(confs))
    end = layers.Concatenate(2)([scores, layers.Concatenate(1)(locs), layers.Concatenate(1)(priors)])
    if decode:
        options = {"confidence_thresh": 0.2, "iou_threshold": 0.4, "top_k": 50, "nms_max_output_size": 30}
        end = DecodeDetections(**options, img_height=size[0], img_width=size[1], name="decoded")(end)
    return keras.Model(image, end)


def pixels(image):
    return layers.Rescaling(1 / 127.5, offset=-1.0)(image)


def mobilenet():
    image = layers.Input((128, 160, 3))
    net = keras.applications.MobileNet(input_tensor=pixels(image), alpha=0.25, include_top=False, weights=None)
    taps = [net.get_layer(n).output for n in ("conv_pw_11_relu", "conv_pw_13_relu")]
    return ssd(image, taps, 4, (128, 160), True)


def resnet50():
    image = layers.Input((96, 96, 3))
    net = keras.applications.ResNet50(input_tensor=pixels(image), include_top=False, weights=None)
    taps = [net.get_layer(n).output for n in ("conv3_block4_out", "conv4_block6_out")]
    return ssd(image, [L2Normalization(name="norm")(taps[0]), taps[1]], 3, (96, 96), False)


def nested():
    image = layers.Input((96, 128, 3))
    net = keras.applications.MobileNetV2(input_shape=(96, 128, 3), alpha=0.35, include_top=False, weights=None)
    inner = keras.Model(
        net.input, [net.get_layer(n).output for n in ("block_13_expand_relu", "out_relu")], name="inner"
    )
    return ssd(image, inner(pixels(image)), 5, (96, 128), False)


def pruned():
    image = x = layers.Input((65, 97, 3))
    taps = []
    for index, channels in enumerate((5, 11, 7, 13, 3)):
        x = layers.Conv2D(channels, 3, strides=2 if index > 1 else 1, padding="same", use_bias=False)(x)
        x = layers.LeakyReLU(0.1)(layers.BatchNormalization(epsilon=1e-4, scale=index != 1, center=index != 2)(x))
        x = layers.MaxPooling2D(3, 2, padding="same")(x) if index < 2 else x
        taps.append(x)
    return ssd(image, taps[2:], 2, (65, 97), True)


def every():
    image = layers.Input((81, 90, 3))
    x = layers.SeparableConv2D(8, 3, strides=2, padding="same", depth_multiplier=2, activation="relu6")(image)
    x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(12, 3, dilation_rate=2, groups=2, activation="tanh")(x))
    x = layers.AveragePooling2D(3, 2, padding="same")(layers.ZeroPadding2D(((1, 0), (2, 1)))(x))
    gate = layers.Dense(12)(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Activation("hard_sigmoid")(layers.Reshape((1, 1, 12))(gate))])
    shared = layers.Conv2D(12, 3, padding="same", name="shared")
    a, b = shared(x), shared(layers.Cropping2D(1)(layers.ZeroPadding2D(1)(x)))
    x = layers.Average()([a, layers.Maximum()([a, b]), layers.Subtract()([a, b])])
    up = layers.UpSampling2D(2)(layers.Conv2D(6, 3, strides=2, padding="valid", activation="swish")(x))
    up = layers.ReLU(max_value=5.0, negative_slope=0.1, threshold=0.2)(
        layers.Permute((2, 1, 3))(layers.Permute((2, 1, 3))(up))
    )
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(layers.Dropout(0.5)(x))
    return ssd(image, [up, layers.ELU(0.7)(y)], 3, (81, 90), False)


def main(target):
    rng = np.random.default_rng(5)
    for make in (mobilenet, resnet50, nested, pruned, every):
        model = make()
        todo = list(model.layers)
        while todo:
            layer = todo.pop()
            if isinstance(layer, keras.Model):
                todo += layer.layers
                continue
            values = []
            for weight in layer.weights:
                shape, kind = weight.shape.as_list(), weight.name.rsplit("/", 1)[-1].split(":")[0]
                fan = np.prod(shape[:3]) if "kernel" in kind and "depthwise" not in kind else np.prod(shape[:2])
                value = (
                    rng.normal(0, np.sqrt(1.5 / max(fan, 1)), shape) if "kernel" in kind else rng.normal(0, 0.1, shape)
                )
                values.append(value + (1.0 if kind in ("gamma", "moving_variance") else 0.0))
            layer.set_weights([np.abs(v) if "var" in w.name else v for v, w in zip(values, layer.weights, strict=True)])
        model.save(str(Path(target) / f"{make.__name__}.h5"))
        model.save(str(Path(target) / f"{make.__name__}.keras"))


main(sys.argv[2])
