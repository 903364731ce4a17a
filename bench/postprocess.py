"""Post-processing (softmax, decode, NMS, limits) of SSD300 heads: ours against per-class loops, in one run.

Peers, all with Caffe's rule (score > 0.01, 400 per class, IoU <= 0.45, 200 per image) on the same heads:

- ``loop_c``: torch, one Python loop over classes, each calling greedy NMS compiled from C at ``-O3`` (needs ``cc``)
- ``loop_cv2``: the same loop calling ``cv2.dnn.NMSBoxes``
- ``loop_torch``: the same loop with NMS in torch alone (overlap matrix, walk over the kept boxes)
- ``opencv_layer``: OpenCV's own DetectionOutput layer on the softmax output

Heads are seeded. "spread": candidates evenly over classes; "objects": clusters of overlapping boxes in a few classes,
as a trained net gives them. Prints JSON: milliseconds per image (best and median of
interleaved rounds), the ratio ours/peer of the best, and the machine's load: with more jobs than cores, calls that use
several threads wait for each other and the figures say little.

    python bench/postprocess.py [--threads 2] [--rounds 30]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ssdconv.ssd_ref.box_sizes import caffe_box_sizes
from ssdconv.ssd_ref.boxes import decode, iou_matrix
from ssdconv.ssd_ref.config import Postprocess, PriorMap
from ssdconv.ssd_ref.postprocess import detect_with
from ssdconv.ssd_ref.priors import Priors

CLASSES = 21
RULE = Postprocess()

NMS_C = """
int nms(const float *b, int n, float limit, long long *kept) {
  int count = 0;
  for (int i = 0; i < n; i++) {
    const float *p = b + 4 * i;
    float w = p[2] - p[0], h = p[3] - p[1], own = (w < 0 || h < 0) ? 0 : w * h;
    int keep = 1;
    for (int k = 0; k < count && keep; k++) {
      const float *q = b + 4 * kept[k];
      float x0 = p[0] > q[0] ? p[0] : q[0], y0 = p[1] > q[1] ? p[1] : q[1];
      float x1 = p[2] < q[2] ? p[2] : q[2], y1 = p[3] < q[3] ? p[3] : q[3];
      if (x1 > x0 && y1 > y0) {
        float i_area = (x1 - x0) * (y1 - y0), qw = q[2] - q[0], qh = q[3] - q[1];
        float other = (qw < 0 || qh < 0) ? 0 : qw * qh;
        keep = i_area / (own + other - i_area) <= limit;
      }
    }
    if (keep) kept[count++] = i;
  }
  return count;
}
"""


def compiled_nms(folder: Path) -> Callable[[Tensor, Tensor], Tensor] | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "nms.c", folder / "nms.so"
    source.write_text(NMS_C)
    subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
    nms = ctypes.CDLL(str(library)).nms
    nms.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_void_p]

    def run(boxes: Tensor, scores: Tensor) -> Tensor:
        kept = torch.empty(len(boxes), dtype=torch.int64)
        return kept[: nms(boxes.data_ptr(), len(boxes), RULE.nms_threshold, kept.data_ptr())]

    return run


def cv2_nms(boxes: Tensor, scores: Tensor) -> Tensor:
    corners = boxes.numpy().astype(np.float64)
    corners[:, 2:] -= corners[:, :2]
    kept = cv2.dnn.NMSBoxes(corners, scores.numpy(), 0.0, RULE.nms_threshold)
    return torch.as_tensor(np.asarray(kept).reshape(-1), dtype=torch.int64)


def torch_nms(boxes: Tensor, scores: Tensor) -> Tensor:
    clear = iou_matrix(boxes, boxes) <= RULE.nms_threshold
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            alive &= clear[i]
    return torch.tensor(kept, dtype=torch.int64)


def class_loop(loc: Tensor, conf: Tensor, priors: Priors, nms: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Rows (label, score, box) per image, best first."""
    every, out = conf.softmax(-1), []
    for image in range(len(loc)):
        boxes = decode(loc[image], priors.centers, priors.variances, "center_size")
        rows = []
        for label in range(1, CLASSES):
            scores = every[image, :, label]
            index = (scores > RULE.score_threshold).nonzero().squeeze(1)
            if not len(index):
                continue
            best, order = scores[index].sort(descending=True, stable=True)
            best, order = best[: RULE.top_k], order[: RULE.top_k]
            chosen = boxes[index[order]]
            kept = nms(chosen, best)
            rows.append(torch.cat([torch.full((len(kept), 1), label), best[kept, None], chosen[kept]], 1))
        found = torch.cat(rows) if rows else torch.empty(0, 6)
        out.append(found[found[:, 1].argsort(descending=True, stable=True)[: RULE.keep_top_k]])
    return out


