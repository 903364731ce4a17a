"""The own code of pierluigiferrari/ssd_keras on Keras 2.2.4 and TensorFlow 1.15 (``originals``); Python 3.7.

A job names the checkout and the weight file, and gives the arguments that the project's builders need. The model takes RGB pixels of 0..255 and
prepares them itself, so the job's prepared pixels are turned back.
"""

import importlib
import inspect
import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import keras
import numpy as np
import tensorflow as tf
from serving import emptied, filled, serve

tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)

MODULES = {
    "ssd300": ("keras_ssd300", "ssd_300"),
    "ssd512": ("keras_ssd512", "ssd_512"),
    "ssd7": ("keras_ssd7", "build_model"),
}
HEADS = {"ssd7": ("classes_concat", "boxes_concat", "anchors_concat")}


def _builder(kind):
    """The project's builder, and where the numpy decoder is, in the folders of the checkout's age."""
    module, function = MODULES[kind]
    for name in ("models." + module, module):
        try:
            return getattr(importlib.import_module(name), function)
        except ImportError as error:
            if name.split(".")[0] not in str(error):
                raise
    raise SystemExit("the checkout has no " + module)


def build(job):
    """The model with the file's weights; its class count is tried with and without the background."""
    function = _builder(job["kind"])
    known = inspect.signature(function).parameters
    given = dict(job["arguments"], mode="inference")
    if not job["swap_list"] or "clip_boxes" not in known:
        given["swap_channels"] = bool(given["swap_channels"])
    given = {key: value for key, value in given.items() if key in known}
    conf = HEADS.get(job["kind"], ("mbox_conf",))[0]
    for count in (job["classes"] - 1, job["classes"]):
        keras.backend.clear_session()
        made = function(n_classes=count, **given)
        model = made[0] if isinstance(made, tuple) else made
        if model.get_layer(conf).output_shape[-1] == job["classes"]:
            return model, "mode" in known
    raise SystemExit("the builder makes no network of {} classes".format(job["classes"]))


def raw_pixels(job, pixels):
    """Prepared (N, 3, H, W) back to RGB 0..255 (N, H, W, 3)."""
    mean, std = (np.array(job[key], np.float64)[None, :, None, None] for key in ("mean", "std"))
    raw = pixels * std + mean
    whole = np.rint(raw)
    raw = whole if np.abs(raw - whole).max() < 1e-2 else raw
    raw = raw[:, ::-1] if job["order"] == "BGR" else raw
    return np.ascontiguousarray(raw.transpose(0, 2, 3, 1)).astype(np.float32)


def decoded(job, model, inference, values):
    """(n, 6) label, score, corners as fractions, per image: by the model's own last layer, or the numpy decoder where there is none."""
    height, width = model.input_shape[1:3]
    if inference:
        found = [rows[rows[:, 1] > 0] for rows in values[-1]]
    else:
        from ssd_box_encode_decode_utils import decode_y

        found = decode_y(
            values[-1], confidence_thresh=0.01, iou_threshold=0.45, top_k=200, input_coords="centroids",
            normalize_coords=False, img_height=height, img_width=width,
        )  # fmt: skip
    extent = np.array([width, height] * 2, np.float32)
    return [
        np.concatenate([np.asarray(r).reshape(-1, 6)[:, :2], np.asarray(r).reshape(-1, 6)[:, 2:] / extent], 1)
        for r in found
    ]


def activations(job, arrays):
    """Layers of ``layers`` for ``input`` (N, 3, H, W) as ``modules/<name>``, ``loc``, ``conf``, ``boxes`` and ``variances`` of the anchors, detections."""
    sys.path.insert(0, job["checkout"])
    threads = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=1)
    keras.backend.set_session(tf.compat.v1.Session(config=threads))
    model, inference = build(job)
    emptied(model).load_weights(job["h5"], by_name=True)
    filled(model)
    names = HEADS.get(job["kind"], ("mbox_conf", "mbox_loc", "mbox_priorbox"))
    layers = [layer.name for layer in model.layers if layer.name in job["layers"]]
    shown = keras.models.Model(
        model.input, [model.get_layer(name).output for name in [*layers, *names]] + [model.output]
    )
    values = shown.predict(raw_pixels(job, arrays["input"]), batch_size=1)
    out = {"modules/" + n: np.ascontiguousarray(v.transpose(0, 3, 1, 2)) for n, v in zip(layers, values[: len(layers)])}  # noqa: B905 Python 3.7
    conf, loc, anchors = values[len(layers) : len(layers) + 3]
    out.update(conf=conf, loc=loc)
    boxes, variances = anchors[0, :, :4].astype(np.float64), anchors[0, :, 4:]
    if boxes[:, :2].max() > 4:
        height, width = model.input_shape[1:3]
        boxes = boxes / np.array([width, height, width, height])
    out["boxes"], out["variances"] = boxes, variances
    for image, rows in enumerate(decoded(job, model, inference, values)):
        out[f"{image}/detections"] = rows.astype(np.float32)
    return {}, out


if __name__ == "__main__":
    serve(activations)
