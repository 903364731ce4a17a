"""ChainerCV as an oracle: answers requests by files. Needs nothing but NumPy, Chainer, ChainerCV, OpenCV; Python 3.8 on.

Called with one folder; ``request.json`` there is ``{"jobs": [...]}``, each job one dict with ``do`` (a function below) and its
arguments; ``request.npz`` holds arrays named ``<job index>/<name>``. Answers go to ``response.json``, a list under ``jobs``,
and ``response.npz`` under the same kind of names.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import chainer
import chainer.links as L
import numpy as np
from chainercv.links import SSD300, SSD512
from chainercv.links.model.ssd import Normalize

chainer.config.train = False
chainer.config.enable_backprop = False


def _network(job):
    """SSD300 or SSD512; with ``width`` below 64 every layer of the extractor has that share of its channels."""
    model = {300: SSD300, 512: SSD512}[job["size"]](n_fg_class=job["classes"] - 1)
    width = job.get("width", 64)
    if width != 64:
        extractor = model.extractor
        for name, link in list(extractor.namedlinks(skipself=True)):
            name = name[1:]
            if isinstance(link, Normalize):
                new = Normalize(width * 8, eps=link.eps)
            else:
                options = {"dilate": link.dilate} if isinstance(link, L.DilatedConvolution2D) else {}
                count = link.out_channels * width // 64
                new = type(link)(None, count, link.ksize, link.stride, link.pad, **options)
            delattr(extractor, name)
            with extractor.init_scope():
                setattr(extractor, name, new)
    return model


def _loaded(job):
    model = _network(job)
    model(np.zeros((1, 3, job["size"], job["size"]), np.float32))  # gives every link its input channels
    chainer.serializers.load_npz(job["npz"], model)  # strict: a name too few or too many raises
    return model


class _Record(chainer.LinkHook):
    """Keeps every link's output by the link's path."""

    name = "record"

    def __init__(self, model):
        super().__init__()
        self.outputs = {}
        self.names = {id(link): name for name, link in model.namedlinks()}

    def forward_postprocess(self, args):
        if not isinstance(args.out, (tuple, list)):
            self.outputs[self.names[id(args.link)]] = args.out.array.copy()


def activations(job, arrays):
    """Every link's output for ``input`` (N, 3, H, W), raw locs and confs, and detections by ``preset``.

    Detections of image i: ``<i>/boxes`` (n, 4) yxyx in pixels of the input, ``<i>/labels`` from 0, ``<i>/scores``.
    """
    model = _loaded(job)
    with _Record(model) as record:
        locs, confs = model(arrays["input"])
    out = {"links" + name: value for name, value in record.outputs.items()}
    out["locs"], out["confs"] = locs.array, confs.array
    out["defaults"] = model.coder._default_bbox
    model.use_preset(job.get("preset", "evaluate"))
    for index, (loc, conf) in enumerate(zip(locs.array, confs.array)):
        found = model.coder.decode(loc, conf, model.nms_thresh, model.score_thresh)
        for key, value in zip(("boxes", "labels", "scores"), found):
            out[f"{index}/{key}"] = value
    return {"links": sorted(record.outputs)}, out


def predict(job, arrays):
    """``SSD.predict`` on the RGB uint8 image (H, W, 3) ``image``: boxes yxyx in pixels of the image."""
    model = _loaded(job)
    model.use_preset(job.get("preset", "evaluate"))
    image = arrays["image"].transpose(2, 0, 1).astype(np.float32)
    (boxes,), (labels,), (scores,) = model.predict([image])
    return {}, {"boxes": boxes, "labels": labels, "scores": scores}


def prepare(job, arrays):
    """``SSD._prepare`` on each RGB uint8 array (H, W, 3) ``0``, ``1``, …: (3, size, size) float32."""
    model = _network(job)
    return {}, {name: model._prepare(a.transpose(2, 0, 1).astype(np.float32)) for name, a in arrays.items()}


def save(job, arrays):
    """Load ``npz`` and save the model again to ``out``, by Chainer's own serializers."""
    save = chainer.serializers.save_npz
    save(job["out"], _loaded(job), compression=job.get("compression", True))
    return {}, {}


DO = {"activations": activations, "predict": predict, "prepare": prepare, "save": save}


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
    versions = {"chainer": chainer.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}
    (folder / "response.json").write_text(json.dumps({"jobs": answers, "versions": versions}))
    np.savez(str(folder / "response.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
