"""Run by MXNet 1.9.1: SSD symbols of its own operators in the manner of zhreshold/mxnet-ssd, and ones that GluonCV exports, with random weights.

Called with a folder to write to, a divisor of all channels, and names of networks. Writes ``NAME-symbol.json`` and ``NAME-0000.params``.
"""

# ruff: noqa: B905, RUF007 - zip(strict=) and pairwise are younger than Python 3.8

import sys
from pathlib import Path

import mxnet as mx
import numpy as np

S = mx.sym
FOLDER, DIVISOR = Path(sys.argv[1]), int(sys.argv[2])


def width(channels):
    return max(channels // DIVISOR, 4)


def conv(x, channels, name, kernel=3, stride=1, pad=1, act="relu", **more):
    x = S.Convolution(
        x,
        num_filter=width(channels),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pad=(pad, pad),
        name=name,
        **more,
    )
    return x if act is None else S.Activation(x, act_type=act, name=f"{name}_{act}")


def extras(x, filters, strides, pads):
    """``multi_feat_k``: 1x1, then 3x3."""
    found = []
    for k, (channels, stride, pad) in enumerate(zip(filters, strides, pads), 2):
        x = conv(x, max(128, channels // 2), f"multi_feat_{k}_conv_1x1_conv", 1, 1, 0)
        x = conv(x, channels, f"multi_feat_{k}_conv_3x3_conv", 3, stride, pad)
        found.append(x)
    return found


def detector(maps, sizes, ratios, steps, *, train=False, force=False, clip=False, classes=21):
    """Heads, MultiBoxPrior and MultiBoxDetection; as a training graph with MultiBoxTarget and SoftmaxOutput too."""
    locs, confs, priors = [], [], []
    for k, x in enumerate(maps):
        count = len(sizes[k]) + len(ratios[k]) - 1
        name = x.name
        for kind, list_, columns in (("loc", locs, 4), ("cls", confs, classes)):
            y = S.Convolution(x, num_filter=count * columns, kernel=(3, 3), pad=(1, 1), name=f"{name}_{kind}_pred_conv")
            list_.append(S.Flatten(S.transpose(y, axes=(0, 2, 3, 1))))
        told = {"steps": (steps[k], steps[k])} if steps else {}
        anchors = S.contrib.MultiBoxPrior(
            x, sizes=sizes[k], ratios=ratios[k], clip=clip, name=f"{name}_anchors", **told
        )
        priors.append(S.Flatten(anchors))
    loc = S.Concat(*locs, num_args=len(locs), dim=1, name="multibox_loc_pred")
    conf = S.Concat(*confs, num_args=len(confs), dim=1)
    conf = S.transpose(S.Reshape(conf, shape=(0, -1, classes)), axes=(0, 2, 1), name="multibox_cls_pred")
    anchors = S.Reshape(S.Concat(*priors, num_args=len(priors), dim=1), shape=(0, -1, 4), name="multibox_anchors")
    words = {"nms_threshold": 0.45, "force_suppress": force, "variances": (0.1, 0.1, 0.2, 0.2), "nms_topk": 400}
    if not train:
        prob = S.SoftmaxActivation(conf, mode="channel", name="cls_prob")
        return S.contrib.MultiBoxDetection(prob, loc, anchors, name="detection", **words)
    label = S.Variable("label")
    target = S.contrib.MultiBoxTarget(anchors, label, conf, overlap_threshold=0.5, negative_mining_ratio=3,
                                      negative_mining_thresh=0.5, variances=(0.1, 0.1, 0.2, 0.2), name="multibox_target")  # fmt: skip
    prob = S.SoftmaxOutput(
        conf,
        label=target[2],
        ignore_label=-1,
        use_ignore=True,
        multi_output=True,
        normalization="valid",
        name="cls_prob",
    )
    loss = S.MakeLoss(S.smooth_l1(target[1] * (loc - target[0]), scalar=1.0), name="loc_loss")
    found = S.contrib.MultiBoxDetection(prob, loc, anchors, name="detection", **words)
    return S.Group([prob, loss, S.MakeLoss(target[2], grad_scale=0), S.MakeLoss(found, grad_scale=0, name="det_out")])


LONG = (1, 2, 0.5, 3, 1.0 / 3)
SHORT = (1, 2, 0.5)


def vgg(size, **more):
    """VGG16 reduced: pool3 rounds up, pool5 keeps the size, fc6 dilated; relu4_3 through an L2 norm with a scale."""
    x = S.Variable("data")
    taps = []
    for block, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for k in range(1, count + 1):
            x = conv(x, channels, f"conv{block}_{k}")
        if block == 4:
            norm = S.L2Normalization(x, mode="channel", eps=1e-10, name="relu4_3_norm")
            scale = S.Variable("relu4_3_scale", shape=(1, width(512), 1, 1))
            taps.append(S.broadcast_mul(scale, norm, name="relu4_3_scaled"))
        if block < 5:
            rule = "full" if block == 3 else "valid"
            x = S.Pooling(
                x, kernel=(2, 2), stride=(2, 2), pool_type="max", pooling_convention=rule, name=f"pool{block}"
            )
        else:
            x = S.Pooling(x, kernel=(3, 3), stride=(1, 1), pad=(1, 1), pool_type="max", name="pool5")
    x = conv(x, 1024, "fc6", 3, 1, 6, dilate=(6, 6))
    x = conv(x, 1024, "fc7", 1, 1, 0)
    taps.append(x)
    taps += extras(x, (512, 256, 256, 256), (2, 2, 1, 1), (1, 1, 0, 0))
    scales = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
    sizes = [(a, (a * b) ** 0.5) for a, b in zip(scales, scales[1:])]
    ratios = (SHORT, LONG, LONG, LONG, SHORT, SHORT)
    return detector(taps, sizes, ratios, [s / 300.0 for s in (8, 16, 32, 64, 100, 300)], **more)


def normed(x, name, **words):
    return S.BatchNorm(x, name=name, **words)


def resnet(size, **more):
    """ResNet-50 with activations first; the taps are raw sums, the stride is in the 3x3, the shortcut starts at the activated input."""
    words = {"eps": 2e-5, "fix_gamma": False}
    x = S.BatchNorm(S.Variable("data"), eps=2e-5, fix_gamma=True, name="bn_data")
    x = S.Convolution(x, num_filter=width(64), kernel=(7, 7), stride=(2, 2), pad=(3, 3), no_bias=True, name="conv0")
    x = S.Activation(normed(x, "bn0", **words), act_type="relu", name="relu0")
    x = S.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name="pool0")
    taps = []
    for stage, (count, channels) in enumerate(zip((3, 4, 6, 3), (256, 512, 1024, 2048)), 1):
        for unit in range(1, count + 1):
            name, stride = f"stage{stage}_unit{unit}", 2 if unit == 1 and stage > 1 else 1
            first = S.Activation(normed(x, f"{name}_bn1", **words), act_type="relu", name=f"{name}_relu1")
            y = conv(first, channels // 4, f"{name}_conv1", 1, 1, 0, None, no_bias=True)
            y = S.Activation(normed(y, f"{name}_bn2", **words), act_type="relu", name=f"{name}_relu2")
            y = conv(y, channels // 4, f"{name}_conv2", 3, stride, 1, None, no_bias=True)
            y = S.Activation(normed(y, f"{name}_bn3", **words), act_type="relu", name=f"{name}_relu3")
            y = conv(y, channels, f"{name}_conv3", 1, 1, 0, None, no_bias=True)
            x = y + (x if unit > 1 else conv(first, channels, f"{name}_sc", 1, stride, 0, None, no_bias=True))
        if stage > 2:
            taps.append(x)
    taps += extras(x, (512, 256, 256, 128), (2, 2, 2, 2), (1, 1, 1, 1))
    scales = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
    sizes = [(a, (a * b) ** 0.5) for a, b in zip(scales, scales[1:])]
    return detector(taps, sizes, (SHORT, LONG, LONG, LONG, SHORT, SHORT), [], **more)


def mobilenet(size, **more):
    """MobileNet: BatchNorm with MXNet's own eps and gamma fixed; the last map is 1x1 twice at 512."""

    def block(x, channels, index, kernel, stride, pad, kind="", **words):
        name = f"conv_{index}{kind}"
        x = S.Convolution(x, num_filter=channels, kernel=(kernel, kernel), stride=(stride, stride), pad=(pad, pad), no_bias=True,
                          name=f"{name}_conv2d", **words)  # fmt: skip
        return S.Activation(
            S.BatchNorm(x, fix_gamma=True, name=f"{name}_batchnorm"), act_type="relu", name=f"{name}_relu"
        )

    x = block(S.Variable("data"), width(32), 1, 3, 2, 1)
    held, taps = width(32), []
    plan = (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (1024, 2),
        (1024, 1),
    )
    for k, (channels, stride) in enumerate(plan, 2):
        x = block(x, held, k, 3, stride, 1, "_dw", num_group=held)
        held = width(channels)
        x = block(x, held, k, 1, 1, 0)
        if k in (12, 14):
            taps.append(x)
    taps += extras(x, (512, 256, 256, 256, 256), (2,) * 5, (1,) * 5)
    scales = (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)
    sizes = [(a, (a * b) ** 0.5) for a, b in zip(scales, scales[1:])]
    return detector(taps, sizes, (SHORT, LONG, LONG, LONG, LONG, SHORT, SHORT), [], **more)


def inception_part(size, **more):
    """Branches of Inception-v3: average pooling that counts its padding, 1x7 and 7x1 kernels, joined channels; an input that is no square."""

    def unit(x, channels, kernel, pad, name, stride=(1, 1)):
        x = S.Convolution(
            x, num_filter=width(channels), kernel=kernel, stride=stride, pad=pad, no_bias=True, name=f"{name}_conv2d"
        )
        return S.Activation(
            S.BatchNorm(x, fix_gamma=True, name=f"{name}_batchnorm"), act_type="relu", name=f"{name}_relu"
        )

    x = unit(S.Variable("data"), 32, (3, 3), (0, 0), "conv", (2, 2))
    x = unit(x, 64, (3, 3), (1, 1), "conv_1")
    x = S.Pooling(x, kernel=(3, 3), stride=(2, 2), pool_type="max", name="pool")
    a = unit(x, 192, (1, 1), (0, 0), "mixed_a")
    b = unit(unit(x, 160, (1, 7), (0, 3), "mixed_b0"), 192, (7, 1), (3, 0), "mixed_b1")
    c = unit(
        S.Pooling(x, kernel=(3, 3), stride=(1, 1), pad=(1, 1), pool_type="avg", name="mixed_pool"),
        192,
        (1, 1),
        (0, 0),
        "mixed_c",
    )
    x = S.Concat(a, b, c, name="ch_concat_mixed_chconcat")
    first = S.Pooling(x, kernel=(3, 3), stride=(2, 2), pool_type="max", name="pool1")
    first = S.LeakyReLU(S.Dropout(first, p=0.5), act_type="leaky", slope=0.1, name="leaky")
    second = S.clip(conv(first, 128, "down", 3, 2, 1, None), a_min=0, a_max=6, name="capped")
    return detector([first, second], [(0.2, 0.3), (0.5, 0.6)], (LONG, SHORT), [], clip=True, **more)


def inception_v3(size, **more):
    """Inception-v3 by its paper's table (figures 5 to 7), BatchNorm with MXNet's own eps and gamma fixed, taps at 17x17's and 8x8's last join."""
    counter = iter(range(1000))

    def unit(x, channels, kernel=1, pad=0, stride=1):
        kernel, pad = ((v, v) if isinstance(v, int) else v for v in (kernel, pad))
        name = f"unit{next(counter)}"
        x = S.Convolution(
            x,
            num_filter=width(channels),
            kernel=kernel,
            stride=(stride, stride),
            pad=pad,
            no_bias=True,
            name=f"{name}_conv2d",
        )
        return S.Activation(
            S.BatchNorm(x, fix_gamma=True, name=f"{name}_batchnorm"), act_type="relu", name=f"{name}_relu"
        )

    def pool(x, kind, stride, pad):
        return S.Pooling(x, kernel=(3, 3), stride=(stride, stride), pad=(pad, pad), pool_type=kind)

    def seven(x, inner, rows_first, last=192):
        shapes = [((7, 1), (3, 0)), ((1, 7), (0, 3))]
        for step in (0, 1):
            kernel, pad = shapes[step if rows_first else 1 - step]
            x = unit(x, last if step else inner, kernel, pad)
        return x

    x = unit(S.Variable("data"), 32, 3, 0, 2)
    x = unit(unit(x, 32, 3), 64, 3, 1)
    x = unit(unit(pool(x, "max", 2, 0), 80), 192, 3)
    x = pool(x, "max", 2, 0)
    for last in (32, 64, 64):
        three = unit(unit(unit(x, 64), 96, 3, 1), 96, 3, 1)
        x = S.Concat(unit(x, 64), unit(unit(x, 48), 64, 5, 2), three, unit(pool(x, "avg", 1, 1), last))
    x = S.Concat(unit(x, 384, 3, 0, 2), unit(unit(unit(x, 64), 96, 3, 1), 96, 3, 0, 2), pool(x, "max", 2, 0))
    for k, inner in enumerate((128, 160, 160, 192), 4):
        twice = seven(seven(unit(x, inner), inner, True, inner), inner, True)
        x = S.Concat(
            unit(x, 192),
            seven(unit(x, inner), inner, False),
            twice,
            unit(pool(x, "avg", 1, 1), 192),
            name=f"ch_concat_mixed_{k}_chconcat",
        )
    taps = [x]
    x = S.Concat(
        unit(unit(x, 192), 320, 3, 0, 2), unit(seven(unit(x, 192), 192, False), 192, 3, 0, 2), pool(x, "max", 2, 0)
    )
    for k, kind in ((9, "avg"), (10, "max")):
        a, b = unit(x, 384), unit(unit(x, 448), 384, 3, 1)
        pair = [unit(y, 384, kernel, pad) for y in (a, b) for kernel, pad in (((1, 3), (0, 1)), ((3, 1), (1, 0)))]
        x = S.Concat(unit(x, 320), *pair, unit(pool(x, kind, 1, 1), 192), name=f"ch_concat_mixed_{k}_chconcat")
    taps.append(x)
    taps += extras(x, (512, 256, 256, 128), (2, 2, 2, 2), (1, 1, 1, 1))
    scales = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
    sizes = [(a, (a * b) ** 0.5) for a, b in zip(scales, scales[1:])]
    return detector(taps, sizes, (SHORT, LONG, LONG, LONG, SHORT, SHORT), [], **more)


def every(size, **more):
    """The operators that stand in none of the others."""
    x = conv(S.Variable("data") / 60 - 1 + 0.25, 64, "first", 3, 2, 1, None)
    x = S.LeakyReLU(x, gamma=S.Variable("slopes", shape=(width(64),)), act_type="prelu", name="prelu")
    x = S.LRN(x, nsize=5, alpha=1e-3, knorm=1.5, name="lrn")
    a, b = S.split(x, num_outputs=2, axis=1, name="halves")
    a = S.LeakyReLU(a, act_type="elu", slope=0.7, name="elu") * 0.5
    b = S.Activation(S.Activation(b, act_type="softrelu"), act_type="softsign") + S.hard_sigmoid(b)
    x = S.Concat(a - b, S.maximum(a, b), S.LeakyReLU(b, act_type="selu"), dim=1)
    x = S.Pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 3, 0), constant_value=0, name="padded")
    x = S.Pooling(x, kernel=(3, 2), stride=(2, 2), pad=(1, 0), pool_type="avg", name="average")
    gate = S.Flatten(S.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg"))
    gate = S.Activation(S.FullyConnected(gate, num_hidden=3 * width(64) // 2, name="dense"), act_type="sigmoid")
    x = S.broadcast_mul(x, S.Reshape(gate, shape=(0, -1, 1, 1)))
    x = S.broadcast_add(x, S.Variable("shift", shape=(1, 3 * width(64) // 2, 1, 1)))
    small = S.L2Normalization(conv(x, 64, "down", 3, 2, 1, "tanh"), mode="instance", name="norm_i")
    wide = S.Deconvolution(
        small, num_filter=width(64), kernel=(4, 4), stride=(2, 2), pad=(1, 1), name="up", no_bias=False
    )
    near = S.UpSampling(small, scale=2, sample_type="nearest", num_args=1, name="nearest")
    both = S.add_n(wide, near, name="sum")
    mean = S.mean(S.slice_axis(both, axis=1, begin=0, end=-1), axis=(2, 3), keepdims=True)
    both = S.broadcast_mul(S.slice_axis(both, axis=1, begin=1, end=None), mean)
    return detector([both, small], [(0.2, 0.3), (0.5, 0.6)], (SHORT, SHORT), [], **more)


NETWORKS = {
    "every": (lambda: every(0), (96, 96)),
    "vgg16_300": (lambda: vgg(300), (300, 300)),
    "vgg16_300_train": (lambda: vgg(300, train=True), (300, 300)),
    "resnet50_512": (lambda: resnet(512), (512, 512)),
    "mobilenet_512": (lambda: mobilenet(512, force=True), (512, 512)),
    "inception_v3_512": (lambda: inception_v3(512), (512, 512)),
    "inception_part": (lambda: inception_part(0), (200, 264)),
}


FIRST = ("conv1_1_weight", "conv0_weight", "conv_conv2d_weight", "unit0_conv2d_weight")


def values(name, shape, rng):
    if name.endswith(("moving_var", "running_var")):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("gamma"):
        return rng.uniform(0.5, 1.2, shape)
    if name.endswith("_scale"):
        return rng.uniform(15, 25, shape)
    if len(shape) == 1:
        return rng.normal(0, 0.1, shape)
    # Pixels of the plain networks are not divided by anything, and scores should not saturate.
    small = {"pred_conv_weight": 0.03, "conv3_weight": 0.3, **dict.fromkeys(FIRST, 0.02)}
    scale = next((factor for end, factor in small.items() if name.endswith(end)), 1.0)
    return scale * rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)


def write(name):
    """A network of this file, or of GluonCV: ``gluoncv:NAME[:CLASSES]``."""
    rng = np.random.default_rng(len(name))
    if name.startswith("gluoncv:"):
        _, network, *classes = name.split(":")
        gluoncv(network, classes, rng)
        return
    make, (height, w) = NETWORKS[name]
    symbol = make()
    given = {"data": (1, 3, height, w)}
    if "label" in symbol.list_arguments():
        given["label"] = (1, 4, 5)
    shapes, _, states = symbol.infer_shape(**given)
    held = {}
    for kind, names, sides in (
        ("arg", symbol.list_arguments(), shapes),
        ("aux", symbol.list_auxiliary_states(), states),
    ):
        for key, shape in zip(names, sides):
            if key not in given:
                held[f"{kind}:{key}"] = mx.nd.array(values(key, shape, rng).astype("float32"))
    symbol.save(str(FOLDER / f"{name}-symbol.json"))
    mx.nd.save(str(FOLDER / f"{name}-0000.params"), held)


def gluoncv(network, classes, rng):
    """What GluonCV exports: a preset, or ``custom`` by ``get_ssd`` with sizes, steps, ratios and backbone of its own."""
    from gluoncv.model_zoo import get_model
    from gluoncv.model_zoo.ssd.ssd import get_ssd

    names = [f"thing{k}" for k in range(int(classes[0]))] if classes else None
    if network == "custom":
        net = get_ssd("mobilenet0.5", 320, ["relu22_fwd", "relu26_fwd"], [256, 128], [40, 90, 150, 220, 300], [[1, 2, 0.5], [1, 2, 0.5, 3],
                      [1, 2], [1, 0.5]], [16, 32, 64, 107], names or ["a", "b"], "custom", pretrained=False, pretrained_base=False)  # fmt: skip
        size = 320
    else:
        more = {"classes": names, "pretrained_base": False} if names else {"pretrained_base": False}
        net = get_model("_".join([*network.split("_")[:-1], "custom"]) if names else network, pretrained=False, **more)
        size = int(network.split("_")[1])
    net.initialize()
    net.hybridize()
    net(mx.nd.zeros((1, 3, size, size)))
    for key, one in net.collect_params().items():
        if "anchor" not in key and "init_scale" not in key:
            one.set_data(mx.nd.array(values(key, one.shape, rng).astype("float32")))
    net(mx.nd.zeros((1, 3, size, size)))
    net.export(str(FOLDER / f"gluoncv_{network}"))


for wanted in sys.argv[3:]:
    mx.name.NameManager._current.value = mx.name.NameManager()
    write(wanted)
