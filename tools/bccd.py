"""A real data set learnt from a converted network: BCCD's blood cells, from OpenCV's face detector (res10, Caffe).

Converts the face detector for larger pixels, fine-tunes it on the set's part train with ``ssdconv train``, scores the best
checkpoint (by part val) on part test, and draws detections on two test images. docs/bccd.md has the results.

    python tools/bccd.py --data bccd_voc.tar.xz --caffemodel res10_300x300_ssd_iter_140000.caffemodel \
        --prototxt deploy.prototxt --out runs/bccd [--device cuda] [--epochs 20] [--picture docs/images/bccd.jpg]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from ssdconv.cli import main as ssdconv
from ssdconv.data.custom import open_custom
from ssdconv.errors import OutputError
from ssdconv.parity.accuracy.evaluate import evaluate
from ssdconv.parity.accuracy.files import read_stream
from ssdconv.parity.accuracy.run import run_detector
from ssdconv.ssd_ref.checkpoint import load
from ssdconv.ssd_ref.draw import draw
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.image_file import read_image

SHOWN = 0.5


def run(*words: str) -> None:
    """One command line of ssdconv; ends the script with its exit code where it fails."""
    print("ssdconv " + " ".join(words), file=sys.stderr, flush=True)
    code = ssdconv(list(words))
    if code:
        raise SystemExit(code)


def start(options: argparse.Namespace) -> Path:
    """The converted face detector with an input of ``--pixels``: the prototxt says the size, weights and priors stay."""
    out: Path = options.out
    prototxt, weights = out / "deploy.prototxt", out / "faces.pth"
    out.mkdir(parents=True, exist_ok=True)
    prototxt.write_text(re.sub(r"dim: 300\b", f"dim: {options.pixels}", options.prototxt.read_text()))
    run("caffe2pt", str(options.caffemodel), str(weights), "--prototxt", str(prototxt))
    return weights


def score(checkpoint: Path, data: Path, device: str) -> dict[str, object]:
    """mAP with its bootstrap interval, and AP per class, on part test (VOC2007's 11 points)."""
    held = open_custom(data, "test")
    model = load(checkpoint, device)
    with tempfile.TemporaryDirectory() as folder:
        run_detector(model, held, Path(folder), batch_size=8, resume=False)
        _, found = read_stream(sorted(Path(folder).glob("*.jsonl")))
    result = evaluate(held, found, input_size=model.config.pixels.size, worst=0)
    interval = result.intervals["mAP"]
    return {
        "images": len(held),
        "mAP": result.numbers["mAP"],
        "interval": [interval.low, interval.high],
        "classes": {c.name: c.ap for c in result.classes},
    }


def picture(checkpoint: Path, data: Path, target: Path) -> None:
    """Two test images side by side with what is found above a score of a half."""
    held, model = open_custom(data, "test"), load(checkpoint)
    shown = []
    for record in (held[0], held[len(held) // 2]):
        assert record.path is not None
        image = read_image(record.path)
        found = model.detect([image], threshold=SHOWN)[0]
        shown.append(draw(image, found, model.config.class_names))
    done, data_ = cv2.imencode(".jpg", np.hstack(shown), [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not done:
        raise OutputError("the picture could not be encoded", where=str(target))
    with atomic_path(target) as temporary:
        temporary.write_bytes(data_.tobytes())


def main() -> int:
    """Convert, train, score, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="bccd_voc.tar.xz, or the folder BCCD")
    parser.add_argument("--caffemodel", type=Path, help="res10_300x300_ssd_iter_140000.caffemodel")
    parser.add_argument("--prototxt", type=Path, help="its deploy.prototxt")
    parser.add_argument("--out", type=Path, required=True, help="folder to work in")
    parser.add_argument("--pixels", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="score and draw this one, and train nothing")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    data, began = options.data, time.perf_counter()
    if data.is_file():
        options.out.mkdir(parents=True, exist_ok=True)
        shutil.unpack_archive(data, options.out)
        data = options.out / "BCCD"
    best = options.checkpoint
    if best is None:
        if options.caffemodel is None or options.prototxt is None:
            parser.error("training starts from --caffemodel and --prototxt")
        weights, folder = start(options), options.out / "run"
        given = ["--finetune", str(weights), "--dataset", str(data), "--out", str(folder), "--device", options.device]
        recipe = [
            "--recipe",
            "chainer",
            "--without",
            "expand",
            "--augment",
            "fast",
            "--batch-size",
            "8",
            "--lr",
            "0.004",
        ]
        length = ["--lr-mode", "cos", "--warmup", "20", "--epochs", str(options.epochs), "--seed", str(options.seed)]
        run("train", *given, *recipe, *length, "--cache-images", "--workers", str(options.workers))
        best = folder / "best.pth"
    print(json.dumps({**score(best, data, options.device), "seconds": round(time.perf_counter() - began)}, indent=1))
    if options.picture:
        picture(best, data, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
