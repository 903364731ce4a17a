"""1,000 bootstrap resamples of a VOC2007-sized evaluation: ``python bench/bootstrap.py`` prints JSON.

Peer: what a resample costs when the data set is really drawn and evaluated again (vectorised too), timed on a few and
scaled; the AP under the weights of a draw must equal the AP of the drawn set.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from _detection_sets import synthetic

from ssdconv.parity.accuracy.bootstrap import draw, means, resample, resampled, spread
from ssdconv.parity.accuracy.detections import DetectionSet, Truth
from ssdconv.parity.accuracy.voc import PRESETS, evaluate_voc


def drawn(truth: Truth, found: DetectionSet, times: np.ndarray) -> tuple[Truth, DetectionSet]:
    """The data set in which image i stands ``times[i]`` times, each copy an image of its own."""
    copies = np.repeat(np.arange(len(times)), times)

    def rows(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(image, kind="stable")
        count = np.bincount(image, minlength=len(times))
        start = np.cumsum(count) - count
        sizes = count[copies]
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return order[np.repeat(start[copies], sizes) + within], np.repeat(np.arange(len(copies)), sizes)

    g, g_image = rows(truth.image)
    d, d_image = rows(found.image)
    names = tuple(map(str, range(len(copies))))
    objects = Truth(
        truth.classes, names, truth.origin, truth.sizes[copies], g_image, truth.labels[g], truth.boxes[g],
        truth.difficult[g], truth.crowd[g], truth.area[g],
    )  # fmt: skip
    return objects, DetectionSet(
        found.classes, names, d_image, found.labels[d], found.scores[d], found.boxes[d], written=True
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100_000)
    options = parser.parse_args()
    truth, found = synthetic(4952, 20, 14976, options.detections, difficult=0.2, ties=False)
    rule = PRESETS["devkit"]
    tables = evaluate_voc(truth, found, rule).tables
    start = time.perf_counter()
    values = resample([tables], "11point", options.resamples, 0)[0]
    found_interval, _ = spread(means(values)), [spread(column) for column in values.T]
    seconds = time.perf_counter() - start
    weights = draw(4952, 5, 1)
    quick = resampled(tables, "11point", weights)
    start = time.perf_counter()
    again = np.asarray([evaluate_voc(*drawn(truth, found, w), rule).ap for w in weights])
    each = (time.perf_counter() - start) / len(weights)
    report = {
        "resamples": options.resamples,
        "detections": options.detections,
        "seconds": round(seconds, 3),
        "interval": found_interval and [found_interval.low, found_interval.high],
        "drawing_and_evaluating_seconds": round(each * options.resamples, 1),
        "ratio": round(each * options.resamples / seconds, 1),
        "largest_difference": float(np.nanmax(np.abs(quick - again))),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
