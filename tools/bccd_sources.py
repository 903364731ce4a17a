"""One network trained on BCCD by a source framework itself and by us, some seeds each: curves and their spread side by side.

``--with gluon``: ``ssd_300_mobilenet0.25``, each side from starting values of its own; GluonCV's data set, transform, batches,
loss, trainer and detections. ``--with chainer``: SSD300-VGG16 with an eighth of the channels, both sides from the same starting
values (ours, written as ChainerCV's file); ChainerCV's data set, transforms, coder, loss, hooks and detections, Chainer's
iterator, updater and optimizer. Our side is the recipe of that name. Both sides' detections of the held-out part are scored by
the same code, and both losses are per positive of the batch. Images with boxes without area, which GluonCV refuses, are left
out for both.

Prints one JSON object; tables on stderr; with --out both, and a page with the curves, into a folder, renewed after every seed.

    python tools/bccd_sources.py --data BCCD --with gluon --epochs 40 --every 10 --out runs/gluon
    python tools/bccd_sources.py --data BCCD --with chainer --epochs 3 --shrink 2 --out runs/chainer
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source
from ssdconv.data.custom import open_custom
from ssdconv.data.records import Dataset
from ssdconv.parity.accuracy.detections import DetectionSet
from ssdconv.parity.accuracy.evaluate import evaluate
from ssdconv.parity.accuracy.run import Evaluation
from ssdconv.parity.oracles.worker import Worker
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import narrowed
from ssdconv.train.loader import TrainingSet
from ssdconv.train.loop import Settings, Terms, Training
from ssdconv.train.recipe import Recipe, edited
from ssdconv.train.recipes import recipe_of
from ssdconv.train.run_folder import Identity, RunFolder, describe_data
from ssdconv.train.start import begin, with_classes

NETWORKS = {"gluon": "gluon/ssd_300_mobilenet0.25_voc", "chainer": "chainer/ssd300_voc"}
"""Recipe, environment and worker's first word -> the network that is trained; ChainerCV's is narrowed."""

WIDTH = 8
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, 97.5 %, for 1, 2, 3, … degrees of freedom; the last serves for more, which makes intervals wider."""

Row = dict[str, Any]
"""An epoch: ``epoch``, ``seconds``, ``losses`` [[loc, conf] of every update], and where it was scored ``mAP`` and AP per class."""


def prepared(data: Path, folder: Path, shrink: int, images: int | None) -> Path:
    """A copy of parts train and val, without images that GluonCV refuses, with sides divided by ``shrink``."""
    root = folder / "BCCD"
    for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / part).mkdir(parents=True)
    for part in ("train", "val"):
        names = []
        for record in open_custom(data, part):
            tree = ET.parse(data / "Annotations" / f"{record.image_id}.xml")
            for tag in ("width", "height", "xmin", "ymin", "xmax", "ymax"):
                for element in tree.iter(tag):
                    element.text = str(max(round(int(element.text or "") / shrink), 1))
            corners = [[int(b.findtext(t, "")) for t in ("xmin", "ymin", "xmax", "ymax")] for b in tree.iter("bndbox")]
            if any(b[2] <= b[0] or b[3] <= b[1] for b in corners):
                continue
            tree.write(root / "Annotations" / f"{record.image_id}.xml")
            target = root / "JPEGImages" / f"{record.image_id}.jpg"
            photo = data / "JPEGImages" / target.name
            if shrink == 1:
                target.symlink_to(photo.resolve())
            else:
                size = int(tree.findtext("size/width", "")), int(tree.findtext("size/height", ""))
                whole = cv2.imread(str(photo))
                assert whole is not None, photo
                cv2.imwrite(
                    str(target), cv2.resize(whole, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 95]
                )
            names.append(record.image_id)
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names[:images]) + "\n")
    return root


def scored(held: Dataset, rows: np.ndarray) -> dict[str, float | None]:
    """mAP and AP per class of rows (image, class, score, xyxy as fractions)."""
    sizes = np.asarray([(r.width, r.height) * 2 for r in held], np.float64)
    image = rows[:, 0].astype(np.int64)
    found = DetectionSet(
        tuple(held.classes),
        tuple(held.image_ids),
        image,
        rows[:, 1].astype(np.int64),
        rows[:, 2].astype(np.float64),
        rows[:, 3:7] * sizes[image],
    )
    result = evaluate(held, found, resamples=0, worst=0)
    return {"mAP": result.numbers["mAP"], **{c.name: c.ap for c in result.classes}}


