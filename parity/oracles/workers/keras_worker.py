"""Keras 2.15 as an oracle of its weight files; answers requests by files.

Called with one folder; ``request.json`` there is ``{"jobs": [...]}``, each job one dict with ``do`` (a function below) and its
arguments; ``request.npz`` holds arrays named ``<job index>/<name>``. Answers go to ``response.json``, a list under ``jobs``,
and ``response.npz`` under the same kind of names.
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="")

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))
import keras_nets
import keras_whole

tf.config.threading.set_intra_op_parallelism_threads(2)
tf.config.threading.set_inter_op_parallelism_threads(1)


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
    model, _ = keras_nets.build(job["network"], job["width"], job["classes"])
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


def _loaded(job):
    """The network with the weights of ``path``, each of which must come from there."""
    model, grids = keras_nets.build(job["network"], job["width"], job["classes"], job.get("told"))
    for layer in model.layers:
        layer.set_weights([np.full(v.shape, np.nan, np.float32) for v in layer.weights])
    path = job["path"]
    if path.endswith((".keras", ".weights.h5")):
        model.load_weights(path)
    else:
        model.load_weights(path, by_name=True)
    missing = [layer.name for layer in model.layers for value in layer.get_weights() if np.isnan(value).all()]
    if missing:
        raise SystemExit(f"not in the file: {missing[:5]}")
    return model, grids


def read(job, arrays):
    """All weights of the network after Keras loaded ``path``, as ``<layer>/<k>``."""
    model, _ = _loaded(job)
    return {}, {f"{layer.name}/{k}": value for layer in model.layers for k, value in enumerate(layer.get_weights())}


def activations(job, arrays):
    """Every named layer's output for ``input`` (N, 3, H, W), NCHW, raw heads, and detections ``<i>/detections``."""
    model, grids = _loaded(job)
    kinds = (tf.keras.layers.InputLayer, tf.keras.layers.Reshape, tf.keras.layers.ZeroPadding2D)
    wanted = {la.name: la.output for la in model.layers if not isinstance(la, kinds)}
    shown = tf.keras.Model(model.input, wanted)
    out = {n: a.numpy() for n, a in shown(arrays["input"].transpose(0, 2, 3, 1), training=False).items()}
    heads = out.pop("all_loc"), out.pop("all_conf")
    out = {"layers/" + n: np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for n, a in out.items()}
    out["loc"], out["conf"] = heads
    for index, (loc, conf) in enumerate(zip(*heads, strict=True)):
        out[f"{index}/detections"] = keras_nets.detect(job["network"], grids, loc, conf, job.get("told"))
    return {"grids": grids}, out


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


DO = {"pixels": pixels, "build": build, "read": read, "activations": activations, "whole": keras_whole.run}


def main(folder):
    folder = Path(folder)
    jobs = json.loads((folder / "request.json").read_text())["jobs"]
    with np.load(str(folder / "request.npz")) as stored:
        given = {key: stored[key] for key in stored.files}
    answers, arrays = [], {}
    for index, job in enumerate(jobs):
        head = f"{index}/"
        mine = {key[len(head) :]: value for key, value in given.items() if key.startswith(head)}
        answer, out = DO[job["do"]](job, mine)
        answers.append(answer)
        arrays.update({head + key: value for key, value in out.items()})
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__}
    (folder / "response.json").write_text(json.dumps({"jobs": answers, "versions": versions}))
    np.savez(str(folder / "response.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
