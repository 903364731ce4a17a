"""Equality of fast COCO evaluators with pycocotools on random small sets: which of them may stand in for the referee.

``python bench/coco_fuzz.py --sets 20000 --seed 7 [--evaluators hotcoco ultrafast_pycocotools faster_coco_eval]`` prints
JSON: per evaluator the sets compared, the sets in which any of the 12 numbers or any cell of the precision and recall
tables differ at all, the largest difference, and the exceptions. Every candidate is fed dictionaries in COCO form.

The sets are small on purpose (1-6 images, 1-4 categories) and rich in what evaluators get wrong: tied scores, crowds,
zero-area boxes, images without objects or without detections, more than 100 detections of a class in an image, areas on
the 32^2 and 96^2 borders, an ``area`` that is not width x height, ``ignore`` fields, detections identical to objects.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

SIDES = (0.0, 1.0, 7.0, 31.0, 32.0, 33.0, 95.0, 96.0, 97.0, 130.0)


def _box(rng: np.random.Generator) -> list[float]:
    kind = rng.integers(4)
    if kind == 0:  # sides that put the area on a border of the area ranges, zero sides among them
        w, h = (float(rng.choice(SIDES)) for _ in range(2))
        return [float(rng.integers(0, 60)), float(rng.integers(0, 60)), w, h]
    if kind == 1:  # a coarse grid: many exact overlaps and equal ratios
        return [float(v) for v in rng.integers(0, 6, 2) * 10] + [float(v) for v in rng.integers(1, 6, 2) * 10]
    x, y, w, h = rng.uniform(0, 90, 4)
    return [round(float(v), 2) for v in (x, y, w * 1.4, h * 1.4)]


def random_set(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One COCO-form ground truth and its results list (at least one detection)."""
    image_ids = [int(i) for i in rng.choice(500, int(rng.integers(1, 7)), replace=False)]
    category_ids = sorted(int(i) for i in rng.choice(90, int(rng.integers(1, 5)), replace=False) + 1)
    objects: list[dict[str, Any]] = []
    crowd_rate = float(rng.choice([0.0, 0.1, 0.5]))
    for image in image_ids:
        for _ in range(int(rng.choice([0, 0, 1, 3, 8]))):
            box = _box(rng)
            area = box[2] * box[3] * float(rng.choice([1.0, 1.0, 0.6]))
            object_ = {
                "id": len(objects) + 1,
                "image_id": image,
                "category_id": int(rng.choice(category_ids)),
                "bbox": box,
                "area": area,
                "iscrowd": int(rng.random() < crowd_rate),
            }
            if rng.random() < 0.1:
                object_["ignore"] = 1
            objects.append(object_)
    levels = int(rng.choice([1, 3, 20, 100000]))  # few score levels: ties
    results: list[dict[str, Any]] = []
    crowded = rng.random() < 0.15
    for image in image_ids:
        mine = [o for o in objects if o["image_id"] == image]
        for _ in range(int(rng.choice([0, 1, 4, 12])) + (130 if crowded and image == image_ids[0] else 0)):
            box, category = _box(rng), int(rng.choice(category_ids))
            if mine and rng.random() < 0.6:
                near = mine[int(rng.integers(len(mine)))]
                shift = rng.choice([0.0, 1.0, 4.0]) * rng.uniform(-1, 1, 4)
                box = [float(v) for v in np.maximum(np.asarray(near["bbox"]) + shift, 0.0)]
                category = near["category_id"] if rng.random() < 0.9 else category
            score = float(rng.integers(1, levels + 1)) / levels
            results.append({"image_id": image, "category_id": category, "bbox": box, "score": score})
    if not results:
        results.append({"image_id": image_ids[0], "category_id": category_ids[0], "bbox": _box(rng), "score": 0.5})
    rng.shuffle(results)  # type: ignore[arg-type]
    truth = {
        "images": [{"id": i, "width": 200, "height": 200} for i in sorted(image_ids)],
        "annotations": objects,
        "categories": [{"id": c, "name": f"c{c}"} for c in category_ids],
    }
    return truth, results


def run_evaluator(module: str, truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[np.ndarray, ...]:
    """(12 numbers, precision (T, R, K, A, M), recall (T, K, A, M)) of an evaluator with pycocotools' interface."""
    if module == "pycocotools":
        coco_class = importlib.import_module("pycocotools.coco").COCO
        eval_class = importlib.import_module("pycocotools.cocoeval").COCOeval
    elif module == "faster_coco_eval":
        package = importlib.import_module(module)
        coco_class, eval_class = package.COCO, package.COCOeval_faster
    else:
        package = importlib.import_module(module)
        coco_class, eval_class = package.COCO, package.COCOeval
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    with redirect_stdout(StringIO()):
        if module == "pycocotools":
            ground = coco_class()
            ground.dataset = truth
            ground.createIndex()
        else:
            ground = coco_class(truth)
        evaluation = eval_class(ground, ground.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    tables = (np.asarray(evaluation.eval[k], np.float64) for k in ("precision", "recall"))
    return (np.asarray(evaluation.stats, np.float64)[:12], *tables)


def compare(evaluators: list[str], sets: int, seed: int, tick: Callable[[int], None]) -> dict[str, Any]:
    """Run every evaluator and the referee on ``sets`` random sets."""
    report = {e: {"differ": 0, "numbers_differ": 0, "largest": 0.0, "exceptions": 0, "first": None} for e in evaluators}
    rng = np.random.default_rng(seed)
    for index in range(sets):
        truth, results = random_set(rng)
        referee = run_evaluator("pycocotools", truth, results)
        for name in evaluators:
            row: dict[str, Any] = report[name]
            try:
                mine = run_evaluator(name, truth, results)
            except Exception as error:  # noqa: BLE001 - a candidate may fail in any way; it is counted
                row["exceptions"] += 1
                row["first"] = row["first"] or f"set {index}: {error!r}"
                continue
            equal = [a.shape == b.shape and np.array_equal(a, b) for a, b in zip(mine, referee, strict=True)]
            row["differ"] += not all(equal)
            row["numbers_differ"] += not equal[0]
            if not all(equal):
                row["first"] = row["first"] or f"set {index}: {equal}"
                gaps = [float(np.abs(a - b).max()) for a, b in zip(mine, referee, strict=True) if a.shape == b.shape]
                row["largest"] = max(row["largest"], *gaps)
        tick(index + 1)
    return {"sets": sets, "seed": seed, "evaluators": report}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluators", nargs="+", default=["hotcoco"])
    arguments = parser.parse_args()

    def progress(done: int) -> None:
        if done % 500 == 0:
            print(done, file=sys.stderr, flush=True)

    print(json.dumps(compare(arguments.evaluators, arguments.sets, arguments.seed, progress), indent=1))
