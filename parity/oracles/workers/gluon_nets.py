"""Build GluonCV networks with random weights that keep every activation finite. Runs on Python 3.8 with MXNet 1.9.1."""

import gluoncv
import mxnet as mx
import numpy as np
from gluoncv.data import VOCDetection
from gluoncv.model_zoo.ssd.ssd import get_ssd

STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_var")


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


def randomise(net, seed, size, batch=2):
    """Give every tensor of an SSD or backbone random values by ``seed``.

    He-scaled convolutions, heads brought to a given spread, gammas in 0.5..1.5, small biases. Statistics come from one training pass
    on random pictures of ``size`` pixels (the moving average of MXNet starts from 0 and takes a tenth of the batch's) and
    are then shaken a little; the gammas that MXNet counts as 1 get other values, which must not matter.
    """
    mx.random.seed(seed)
    rng = np.random.RandomState(seed)
    net.initialize(mx.init.Zero(), force_reinit=True)
    pictures = mx.nd.array(_pictures(rng, batch, size))
    net(pictures[:1])
    params = net.collect_params()
    for name, param in params.items():
        if isinstance(param, mx.gluon.Constant):
            continue
        param.set_data(mx.nd.array(_values(name, param.shape, rng).astype("float32")))
    if any(name.endswith(STATISTICS) for name in params):
        _calibrate(net, pictures)
        for name, param in params.items():
            if name.endswith(("running_mean", "moving_mean")):
                values = param.data().asnumpy() * 10
                param.set_data(mx.nd.array(values + rng.normal(0, 0.05, values.shape)))
            elif name.endswith(("running_var", "moving_var")):
                values = np.maximum(param.data().asnumpy() * 10, 0.05)
                param.set_data(mx.nd.array(values * rng.uniform(0.8, 1.25, values.shape)))
            elif name.endswith("gamma") and _fixed(name):
                param.set_data(mx.nd.array(rng.uniform(0.5, 1.5, param.shape)))
    if hasattr(net, "class_predictors"):
        _scale_heads(net, pictures)


def _pictures(rng, batch, size):
    """Noise and smooth fields by turns, over the range of normalised pixels: (batch, 3, size, size) float32."""
    noise = rng.uniform(-2.1, 2.6, (batch, 3, size, size))
    tile = -(-size // 4)
    for item in range(1, batch, 2):
        noise[item] = np.kron(rng.uniform(-2.1, 2.6, (3, 4, 4)), np.ones((tile, tile)))[:, :size, :size]
    return noise.astype("float32")


def _scale_heads(net, pictures):
    """Bring every head's outputs to a spread of 1.5 (classes) and 1 (boxes): scores of all sizes, boxes of sane sizes."""
    for feature, classes, boxes in zip(net.features(pictures), net.class_predictors, net.box_predictors):  # noqa: B905
        for head, spread in ((classes, 1.5), (boxes, 1.0)):
            weight, bias = head.predictor.weight, head.predictor.bias.data().reshape((1, -1, 1, 1))
            values = mx.nd.broadcast_sub(head(feature), bias).asnumpy()
            weight.set_data(weight.data() * float(spread / max(values.std(), 1e-6)))


def _values(name, shape, rng):
    if name.endswith("weight"):
        fan_in = int(np.prod(shape[1:]))
        scale = np.sqrt(2.0 / fan_in)
        return rng.normal(0, scale, shape)
    if name.endswith("gamma"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("normalize_scale"):
        return rng.uniform(10, 20, shape)
    if name.endswith(("_mean", "_var")):
        return np.zeros(shape)
    return rng.normal(0, 0.05, shape)


def _fixed(name):
    """Gammas that MXNet counts as 1: the expander's, and the first BatchNorm of ResNet v2."""
    return "expand_" in name or ("resnetv2" in name and "stage" not in name and name.endswith("batchnorm0_gamma"))


def _calibrate(net, pictures):
    """One training pass; MXNet updates moving statistics in backward."""
    with mx.autograd.record():
        outputs = net(pictures)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        total = sum((out * 0).sum() for out in outputs[:2])
    total.backward()
    mx.nd.waitall()


def save(net, folder, stem, dialects):
    """Write the network's weights in the wanted dialects; returns dialect -> path."""
    paths = {}
    for dialect in dialects:
        path = f"{folder}/{stem}.{dialect}.params"
        if dialect == "structural":
            net.save_parameters(path)
        elif dialect == "legacy":
            net.collect_params().save(path)
        elif dialect == "stripped":
            net.collect_params().save(path, strip_prefix=net.prefix)
        elif dialect == "export":
            net.hybridize()
            net(mx.nd.zeros((1, 3, 300, 300)))
            net.export(f"{folder}/{stem}", epoch=0)
            net.hybridize(active=False)
            path = f"{folder}/{stem}-0000.params"
        else:
            raise ValueError(f"no dialect {dialect!r}")
        paths[dialect] = path
    return paths
