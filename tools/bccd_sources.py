"""One network trained on BCCD by GluonCV itself and by us, from scratch, some seeds each: curves and their spread side by side.

``ssd_300_mobilenet0.25`` in both. GluonCV's side runs in its oracle environment with its own data set, transform, batches, loss,
trainer and detections; ours is the recipe ``gluon``. Both sides' detections of the held-out part are scored by the same code. The
two images with boxes without area, which GluonCV refuses, are left out for both. Prints one JSON object, and a table on stderr.

    python tools/bccd_sources.py --data BCCD --epochs 40 --every 10 --seeds 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdconv.parity.evaluate import evaluate
from ssdconv.parity.metrics.detections import Detections
from ssdconv.parity.oracles.environments import environment
from ssdconv.parity.train_eval import Evaluation
from ssdconv.ssd_ref.data.custom import open_custom
from ssdconv.ssd_ref.data.records import Dataset
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.train.adapt import with_classes
from ssdconv.ssd_ref.train.edit import edited
from ssdconv.ssd_ref.train.loop import Training
from ssdconv.ssd_ref.train.recipes import recipe_of
from ssdconv.ssd_ref.train.run_folder import Identity, RunFolder, describe_data
from ssdconv.ssd_ref.train.samples import TrainingSet
from ssdconv.ssd_ref.train.settings import Settings
from ssdconv.ssd_ref.train.start import begin
from ssdconv.ssd_ref.train.step import Terms

NAME = "ssd_300_mobilenet0.25_voc"

GLUON = """
import json, random, sys, time
import mxnet as mx, numpy as np
from gluoncv.data import VOCDetection
from gluoncv.data.batchify import Stack, Tuple
from gluoncv.data.transforms.presets.ssd import SSDDefaultTrainTransform, SSDDefaultValTransform
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo import get_model
job = json.loads(sys.argv[1])
random.seed(job["seed"]); np.random.seed(job["seed"]); mx.random.seed(job["seed"])
class Cells(VOCDetection):
    CLASSES = tuple(c.lower() for c in job["classes"])
train, val = (Cells(root=job["root"], splits=[("BCCD", part)]) for part in ("train", "val"))
net = get_model("ssd_300_mobilenet0.25_custom", classes=list(Cells.CLASSES), pretrained_base=False)
kernels = mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
for name, param in net.collect_params().items():
    usual = "ones" if name.endswith(("gamma", "var")) else "zeros" if name.endswith(("beta", "bias", "mean")) else kernels
    param.initialize(None if param.init is not None else usual)
with mx.autograd.train_mode():
    anchors = net(mx.nd.zeros((1, 3, 300, 300)))[2]
loader = mx.gluon.data.DataLoader(train.transform(SSDDefaultTrainTransform(300, 300, anchors)), job["batch"], True,
    batchify_fn=Tuple(Stack(), Stack(), Stack()), last_batch="rollover", num_workers=0)
held = val.transform(SSDDefaultValTransform(300, 300))
loss = SSDMultiBoxLoss()
trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": job["lr"], "wd": 5e-4, "momentum": 0.9})
for epoch in range(1, job["epochs"] + 1):
    began, losses = time.time(), []
    net.hybridize()
    for batch in loader:
        x, classes, boxes = (part.as_in_context(mx.cpu()) for part in batch)
        with mx.autograd.record():
            cls_preds, box_preds, _ = net(x)
            total, _, _ = loss(cls_preds, box_preds, classes, boxes)
        mx.autograd.backward(total)
        trainer.step(1)
        losses.append(float(sum(t.mean().asscalar() for t in total)))
    print(json.dumps({"epoch": epoch, "loss": float(np.mean(losses)), "seconds": time.time() - began}), file=sys.stderr, flush=True)
    if epoch % job["every"] == 0 or epoch == job["epochs"]:
        net.set_nms(nms_thresh=0.45, nms_topk=400)
        rows = []
        for index in range(len(held)):
            x, _ = held[index]
            ids, scores, found = (a[0].asnumpy() for a in net(x.expand_dims(0)))
            good = (ids[:, 0] >= 0) & (scores[:, 0] > 0.01)
            rows.append(np.concatenate([np.full((good.sum(), 1), index), ids[good], scores[good], found[good] / 300], 1))
        np.save(f"{job['out']}-{epoch}.npy", np.concatenate(rows))