def framework(
    name: str, root: Path, held: Dataset, options: argparse.Namespace, seed: int, start: Path, config: SSDConfig
) -> list[Row]:
    """The source framework's curve."""
    job = {
        "do": "epochs",
        "root": str(root),
        "classes": held.classes,
        "seed": seed,
        "batch": options.batch_size,
        "lr": options.lr,
        "epochs": options.epochs,
        "every": options.every,
        "size": config.pixels.size[0],
    }
    job |= {"npz": str(start), "width": WIDTH} if name == "chainer" else {"network": "ssd_300_mobilenet0.25_custom"}
    answer = Worker(name, str(Path(__file__).parent / "workers" / f"{name}_epochs")).ask([job], timeout=24 * 3600)
    rows: list[Row] = answer.jobs[0]["epochs"]
    for row in rows:
        found = answer.arrays.get(f"0/rows{row['epoch']}")
        if found is not None:
            row |= scored(held, found)
    return rows


class Quiet:
    """Keeps what is told after each update and epoch."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.losses: list[list[float]] = []

    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None:
        """Keep the losses."""
        self.losses.append([terms.loc, terms.conf])

    def epoch(self, values: dict[str, Any]) -> None:
        """Keep the scores."""
        found = {k.removeprefix("AP:"): v for k, v in values.items() if k == "mAP" or k.startswith("AP:")}
        self.rows.append({"epoch": values["epochs"], "seconds": values["seconds"], "losses": self.losses, **found})
        self.losses = []

    def note(self, text: str) -> None:
        """Nothing."""


def ours(
    train: Dataset, held: Dataset, model: SSD, recipe: Recipe, options: argparse.Namespace, seed: int, folder: Path
) -> list[Row]:
    """Our curve, at a constant rate like the framework's."""
    run, listener = RunFolder(folder / f"ours{seed}"), Quiet()
    run.create(Identity(model.config, recipe, describe_data(train), seed, "faithful", False), {})
    settings = Settings(seed=seed, workers=0, eval_every=max(options.every, 1), keep=1)
    samples = TrainingSet(train, model.config, recipe, seed, cache=True)
    score = Evaluation(held, run.path / "evaluation", 8) if options.every else None
    training = Training(run, model, samples, recipe, settings, listener, evaluate=score)
    training.total = options.epochs * training.per_epoch
    training.run()
    return listener.rows


