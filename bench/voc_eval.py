"""VOC evaluation against the usual per-detection loop: ``python bench/voc_eval.py`` prints JSON.

Sets of the size of VOC2007 test (4,952 images, 14,976 objects, 20 classes) with 100,000 detections (a detector's written
files) and with 990,000 (200 an image, SSD's limit). Peer: ``_voc_loop.evaluate_loop`` with this project's AP function, so
that only the matching differs; both must give the same AP to the last bit. Seconds are medians; the ratio is of one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from _detection_sets import synthetic
from _voc_loop import evaluate_loop

from ssdconv.parity.accuracy.voc import PRESETS, evaluate_voc


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rule = PRESETS["devkit"]
    report = {}
    for detections in (100_000, 990_000):
        truth, found = synthetic(4952, 20, 14976, detections, difficult=0.2)
        own: list[float] = []
        for _ in range(rounds):
            start = time.perf_counter()
            scores = evaluate_voc(truth, found, rule)
            own.append(time.perf_counter() - start)
        start = time.perf_counter()
        ap, _ = evaluate_loop(truth, found, rule, shortcut=True)
        loop = time.perf_counter() - start
        seconds = statistics.median(own)
        report[str(detections)] = {
            "seconds": round(seconds, 4),
            "loop_seconds": round(loop, 3),
            "ratio": round(loop / seconds, 1),
            "equal": list(scores.ap) == ap,
            "mAP": scores.mean,
        }
    print(json.dumps({"rounds": rounds, "detections": report}, indent=1))


if __name__ == "__main__":
    main()
