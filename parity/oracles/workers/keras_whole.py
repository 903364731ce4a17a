"""A whole Keras model run by Keras 2.15 from the file's own ``model_config``; used by ``keras_worker.py``.

Keras itself makes every layer of its own. What Keras does not have is written here from the definition of ssd_keras' layers: AnchorBoxes,
L2Normalization, DecodeDetections, DecodeDetectionsFast, and the decoders for models without them. Lambdas are replaced by what their name
and closure say (or by what the user said); byte code of strangers is never run. Nothing here knows what the converter made of the file.
"""

import json
import zipfile

import h5py
import numpy as np
import tensorflow as tf
from serving import emptied, filled

layers = tf.keras.layers
PRUNED = ("PruneLowMagnitude",)
EXTRA = ("mask", "threshold", "pruning_step")


class L2Normalization(layers.Layer):
    """x / |x| over channels, times a learned factor per channel."""

    def __init__(self, gamma_init=20, **options):
        super().__init__(**options)

    def build(self, shape):
        self.gamma = self.add_weight(name="gamma", shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return tf.math.l2_normalize(x, axis=3, epsilon=1e-12) * self.gamma


class PixelSteps(layers.Layer):
    """What a Lambda does to pixels: a list of [word, numbers]."""

    def __init__(self, steps=(), **options):
        super().__init__(**options)
        self.steps = steps

    def call(self, x):
        for word, numbers in self.steps:
            if word == "subtract":
                x = x - tf.constant(numbers, tf.float32)
            elif word == "divide":
                x = x / tf.constant(numbers, tf.float32)
            elif word == "take":
                x = tf.gather(x, [int(n) for n in numbers], axis=-1)
        return tf.identity(x)


class AnchorBoxes(layers.Layer):
    """(batch, rows, columns, boxes, 8): four coordinates and four variances of every box.

    ``reading`` is {"steps": "file" | "integer" | "edges" | [h, w], "offsets": [h, w] or None}: what the file does not store.
    """

    def __init__(
        self,
        img_height,
        img_width,
        this_scale,
        next_scale,
        aspect_ratios,
        variances,
        two_boxes_for_ar1=True,
        clip_boxes=False,
        limit_boxes=False,
        coords="centroids",
        normalize_coords=False,
        reading=None,
        **options,
    ):
        super().__init__(**options)
        self.size = (img_height, img_width)
        self.scales, self.ratios, self.two = (this_scale, next_scale), aspect_ratios, two_boxes_for_ar1
        self.clip, self.variances = clip_boxes or limit_boxes, variances
        self.coords, self.normalize, self.reading = (
            coords,
            normalize_coords,
            reading or {"steps": "file", "offsets": None},
        )

    def centres(self, axis, count):
        """Centres along an axis (0: rows) in pixels."""
        image, steps, offsets = self.size[axis], self.reading["steps"], self.reading["offsets"]
        offset = 0.5 if offsets is None else offsets[axis]
        if steps == "edges" and offsets is None:
            half = image // count // 2
            return np.linspace(half, image - half, count)
        step = {"file": image / count, "integer": image // count, "edges": image // count}.get(str(steps))
        step = steps[axis] if step is None else step
        return np.linspace(offset * step, (offset + count - 1) * step, count)

    def call(self, x):
        rows, columns = x.shape[1], x.shape[2]
        short, (scale, larger) = min(self.size), self.scales
        sides = []
        for ratio in self.ratios:
            sides.append((scale * short * np.sqrt(ratio), scale * short / np.sqrt(ratio)))
            if ratio == 1 and self.two:
                sides.append((np.sqrt(scale * larger) * short,) * 2)
        boxes = np.zeros((rows, columns, len(sides), 4))
        cx, cy = self.centres(1, columns)[None, :, None], self.centres(0, rows)[:, None, None]
        width, height = np.array(sides).T
        boxes[..., 0], boxes[..., 2] = cx - width / 2.0, cx + width / 2.0
        boxes[..., 1], boxes[..., 3] = cy - height / 2.0, cy + height / 2.0
        for first, side in ((0, self.size[1]), (1, self.size[0])):
            part = boxes[..., first::2]
            if self.clip:
                part[part >= side] = side - 1
                part[part < 0] = 0
            if self.normalize:
                part /= side
        if self.coords == "minmax":
            boxes = boxes[..., [0, 2, 1, 3]]
        elif self.coords == "centroids":
            low, high = boxes[..., :2], boxes[..., 2:]
            boxes = np.concatenate([(low + high) / 2.0, high - low], -1)
        full = np.concatenate([boxes, np.broadcast_to(np.array(self.variances, float), boxes.shape)], -1)
        return tf.tile(tf.constant(full[None], tf.float32), [tf.shape(x)[0], 1, 1, 1, 1])


class _Decoder(layers.Layer):
    fast = False

    def __init__(
        self,
        confidence_thresh=0.01,
        iou_threshold=0.45,
        top_k=200,
        nms_max_output_size=400,
        coords="centroids",
        normalize_coords=True,
        img_height=None,
        img_width=None,
        **options,
    ):
        super().__init__(**options)
        self.limits = (confidence_thresh, iou_threshold, nms_max_output_size, top_k)
        self.coords, self.scale = coords, (img_width, img_height) if normalize_coords else (1, 1)

    def call(self, x):
        out = tf.numpy_function(lambda y: np.stack([self.one(row) for row in y]), [x], tf.float32)
        out.set_shape((None, self.limits[3], 6))
        return out

    def one(self, y):
        threshold, overlap, most, best = self.limits
        boxes = corners_of(y, self.coords).astype(np.float32) * np.float32([*self.scale, *self.scale])
        found = select(y[:, :-12], boxes, threshold, overlap, most, best, self.fast, False)
        return np.concatenate([found, np.zeros((best - len(found), 6), np.float32)])


class DecodeDetections(_Decoder):
    """Per class: threshold, NMS, at most so many; of all classes the best."""


class DecodeDetectionsFast(_Decoder):
    """The best class of each box alone; NMS over all classes together."""

    fast = True


CUSTOM = {c.__name__: c for c in (L2Normalization, PixelSteps, AnchorBoxes, DecodeDetections, DecodeDetectionsFast)}


def corners_of(y, coords):
    """Predictions (P, C + 12) as corner boxes (P, 4) in the anchors' unit."""
    code, anchor, variance = y[:, -12:-8], y[:, -8:-4], y[:, -4:]
    if coords == "centroids":
        centre = code[:, :2] * variance[:, :2] * anchor[:, 2:] + anchor[:, :2]
        size = np.exp(code[:, 2:] * variance[:, 2:]) * anchor[:, 2:]
        return np.concatenate([centre - 0.5 * size, centre + 0.5 * size], 1)
    if coords == "minmax":
        width, height = anchor[:, 1] - anchor[:, 0], anchor[:, 3] - anchor[:, 2]
        return (code * variance * np.stack([width, width, height, height], 1) + anchor)[:, [0, 2, 1, 3]]
    width, height = anchor[:, 2] - anchor[:, 0], anchor[:, 3] - anchor[:, 1]
    return code * variance * np.stack([width, height, width, height], 1) + anchor


def select(scores, boxes, threshold, overlap, most, best, fast, inclusive):
    """Rows (class, score, corners), best first: threshold, NMS (at most ``most``, None for all), the ``best`` (None for all)."""
    label = scores.argmax(1)
    rows = []
    for group in [None] if fast else range(1, scores.shape[1]):
        value = scores.max(1) if fast else scores[:, group]
        passed = value >= threshold if inclusive else value > threshold
        index = np.flatnonzero(passed & (label != 0) if fast else passed)
        if not index.size:
            continue
        room = len(index) if most is None else most
        kept = tf.image.non_max_suppression(boxes[index][:, [1, 0, 3, 2]], value[index], room, overlap).numpy()
        rows += [(label[i] if fast else group, value[i], *boxes[i]) for i in index[kept]]
    rows.sort(key=lambda row: -row[1])
    return np.array(rows[:best], np.float32).reshape(-1, 6)


def text_of(path):
    """The model's own text."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return archive.read("config.json").decode()
    with h5py.File(path, "r") as file:
        told = file.attrs["model_config"]
        return told.decode() if isinstance(told, bytes) else str(told)


def _numbers(value):
    if isinstance(value, dict):
        value = value.get("value", value.get("config"))
    return [float(v) for v in (value if isinstance(value, list) else [value])]


def _steps(config, told):
    """What a Lambda does: by what the user told, else by its name and closure."""
    name, function = config["name"], config["function"]
    if name in told:
        parts = [part.partition(":") for part in told[name].split("+")]
        words = {"reverse": ["take", [2, 1, 0]], "identity": ["identity", []]}
        return [words.get(word) or [word, [float(n) for n in rest.split(",")]] for word, _, rest in parts]
    closure = function[2] if isinstance(function, list) else function.get("config", {}).get("closure")
    words = {
        "input_mean_normalization": "subtract",
        "input_stddev_normalization": "divide",
        "input_channel_swap": "take",
    }
    if name in words and closure:
        return [[words[name], _numbers(closure[0])]]
    if name == "input_channel_swap":
        return [["take", [2, 1, 0]]]
    if name in ("identity_layer", "idendity_layer", "identity"):
        return []
    if name == "lambda1":
        return [["divide", [127.5]], ["subtract", [1.0]]]
    raise SystemExit(f"nothing says what the Lambda {name} does")


def model_of(job):
    """The model of ``path``, with its weights."""
    root = json.loads(text_of(job["path"]))
    order = {name: place for place, name in enumerate(job["anchors"])}

    def prepared(entries):
        for entry in entries:
            config = entry["config"]
            if entry["class_name"] in PRUNED:
                inner = config["layer"]
                entry.update(class_name=inner["class_name"], config={**inner["config"], "name": config["name"]})
                entry.pop("module", None)
                entry.pop("registered_name", None)
            elif entry["class_name"] == "Lambda":
                entry["config"] = {"name": config["name"], "steps": _steps(config, job["lambdas"])}
                entry["class_name"] = "PixelSteps"
            elif entry["class_name"].rsplit(">", 1)[-1] == "AnchorBoxes":
                entry["config"] = {**config, "reading": job["readings"][order[config["name"]]]}
            elif isinstance(config.get("layers"), list):
                prepared(config["layers"])
            if entry["class_name"] == "PixelSteps" or entry["class_name"].rsplit(">", 1)[-1] in CUSTOM:
                entry["class_name"] = entry["class_name"].rsplit(">", 1)[-1]
                entry.pop("registered_name", None)
                entry.pop("module", None)
                entry.pop("build_config", None)

    prepared(root["config"]["layers"])
    with tf.keras.utils.custom_object_scope(CUSTOM):
        model = tf.keras.models.model_from_json(json.dumps(root), custom_objects=CUSTOM)
    load(model, job["path"])
    return model


def load(model, path):
    """Fill every weight from the file; each must come from there."""
    emptied(model)
    if zipfile.is_zipfile(path):
        model.load_weights(path)
    else:
        with h5py.File(path, "r") as file:
            root = file["model_weights"]
            for layer in model.layers:
                if layer.weights:
                    group = root[layer.name]
                    names = [n.decode() if isinstance(n, bytes) else n for n in group.attrs["weight_names"]]
                    names = [n for n in names if n.rsplit("/", 1)[-1].split(":")[0] not in EXTRA]
                    held = layer.trainable_weights + layer.non_trainable_weights  # Keras' order in .h5 files
                    for variable, n in zip(held, names, strict=True):
                        variable.assign(group[n][()])
    filled(model)


def _made_by(tensor):
    return tensor._keras_history.layer


def _values(model, arrays, prefix=""):
    """Every value of a model for its inputs, by layer name (``outer/inner`` in models within models, ``@k`` for further calls)."""
    wanted, nested = {}, []
    mine = {id(node) for nodes in model._nodes_by_depth.values() for node in nodes}
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        for number, node in enumerate(n for n in layer._inbound_nodes if id(n) in mine):
            name = prefix + layer.name + (f"@{number}" if number else "")
            if isinstance(layer, tf.keras.Model):
                nested.append((layer, name, node.input_tensors))
            else:
                wanted[name] = node.output_tensors
    inputs = {name + "#in": tensors for _, name, tensors in nested}
    found = tf.keras.Model(model.inputs, {**wanted, **inputs})(arrays, training=False)
    out = {name: found[name].numpy() for name in wanted}
    for layer, name, _ in nested:
        out.update(_values(layer, found[name + "#in"], name + "/"))
    return out


def run(job, arrays):
    """Every layer's output for raw RGB ``input`` (N, 3, H, W), heads, scores, anchors as Caffe lays them out, detections."""
    model = model_of(job)
    image = tf.constant(arrays["input"].transpose(0, 2, 3, 1))
    values = _values(model, image)
    last = _made_by(model.outputs[0])
    decoder = last if isinstance(last, _Decoder) else None
    joined = _made_by(last.input) if decoder is not None else last
    scores, loc, anchors = joined.input
    softmax = _made_by(scores)
    conf = softmax.input if isinstance(softmax, layers.Softmax | layers.Activation) else scores
    names = [_made_by(t).name for t in (conf, loc, anchors)]
    coords = next(layer.coords for layer in model.layers if isinstance(layer, AnchorBoxes))
    relative = next(layer.normalize for layer in model.layers if isinstance(layer, AnchorBoxes))
    sides = np.array(model.input_shape[2:0:-1], np.float64)
    predictions = values[joined.name]
    out = {"conf": values[names[0]], "loc": values[names[1]], "scores": values[_made_by(scores).name]}
    if coords == "minmax":
        out["loc"] = np.ascontiguousarray(out["loc"][..., [0, 2, 1, 3]])
    table = values[names[2]][0].astype(np.float64)
    boxes, variances = table[:, :4], table[:, 4:]
    if coords == "centroids":
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    elif coords == "minmax":
        boxes, variances = boxes[:, [0, 2, 1, 3]], variances[:, [0, 2, 1, 3]]
    if not relative:
        boxes = boxes / np.tile(sides, 2)
    out["priors"] = np.stack([boxes.ravel(), variances.ravel()])[None].astype(np.float32)
    for index, one in enumerate(predictions):
        if decoder is not None:
            rows = values[decoder.name][index]
            rows = rows[rows[:, 0] > 0]
            rows[:, 2:] /= np.float32(np.tile(sides, 2))
        else:
            corners = corners_of(one.astype(np.float64), coords)
            corners = corners if relative else corners / np.tile(sides, 2)
            rows = select(one[:, :-12], corners.astype(np.float32), *job["rule"])
        out[f"{index}/detections"] = rows
    for name, value in values.items():
        if value.ndim == 4:
            value = value.transpose(0, 3, 1, 2)
        if name not in (joined.name, decoder.name if decoder is not None else "") and value.ndim < 5:
            out["layers/" + name] = np.ascontiguousarray(value)
    return {"coords": coords}, out