"""


def without_empty_boxes(data: Path, folder: Path) -> Path:
    """The set with the lists of train and val freed of images that GluonCV refuses."""
    root = folder / "BCCD"
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for part in ("Annotations", "JPEGImages"):
        (root / part).symlink_to((data / part).resolve())
    for part in ("train", "val"):
        whole = open_custom(data, part)
        good = [r.image_id for r in whole if (r.boxes[:, 2:] > r.boxes[:, :2]).all()]
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(good) + "\n")
    return root


def scored(held: Dataset, rows: np.ndarray) -> dict[str, float | None]:
    """mAP and AP per class of rows (image, class, score, xyxy as fractions)."""
    sizes = np.asarray([(r.width, r.height) * 2 for r in held], np.float64)
    image = rows[:, 0].astype(np.int64)
    found = Detections(
        tuple(held.classes),
        tuple(held.image_ids),
        image,
        rows[:, 1].astype(np.int64),
        rows[:, 2].astype(np.float64),
        rows[:, 3:7] * sizes[image],
    )
    result = evaluate(held, found, resamples=0, worst=0)
    return {"mAP": result.numbers["mAP"], **{c.name: c.ap for c in result.classes}}


def gluon(root: Path, held: Dataset, options: argparse.Namespace, seed: int, folder: Path) -> list[dict[str, Any]]:
    """GluonCV's curve."""
    out = folder / f"gluon{seed}"
    job = {
        "root": str(root.parent),
        "classes": held.classes,
        "seed": seed,
        "batch": options.batch_size,
        "lr": options.lr,
        "epochs": options.epochs,
        "every": options.every,
        "out": str(out),
    }
    command = [str(environment("gluon").python), "-c", GLUON, json.dumps(job, default=list)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"epoch"')]
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    for row in told:
        path = Path(f"{out}-{row['epoch']}.npy")
        if path.is_file():
            row |= scored(held, np.load(path))
    return told


class Quiet:
    """Keeps what is told after each epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None:
        """Nothing."""

    def epoch(self, values: dict[str, Any]) -> None:
        """Keep it."""
        classes = {k.removeprefix("AP:"): v for k, v in values.items() if k.startswith("AP:")}
        score = {"mAP": values["mAP"]} if "mAP" in values else {}
        self.rows.append(
            {"epoch": values["epochs"], "loss": values["mean_loss"], "seconds": values["seconds"], **score, **classes}
        )

    def note(self, text: str) -> None:
        """Nothing."""


def ours(train: Dataset, held: Dataset, options: argparse.Namespace, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Our curve, at a constant rate like GluonCV's."""
    config, _ = with_classes(network(NAME), train.classes)
    recipe = edited(recipe_of("gluon"), len(train), batch_size=options.batch_size, lr=options.lr, epochs=10_000)
    model, run, listener = SSD(config), RunFolder(folder / f"ours{seed}"), Quiet()
    begin(model, recipe, seed)
    run.create(Identity(config, recipe, describe_data(train), seed, "faithful", False), {})
    settings = Settings(seed=seed, workers=0, eval_every=options.every, keep=1)
    samples = TrainingSet(train, config, recipe, seed, cache=True)
    training = Training(
        run, model, samples, recipe, settings, listener, evaluate=Evaluation(held, run.path / "evaluation", 8)
    )
    training.total = options.epochs * training.per_epoch
    training.run()
    return listener.rows


def main() -> int:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder BCCD, as the archive has it")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--every", type=int, default=10, help="epochs between evaluations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--sides", nargs="+", choices=("gluon", "ours"), default=["gluon", "ours"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    curves: dict[str, list[list[dict[str, Any]]]] = {side: [] for side in options.sides}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root = without_empty_boxes(options.data, folder)
        train, held = (open_custom(root, part) for part in ("train", "val"))
        for seed in range(options.seeds):
            for side in options.sides:
                rows = (
                    gluon(root, held, options, seed, folder)
                    if side == "gluon"
                    else ours(train, held, options, seed, folder)
                )
                curves[side].append(rows)
                for row in rows:
                    print(side, seed, json.dumps(row), file=sys.stderr, flush=True)
    summary: dict[str, Any] = {}
    for side, runs in curves.items():
        for number, row in enumerate(runs[0]):
            values = [r[number] for r in runs]
            for key in ("loss", "mAP"):
                if key in row:
                    shown = [v[key] for v in values]
                    summary.setdefault(side, {}).setdefault(key, {})[row["epoch"]] = {
                        "mean": float(np.mean(shown)),
                        "least": min(shown),
                        "most": max(shown),
                    }
    about = {
        "network": NAME,
        "images": len(train),
        "held_out": len(held),
        "batch_size": options.batch_size,
        "lr": options.lr,
    }
    seconds = round(time.perf_counter() - started)
    print(json.dumps({**about, "seeds": options.seeds, "seconds": seconds, "curves": curves, "summary": summary}))
    for side, kinds in summary.items():
        for key, points in kinds.items():
            line = ", ".join(f"{e}: {v['mean']:.3f} ({v['least']:.3f}–{v['most']:.3f})" for e, v in points.items())
            print(f"{side} {key}: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
