"""The own code of HiKapok/SSD.TensorFlow on TensorFlow 1.6 (``originals``); Python 3.6.

A job names the checkout, the checkpoint's prefix, its scope and class count. Input function and model function are ``eval_ssd``'s with its flags' defaults; only the reading of TFRecords is replaced, by placeholders.
"""

import os
import sys
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import numpy as np
import tensorflow as tf
from serving import serve

tf.logging.set_verbosity(tf.logging.ERROR)


class Params(dict):
    """What ``eval_ssd.main`` hands to its model function: its flags."""

    def __missing__(self, key):
        return getattr(tf.app.flags.FLAGS, key)


class Network:
    """The graph that the project's code builds, and the tensors of it that are asked for."""

    def __init__(self, job):
        sys.path.insert(0, job["checkout"])
        import eval_ssd

        self.encoder = self.loc = self.conf = None
        code = eval_ssd.anchor_manipulator
        self._watch(code.AnchorEncoder, "__init__", self._made)
        self._watch(code.AnchorEncoder, "decode_all_anchors", self._decoded)
        self._watch(eval_ssd, "parse_by_class", self._parsed)
        eval_ssd.dataset_common.slim_get_batch = self._batch
        features, labels = eval_ssd.input_pipeline(is_training=False, batch_size=1)()
        self.input = features["image"]
        told = Params(job["flags"], num_classes=job["classes"], model_scope=job["scope"])
        told["summary_dir"] = str(Path.cwd())
        spec = eval_ssd.ssd_model_fn(features, labels, tf.estimator.ModeKeys.PREDICT, told)
        self.found = [
            (label, spec.predictions[f"scores_{label}"][0], spec.predictions[f"bboxes_{label}"][0])
            for label in range(1, job["classes"])
        ]
        self.layers = {name: self._layer(job["scope"], name) for name in job["layers"]}

    @staticmethod
    def _watch(owner, name, seen):
        """Tell ``seen`` the positional arguments of each call."""
        function = getattr(owner, name)

        def called(*args, **kwargs):
            seen(*args)
            return function(*args, **kwargs)

        setattr(owner, name, called)

    def _made(self, encoder, *_):
        self.encoder = encoder

    def _decoded(self, encoder, loc, *_):
        self.loc = loc

    def _parsed(self, conf, *_):
        self.conf = conf

    def _batch(self, classes, size, split, pattern, readers, threads, prepare, encode, **_):
        """One image, its name and its targets, as the project's reader would hand them over."""
        self.image = tf.placeholder(tf.uint8, (None, None, 3))
        labels, boxes = tf.placeholder(tf.int64, (None,)), tf.placeholder(tf.float32, (None, 4))
        given = prepare(self.image, labels, boxes), tf.constant(""), tf.shape(self.image)
        return tuple(tf.expand_dims(value, 0) for value in (*given, *encode(labels, boxes)))

    @staticmethod
    def _layer(scope, name):
        """What stands behind the ReLU of a layer's variable, or behind conv4_3's product with its scales."""
        scaled = name == "conv4_3_scale"
        path = "/".join(part for part in (scope, name, "weights" if scaled else "kernel") if part)
        todo = [tf.get_default_graph().get_operation_by_name(path)]
        while todo:
            here = todo.pop(0)
            if here.type == ("Mul" if scaled else "Relu"):
                return here.outputs[0]
            todo += [reader for output in here.outputs for reader in output.consumers()]
        raise SystemExit("nothing reads " + path)

    def priors(self, session):
        """(1, 2, 4 P): corners x first, and variances in the order x, y, w, h."""
        yxyx = session.run(tf.stack(self.encoder.center2point(*self.encoder._all_anchors), -1))
        y, x, h, w = self.encoder._prior_scaling
        return np.stack([yxyx[:, [1, 0, 3, 2]].ravel(), np.tile(np.float32([x, y, w, h]), len(yxyx))])[None]

    def activations(self, session, pixels):
        """Layers, heads, priors and detections of prepared pixels (N, 3, H, W), one image at a time as the project does."""
        out, rows = {}, {name: [] for name in [*self.layers, "loc", "conf"]}
        wanted = dict(self.layers, loc=self.loc, conf=self.conf)
        for number, image in enumerate(pixels):
            fed = {self.input: image.transpose(1, 2, 0)[None]}
            values, found = session.run([wanted, [triple[1:] for triple in self.found]], fed)
            for name, value in values.items():
                rows[name].append(value[0].transpose(2, 0, 1) if name in self.layers else value)
            listed = [
                np.concatenate([np.full((len(scores), 1), label), scores[:, None], boxes[:, [1, 0, 3, 2]]], 1)
                for (label, _, _), (scores, boxes) in zip(self.found, found)  # noqa: B905 Python 3.6
            ]
            listed = np.concatenate(listed).astype(np.float32)
            out[f"{number}/detections"] = listed[listed[:, 1] > 0]
        for name, values in rows.items():
            out[("modules/" if name in self.layers else "") + name] = np.stack(values)
        out["priors"] = self.priors(session)
        return out

    def prepared(self, session, images):
        """RGB images (height, width, 3) by number as the project's own code prepares them, (3, H, W)."""
        return {
            number: session.run(self.input, {self.image: image})[0].transpose(2, 0, 1)
            for number, image in images.items()
        }


def _session():
    return tf.Session(config=tf.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=1))


def activations(job, arrays):
    """See ``Network.activations``, for ``input``."""
    network = Network(job)
    with _session() as session:
        tf.train.Saver(tf.global_variables()).restore(session, job["checkpoint"])
        return {}, network.activations(session, arrays["input"])


def prepare(job, arrays):
    """See ``Network.prepared``."""
    network = Network(job)
    with _session() as session:
        return {}, network.prepared(session, arrays)


if __name__ == "__main__":
    serve(activations, prepare)