def opencv_layer(priors: Priors) -> Callable[[Tensor, Tensor], object]:
    """OpenCV's DetectionOutput as a network of one layer; softmax in torch before it."""
    count = len(priors)
    text = f"""
    input: "loc" input_shape {{ dim: 1 dim: {count * 4} }}
    input: "conf" input_shape {{ dim: 1 dim: {count * CLASSES} }}
    input: "prior" input_shape {{ dim: 1 dim: 2 dim: {count * 4} }}
    layer {{ name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
      detection_output_param {{ num_classes: {CLASSES} share_location: true background_label_id: 0
        nms_param {{ nms_threshold: {RULE.nms_threshold} top_k: {RULE.top_k} }} keep_top_k: {RULE.keep_top_k}
        code_type: CENTER_SIZE confidence_threshold: {RULE.score_threshold} }} }}"""
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    net.setInput(torch.stack([priors.corners, priors.variances]).view(1, 2, -1).numpy(), "prior")

    def run(loc: Tensor, conf: Tensor) -> object:
        scores, out = conf.softmax(-1), []
        for image in range(len(loc)):
            net.setInput(loc[image].reshape(1, -1).numpy(), "loc")
            net.setInput(scores[image].reshape(1, -1).numpy(), "conf")
            out.append(net.forward())
        return out

    return run


def ssd300_priors() -> Priors:
    sizes, maps = (30, 60, 111, 162, 213, 264, 315), []
    for index, (grid, step) in enumerate(zip((38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300), strict=True)):
        ratios = (2,) if index in (0, 4, 5) else (2, 3)
        cells = caffe_box_sizes(sizes[index : index + 1], sizes[index + 1 : index + 2], ratios)
        maps.append(PriorMap((grid, grid), (step, step), cells))
    return Priors.of(maps, (300, 300))


def heads(kind: str, candidates: int, batch: int, priors: Priors) -> tuple[Tensor, Tensor]:
    """Seeded loc and conf whose scores pass 0.01 about ``candidates`` times per image."""
    make = torch.Generator().manual_seed(7)
    loc = torch.randn(batch, len(priors), 4, generator=make) * 0.5
    conf = torch.randn(batch, len(priors), CLASSES, generator=make)
    if kind == "objects":
        conf *= 0.3
        for image in range(batch):
            low = torch.rand(6, 2, generator=make) * 0.7
            objects = torch.cat([low, low + 0.1 + torch.rand(6, 2, generator=make) * 0.4], 1)
            labels = torch.randint(1, CLASSES, (6,), generator=make)
            conf[image, :, labels] += 12 * iou_matrix(priors.corners, objects)
    low, high = 0.0, 30.0
    for _ in range(30):  # the background logit that gives the wanted number of candidates
        shift = (low + high) / 2
        trial = conf.clone()
        trial[..., 0] += shift
        passing = (trial.softmax(-1)[..., 1:] > RULE.score_threshold).sum().item() / batch
        low, high = (shift, high) if passing > candidates else (low, shift)
    conf[..., 0] += (low + high) / 2
    return loc, conf


def measure(runs: dict[str, Callable[[], object]], rounds: int, batch: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3 / batch)
    return {name: values[2:] for name, values in times.items()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    priors, rows = ssd300_priors(), []
    with tempfile.TemporaryDirectory() as folder:
        peers = {"loop_c": compiled_nms(Path(folder)), "loop_cv2": cv2_nms, "loop_torch": torch_nms}
        layer = opencv_layer(priors)
        for kind in ("spread", "objects"):
            for candidates in (385, 6500):
                for batch in (1, 8):
                    loc, conf = heads(kind, candidates, batch, priors)
                    runs: dict[str, Callable[[], object]] = {
                        "ours": lambda loc=loc, conf=conf: detect_with(loc, conf, priors, RULE),
                        "opencv_layer": lambda loc=loc, conf=conf: layer(loc, conf),
                    }
                    for name, nms in peers.items():
                        if nms is None:
                            print(f"{name}: no C compiler, not measured", file=sys.stderr)
                            continue
                        runs[name] = lambda loc=loc, conf=conf, nms=nms: class_loop(loc, conf, priors, nms)
                        if name != "loop_cv2":  # NMSBoxes has its own overlap arithmetic
                            check(runs["ours"](), runs[name]())
                    passing = (conf.softmax(-1)[..., 1:] > RULE.score_threshold).sum().item() / batch
                    slow = kind == "spread" and candidates > 1000
                    times = measure(runs, max(options.rounds // 5, 3) if slow else options.rounds, batch)
                    best = {name: min(values) for name, values in times.items()}
                    rows.append(
                        {
                            "heads": kind,
                            "candidates": round(passing),
                            "batch": batch,
                            "ms": best,
                            "ms_median": {name: statistics.median(values) for name, values in times.items()},
                            "ratio": {name: best["ours"] / value for name, value in best.items() if name != "ours"},
                        }
                    )
    facts = {"priors": len(priors), "classes": CLASSES, "threads": options.threads, "load": os.getloadavg()[0]}
    print(json.dumps({**facts, "rows": rows}, indent=1))


def check(ours: object, theirs: object) -> None:
    """Stop when the two do not give the same detections."""
    for mine, other in zip(ours, theirs, strict=True):  # type: ignore[call-overload]
        rows = torch.cat([mine.labels[:, None], mine.scores[:, None], mine.boxes], 1)
        if not torch.equal(rows, other):
            raise SystemExit("the peers do not agree: no timing")


if __name__ == "__main__":
    main()
