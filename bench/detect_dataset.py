"""Detection over a data set (SSD300-VGG16, seeded weights, 500x375 JPEGs): our runner against a plain loop.

Peer: one image after the other in one process, decoded, resized, put through the same network in contiguous (NCHW) memory
format, and post-processed the same way. Ours: channels_last, images decoded and resized by another thread, batches of one, the CPU's default.
Both in float32 with the same number of threads, interleaved, best of ``--repeat``; detections must agree. Prints one JSON
object with the ratio and the share of time in which our network waited for images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from ssdconv.data.coco import open_coco
from ssdconv.parity.accuracy.files import read_stream
from ssdconv.parity.accuracy.run import run_detector
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.preprocess import prepare

VOC = network("ssd300_voc").class_names[1:]


def make_images(folder: Path, count: int) -> Path:
    """Smooth random pictures with a COCO-form annotation file; returns that file."""
    rng = np.random.default_rng(0)
    images = []
    for index in range(1, count + 1):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = cv2.resize(small, (500, 375), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index:06d}.jpg"), picture)
        images.append({"id": index, "file_name": f"{index:06d}.jpg", "width": 500, "height": 375})
    categories = [{"id": number, "name": name} for number, name in enumerate(VOC, 1)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    config = network("ssd300_voc")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        weights = checkpoint.save(root / "net.safetensors", config, seeded_tensors(config))
        plain, fast = checkpoint.load(weights), checkpoint.load(weights)
        fast.to(memory_format=torch.channels_last)
        dataset = open_coco(annotations=make_images(root, options.images), images=root, name="bench")
        paths = [record.path for record in dataset]
        loop_best, ours_best, waiting = float("inf"), float("inf"), 0.0
        for turn in range(options.repeat):
            started = time.perf_counter()
            direct = []
            with torch.inference_mode():
                for path in paths:
                    image = cv2.imread(str(path))
                    found = plain.postprocess(*plain(prepare([image], config.pixels)))[0]
                    direct.append(found.scaled(image.shape[1], image.shape[0]))
            loop_best = min(loop_best, time.perf_counter() - started)
            stats = run_detector(fast, dataset, root / f"run{turn}", batch_size=1, workers=1)
            if stats.seconds < ours_best:
                ours_best, waiting = stats.seconds, stats.waiting
        _, streamed = read_stream([root / "run0" / "detections.0.jsonl"])
        gap = max(
            float(np.abs(np.sort(streamed.scores[streamed.image == i]) - np.sort(d.scores.numpy())).max(initial=0))
            if (streamed.image == i).sum() == len(d)
            else float("nan")
            for i, d in enumerate(direct)
        )
        print(
            json.dumps(
                {
                    "peer": "per-image loop, contiguous format, same network and post-processing",
                    "network": "ssd300_voc",
                    "images": options.images,
                    "threads": torch.get_num_threads(),
                    "loop_images_per_s": round(options.images / loop_best, 2),
                    "ours_images_per_s": round(options.images / ours_best, 2),
                    "ratio": round(loop_best / ours_best, 2),
                    "share_of_time_waiting": round(waiting / ours_best, 3),
                    "largest_score_difference": gap,
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
