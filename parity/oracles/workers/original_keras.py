"""The own code of pierluigiferrari/ssd_keras on Keras 2.2.4 and TensorFlow 1.15: answers one request by files. See ``originals``.

Called with one folder; ``request.json`` names the checkout and the weight file, and gives the arguments that the project's builders need.
Python 3.7. The model takes RGB pixels of 0..255 and prepares them itself, so the prepared pixels of the request are turned back.
"""

import importlib
import inspect
import json
import os
import sys
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import numpy as np

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


def build(request):
    """The model with the file's weights; its class count is tried with and without the background."""
    function = _builder(request["kind"])
    known = inspect.signature(function).parameters
    given = dict(request["arguments"], mode="inference")
    if not request["swap_list"] or "clip_boxes" not in known:
        given["swap_channels"] = bool(given["swap_channels"])
    given = {key: value for key, value in given.items() if key in known}
    conf = HEADS.get(request["kind"], ("mbox_conf",))[0]
    for count in (request["classes"] - 1, request["classes"]):
        keras.backend.clear_session()
        made = function(n_classes=count, **given)
        model = made[0] if isinstance(made, tuple) else made
        if model.get_layer(conf).output_shape[-1] == request["classes"]:
            return model, "mode" in known
    raise SystemExit("the builder makes no network of {} classes".format(request["classes"]))


def load(model, path):
    """Load by names; every weight must come from the file."""
    for layer in model.layers:
        layer.set_weights([np.full(value.shape, np.nan, np.float32) for value in layer.get_weights()])
    model.load_weights(path, by_name=True)
    missing = [layer.name for layer in model.layers for value in layer.get_weights() if np.isnan(value).all()]
    if missing:
        raise SystemExit(f"not in the file: {missing[:5]}")


def raw_pixels(request, pixels):
    """Prepared (N, 3, H, W) back to RGB 0..255 (N, H, W, 3)."""
    mean, std = (np.array(request[key], np.float64)[None, :, None, None] for key in ("mean", "std"))
    raw = pixels * std + mean
    whole = np.rint(raw)
    raw = whole if np.abs(raw - whole).max() < 1e-2 else raw
    raw = raw[:, ::-1] if request["order"] == "BGR" else raw
    return np.ascontiguousarray(raw.transpose(0, 2, 3, 1)).astype(np.float32)


def decoded(request, model, inference, values):
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


def main(folder):
    request = json.loads((folder / "request.json").read_text())
    with np.load(str(folder / "request.npz")) as stored:
        pixels = stored["input"]
    model, inference = build(request)
    load(model, request["h5"])
    names = HEADS.get(request["kind"], ("mbox_conf", "mbox_loc", "mbox_priorbox"))
    layers = [layer.name for layer in model.layers if layer.name in request["layers"]]
    shown = keras.models.Model(
        model.input, [model.get_layer(name).output for name in [*layers, *names]] + [model.output]
    )
    values = shown.predict(raw_pixels(request, pixels), batch_size=1)
    out = {"modules/" + n: np.ascontiguousarray(v.transpose(0, 3, 1, 2)) for n, v in zip(layers, values[: len(layers)])}  # noqa: B905 Python 3.7
    conf, loc, anchors = values[len(layers) : len(layers) + 3]
    out.update(conf=conf, loc=loc)
    boxes, variances = anchors[0, :, :4].astype(np.float64), anchors[0, :, 4:]
    if boxes[:, :2].max() > 4:
        height, width = model.input_shape[1:3]
        boxes = boxes / np.array([width, height, width, height])
    out["boxes"], out["variances"] = boxes, variances
    for image, rows in enumerate(decoded(request, model, inference, values)):
        out[f"{image}/detections"] = rows.astype(np.float32)
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    (folder / "response.json").write_text(json.dumps({"versions": versions}))
    np.savez(str(folder / "response.npz"), **out)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.path.insert(0, json.loads((folder / "request.json").read_text())["checkout"])
    import keras
    import tensorflow as tf

    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    configured = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=1)
    keras.backend.set_session(tf.compat.v1.Session(config=configured))
    main(folder)
