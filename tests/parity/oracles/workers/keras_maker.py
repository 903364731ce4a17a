"""What tests want of Keras 2.15 besides ``keras_worker``'s jobs: files that it wrote, what it loads, and its pixels."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4] / "parity" / "oracles" / "workers"))

import numpy as np
from keras_worker import JOBS, loaded, network, tf  # which sets how TensorFlow runs before it loads it
from serving import serve


def _random(layer, variable, rng, first):
    """Values that keep activations in range, by the kind of the weight."""
    kind, shape = variable.name.rsplit("/", 1)[-1].split(":")[0], variable.shape.as_list()
    if kind.endswith(("scale", "conv4_3_norm_gamma")):
        return rng.uniform(4, 16, shape)
    if kind == "moving_variance":
        return rng.uniform(0.5, 1.5, shape)
    if kind == "gamma":
        return rng.uniform(0.6, 1.1, shape) * (0.5 if layer.name.endswith("branch2c") else 1.0)
    if kind != "kernel":
        return rng.normal(0, 0.05, shape)
    loc = layer.name.endswith("_loc") or layer.name.startswith("boxes")
    gain = np.sqrt((1.0 if loc or "mbox" in layer.name else 2.0) / np.prod(shape[:3])) * (0.3 if loc else 1.0)
    return rng.normal(0, gain, shape) / (first if layer.name in ("conv1", "conv1_1") else 1.0)


def build(job, arrays):
    """A network with random weights, saved in each of ``flavours`` (below); answers paths, and values as ``<layer>/<k>``.

    weights: save_weights h5. model: the whole model as h5, after a training step. v3: .weights.h5. keras: .keras.
    """
    rng, folder, out, paths = np.random.default_rng(job.get("seed", 0)), Path(job["folder"]), {}, {}
    model, _ = network(job["network"], job["width"], job["classes"])
    for layer in model.layers:
        values = [_random(layer, v, rng, job.get("first", 85.0)).astype("f4") for v in layer.weights]
        layer.set_weights(values)
        out.update({f"{layer.name}/{k}": value for k, value in enumerate(values)})
    stem = job["network"]
    for flavour in job["flavours"]:
        if flavour == "model":  # last: it has optimizer slots, made by a step of size 0
            for layer in model.layers:
                layer.trainable = not isinstance(layer, tf.keras.layers.BatchNormalization)
            model.compile(tf.keras.optimizers.legacy.SGD(0.0, momentum=0.9), loss="mse")
            height, width = model.input_shape[1:3]
            shapes = [(1, *o.shape[1:]) for o in model.outputs]
            model.train_on_batch(np.zeros((1, height, width, 3)), [np.zeros(s) for s in shapes])
        path = folder / (
            stem + {"weights": ".h5", "model": "_model.h5", "v3": ".weights.h5", "keras": ".keras"}[flavour]
        )
        if flavour == "weights":
            model.save_weights(str(path), save_format="h5")
        elif flavour == "v3":
            model.save_weights(str(path))
        else:
            model.save(str(path))
        paths[flavour] = str(path)
    return {"paths": paths}, out


def read(job, arrays):
    """All weights of the network after Keras loaded ``path``, as ``<layer>/<k>``."""
    model, _ = loaded(job)
    return {}, {f"{layer.name}/{k}": value for layer in model.layers for k, value in enumerate(layer.get_weights())}


def pixels(job, arrays):
    """Resized RGB uint8 arrays (H, W, 3) as the projects treat them: ``<name>/imagenet``, ``<name>/ssd_keras``, ``<name>/ssd7``."""
    out = {}
    for name, image in arrays.items():
        x = image.astype(np.float32)
        out[name + "/imagenet"] = tf.keras.applications.imagenet_utils.preprocess_input(x.copy(), mode="caffe")
        mean = tf.constant([123, 117, 104], tf.float32)
        centred = tf.keras.layers.Lambda(lambda t, mean=mean: t - mean)(x[None])
        out[name + "/ssd_keras"] = tf.keras.layers.Lambda(lambda t: tf.stack([t[..., k] for k in (2, 1, 0)], -1))(
            centred
        )[0].numpy()
        out[name + "/ssd7"] = ((tf.constant(x) - 127.5) / 127.5).numpy()
    return {}, out


if __name__ == "__main__":
    serve(*JOBS, build, read, pixels)