def spread(values: list[float]) -> dict[str, float | None]:
    """Mean and 95 % t interval over the seeds (none for one seed)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = T975[min(len(values) - 1, len(T975)) - 1] * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half}


def difference(theirs: list[float], own: list[float]) -> dict[str, float | None]:
    """Ours minus the framework's: mean and 95 % t interval, variances pooled."""
    mean, seeds = float(np.mean(own) - np.mean(theirs)), len(own)
    if seeds < 2:
        return {"mean": mean, "low": None, "high": None}
    deviation = float(np.sqrt((np.var(own, ddof=1) + np.var(theirs, ddof=1)) / seeds))
    half = T975[min(2 * seeds - 2, len(T975)) - 1] * deviation
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summarised(curves: dict[str, list[list[Row]]], windows: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Quantity -> point -> side -> spread, and ``difference`` where both sides are.

    Quantities: ``mAP`` at epochs; ``loss``, ``loc``, ``conf`` as means over ``windows`` runs of updates, as many as the shorter
    side has, keyed by the window's last update.
    """
    flat = {
        side: [np.array([pair for row in run for pair in row["losses"]], np.float64) for run in runs]
        for side, runs in curves.items()
    }
    least = min(len(run) for runs in flat.values() for run in runs)
    edges = np.linspace(0, least, min(windows, least) + 1).round().astype(int)
    points: dict[str, dict[str, dict[str, list[float]]]] = {}
    for side, runs in curves.items():
        for run in runs:
            for row in run:
                if row.get("mAP") is not None:
                    points.setdefault("mAP", {}).setdefault(str(row["epoch"]), {}).setdefault(side, []).append(
                        row["mAP"]
                    )
        for losses in flat[side]:
            for begun, ended in itertools.pairwise(edges):
                loc, conf = losses[begun:ended].mean(0)
                for key, value in (("loss", loc + conf), ("loc", loc), ("conf", conf)):
                    points.setdefault(key, {}).setdefault(str(ended), {}).setdefault(side, []).append(float(value))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key, places in points.items():
        for place, sides in places.items():
            cells: dict[str, Any] = {side: spread(values) for side, values in sides.items()}
            if len(sides) == 2:
                cells["difference"] = difference(*sides.values())
            found.setdefault(key, {})[place] = cells
    return found


def _shown(value: dict[str, float | None]) -> str:
    if value["low"] is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} ({value['low']:.4f} to {value['high']:.4f})"


def table(quantity: str, places: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per point, a column per side: mean (95 % interval)."""
    sides = list(next(iter(places.values())))
    head = "epoch" if quantity == "mAP" else "update"
    lines = [f"| {head} | " + " | ".join(f"{quantity}, {s}" for s in sides) + " |", "|---" * (len(sides) + 1) + "|"]
    lines += [f"| {place} | " + " | ".join(_shown(row[s]) for s in sides) + " |" for place, row in places.items()]
    return "\n".join(lines)


COLOURS = ("#0f6c8c", "#c4463a")


def chart(quantity: str, places: dict[str, dict[str, Any]]) -> str:
    """Inline SVG: a line per side, its interval as a band."""
    sides = [s for s in next(iter(places.values())) if s != "difference"]
    xs = [float(p) for p in places]
    ends = [r[s][k] for r in places.values() for s in sides for k in ("mean", "low", "high") if r[s][k] is not None]
    low, high = min(0.0, *ends), max(ends) or 1.0
    parts = [f'<text x="60" y="16" font-weight="600">{quantity}</text>']

    def at(x: float, y: float) -> str:
        return f"{60 + 500 * x / max(xs):.1f},{230 - 200 * (y - low) / (high - low):.1f}"

    for value in np.linspace(low, high, 5):
        place = at(0, value).split(",")[1]
        parts.append(
            f'<path d="M60 {place}H560" stroke="#e3e7eb"/><text x="54" y="{place}" text-anchor="end">{value:.3g}</text>'
        )
    parts += [f'<text x="{at(x, low).split(",")[0]}" y="248" text-anchor="middle">{x:g}</text>' for x in xs]
    for number, (side, colour) in enumerate(zip(sides, COLOURS, strict=False)):
        rows = [r[side] for r in places.values()]
        if rows[0]["low"] is not None:
            band = [at(x, r["high"]) for x, r in zip(xs, rows, strict=True)]
            band += [at(x, r["low"]) for x, r in zip(xs[::-1], rows[::-1], strict=True)]
            parts.append(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity=".15"/>')
        line = " ".join(at(x, r["mean"]) for x, r in zip(xs, rows, strict=True))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{200 + 150 * number}" y="16" fill="{colour}">{side}</text>')
    return f'<svg viewBox="0 0 600 256" width="600" font-family="system-ui,sans-serif" font-size="11">{"".join(parts)}</svg>'


def page(told: dict[str, Any]) -> str:
    """One HTML file with everything in it."""
    about = {k: v for k, v in told.items() if k not in ("curves", "summary")}
    body = "".join(f"{chart(q, p)}<pre>{table(q, p)}</pre>" for q, p in told["summary"].items())
    title = f"BCCD: {told['network']}"
    text = (
        "Lines are means over the seeds, bands 95 % t intervals. Losses are per positive; means over runs of updates."
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<body style="font:15px system-ui,sans-serif;max-width:900px;margin:2em auto"><h1>{title}</h1>'
        f"<p>{json.dumps(about)}</p><p>{text}</p>{body}</body></html>"
    )


def main() -> int:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder BCCD, as the archive has it")
    parser.add_argument("--with", dest="name", choices=tuple(NETWORKS), default="gluon", help="the source framework")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--every", type=int, default=10, help="epochs between evaluations; 0 for none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--shrink", type=int, default=1, help="train on photos with sides divided by this")
    parser.add_argument("--images", type=int, help="of each part at most")
    parser.add_argument("--windows", type=int, default=6, help="points of the loss curves")
    parser.add_argument("--out", type=Path, help="folder for curves.json and curves.html")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name, started = options.name, time.perf_counter()
    curves: dict[str, list[list[Row]]] = {name: [], "ours": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root = prepared(options.data, folder, options.shrink, options.images)
        train, held = (open_custom(root, part) for part in ("train", "val"))
        wide = network(NETWORKS[name])
        config, _ = with_classes(narrowed(wide, WIDTH) if name == "chainer" else wide, train.classes)
        recipe = edited(recipe_of(name), len(train), batch_size=options.batch_size, lr=options.lr, epochs=10_000)
        for seed in range(options.seeds):
            model, start = SSD(config), folder / f"start{seed}.npz"
            begin(model, recipe, seed)
            if name == "chainer":
                tensors = {n: t.detach().numpy() for n, t in model.state_dict().items()}
                source(name).module.write(config, tensors, start, Request(options={"foreign_priors": True}))
            curves[name].append(framework(name, root, held, options, seed, start, config))
            curves["ours"].append(ours(train, held, model, recipe, options, seed, folder))
            for side, runs in curves.items():
                for row in runs[-1]:
                    mean = float(np.mean(np.sum(row["losses"], 1)))
                    said = {k: v for k, v in row.items() if k != "losses"}
                    print(side, seed, json.dumps({**said, "loss": mean}), file=sys.stderr, flush=True)
            told = {
                "network": config.name + (f", width {WIDTH} of 64" if name == "chainer" else ""),
                "images": len(train),
                "held_out": len(held),
                "shrink": options.shrink,
                "batch_size": options.batch_size,
                "lr": options.lr,
                "seeds": seed + 1,
                "seconds": round(time.perf_counter() - started),
                "summary": summarised(curves, options.windows),
                "curves": curves,
            }
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / "curves.json").write_text(json.dumps(told))
                (options.out / "curves.html").write_text(page(told))
    print(json.dumps(told))
    for quantity, places in told["summary"].items():
        print(f"\n{table(quantity, places)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
