"""COCO evaluators against pycocotools at the size of val2017: ``python bench/coco_eval.py`` prints JSON.

5,000 images, 36,443 objects (1.2 % crowds), 80 categories, 500,000 detections. Timed: evaluate + accumulate (what the
published comparisons time), and the whole way from columns in memory to the twelve numbers. The numbers must be equal.
pycocotools takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
from _detection_sets import synthetic

from ssdconv.parity.accuracy import coco
from ssdconv.parity.accuracy.detections import DetectionSet, Truth


def _form(truth: Truth) -> dict[str, Any]:
    xywh = np.hstack([truth.boxes[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2]]).tolist()
    columns = zip(
        truth.image.tolist(), truth.labels.tolist(), truth.crowd.tolist(), truth.area.tolist(), xywh, strict=True
    )
    return {
        "images": [{"id": i + 1, "width": 640, "height": 480} for i in range(len(truth.image_ids))],
        "categories": [{"id": k + 1, "name": n} for k, n in enumerate(truth.classes)],
        "annotations": [
            {"id": j + 1, "image_id": i + 1, "category_id": k + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for j, (i, k, crowd, area, box) in enumerate(columns)
        ],
    }


def _core(evaluator: str, form: dict[str, Any], rows: np.ndarray) -> float:
    """Seconds of evaluate + accumulate alone."""
    coco_class, eval_class, _ = coco._library(evaluator)
    with redirect_stdout(StringIO()):
        if evaluator == "pycocotools":
            truth = coco_class()
            truth.dataset = form
            truth.createIndex()
            found = truth.loadRes(coco._dictionaries(rows))
        else:
            truth = coco_class(form)
            found = truth.load_res(rows)
        evaluation = eval_class(truth, found, "bbox")
        start = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        return time.perf_counter() - start


def _whole(evaluator: str, form: dict[str, Any], found: DetectionSet) -> tuple[float, dict[str, float]]:
    start = time.perf_counter()
    scores = coco.evaluate_coco(form, found, evaluator=evaluator)
    return time.perf_counter() - start, dict(scores.numbers)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=500_000)
    options = parser.parse_args()
    truth, found = synthetic(options.images, 80, round(7.2886 * options.images), options.detections, crowds=0.012)
    found = DetectionSet(
        found.classes, found.image_ids, found.image, found.labels, found.scores, found.boxes,
        xywh=np.hstack([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]]), written=True,
    )  # fmt: skip
    form = _form(truth)
    ids = list(range(1, options.images + 1))
    rows = coco.results_array(found, ids, list(range(1, 81)))
    report: dict[str, Any] = {}
    numbers = {}
    for name in ("hotcoco", "pycocotools"):
        core = min(_core(name, form, rows) for _ in range(3 if name == "hotcoco" else 1))
        whole, numbers[name] = _whole(name, form, found)
        report[name] = {"evaluate_accumulate": round(core, 3), "whole": round(whole, 3)}
    for part in ("evaluate_accumulate", "whole"):
        report[f"ratio_{part}"] = round(report["pycocotools"][part] / report["hotcoco"][part], 1)
    report["equal"] = str(numbers["hotcoco"]) == str(numbers["pycocotools"])
    print(json.dumps({"images": options.images, "detections": options.detections, **report}, indent=1))


if __name__ == "__main__":
    main()
