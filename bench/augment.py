"""Training samples per second and core (500x375 photos to 300x300, one thread): fast and faithful augmentation, and the
pipeline as it is usually written with numpy and OpenCV, on the same images in the same run, round by round in turns.

Every way ends with a float32 (3, 300, 300) input. ``decoded``: from images in memory (``cache=True``); ``jpeg``: with decoding.
``loader``: images per second of the loader with one worker thread, fast, decoding. Photos of ``SSDCONV_SHARED`` where there are
any, else generated ones. Prints one JSON object; ratios are of median CPU times, which
other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from _plain_augment import augment as plain

from ssdconv.data.coco import CocoDataset, open_coco
from ssdconv.data.images import record_image
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.train.augment.sources import SOURCES
from ssdconv.train.loader import EpochSampler, Loader, TrainingSet, _ready
from ssdconv.train.recipe import Recipe

CONFIG = replace(network("ssd300_voc"), class_names=())
SHARED = Path(os.environ.get("SSDCONV_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data" / "images"


def photos() -> list[np.ndarray]:
    """19 BGR images of about 500x375."""
    found = [cv2.imread(str(p)) for p in sorted(SHARED.glob("*.jpg"))] if SHARED.is_dir() else []
    if found:
        return found
    rng = np.random.default_rng(0)
    made = []
    for _ in range(19):
        octaves = [
            cv2.resize(rng.integers(0, 256, (6 * 2**k, 8 * 2**k, 3)).astype(np.float32), (500, 375)) for k in range(6)
        ]
        made.append(np.clip(sum(o / 2 ** (k / 2) for k, o in enumerate(octaves)) / 3.2, 0, 255).astype(np.uint8))
    return made


def write(folder: Path) -> CocoDataset:
    """The photos as a data set of three objects each."""
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for n, image in enumerate(photos()):
        cv2.imwrite(str(folder / f"{n}.jpg"), image)
        height, width = image.shape[:2]
        images.append({"id": n, "width": width, "height": height, "file_name": f"{n}.jpg"})
        for k in range(3):
            x, y = rng.uniform(0, 0.6, 2) * (width, height)
            w, h = rng.uniform(0.15, 0.4, 2) * (width, height)
            annotations.append({"id": 3 * n + k, "image_id": n, "category_id": k, "bbox": [x, y, w, h]})
    names = [{"id": k, "name": f"class{k}"} for k in range(20)]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    return open_coco(annotations=folder / "a.json", images=folder)


def ways(dataset: CocoDataset, cache: bool) -> dict[str, Callable[[int, int], object]]:
    """Name -> function of (index, epoch)."""
    kept = {i: record_image(dataset[i]) for i in range(len(dataset))}

    def usual(index: int, epoch: int) -> object:
        record = dataset[index]
        image = kept[index] if cache else record_image(record)
        return plain(image, record.boxes, record.labels, np.random.default_rng((epoch, index)), 300, CONFIG.pixels.mean)

    found: dict[str, Callable[[int, int], object]] = {"plain": usual}
    for source, spec in SOURCES.items():
        for mode in ("faithful", "fast"):
            recipe = Recipe(source, source, "bench", augment=spec)
            whole = TrainingSet(dataset, CONFIG, recipe, mode=mode, cache=cache)
            found[f"{source} {mode}"] = lambda i, e, s=whole: _ready(s.sample(i, e).image, CONFIG.pixels)
    return found


def measure(made: dict[str, Callable[[int, int], object]], count: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of CPU time per image of each way; one round of each after the other, so that a busy machine hits all alike."""
    for way in made.values():
        for index in range(count):
            way(index, 0)
    times: dict[str, list[float]] = {name: [] for name in made}
    for epoch in range(1, rounds + 1):
        for name, way in made.items():
            start = time.process_time()
            for index in range(count):
                way(index, epoch)
            times[name].append((time.process_time() - start) / count * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    result: dict[str, object] = {"photos": "shared" if SHARED.is_dir() else "generated", "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder))
        for kind, cache in (("decoded", True), ("jpeg", False)):
            times = measure(ways(dataset, cache), len(dataset), options.rounds)
            rows = {}
            for source in SOURCES:
                fast, faithful = times[f"{source} fast"], times[f"{source} faithful"]
                rows[source] = {
                    "fast_ms": round(fast, 3),
                    "faithful_ms": round(faithful, 3),
                    "faithful_over_fast": round(faithful / fast, 2),
                    "plain_over_fast": round(times["plain"] / fast, 2),
                }
            result[kind] = {
                "plain_ms": round(times["plain"], 3),
                "fast_images_per_s": round(1e3 / times["caffe fast"]),
                **rows,
            }
        result["loader"] = {"images_per_s": round(loader_rate(dataset, options.rounds))}
    print(json.dumps(result))


def loader_rate(dataset: CocoDataset, rounds: int) -> float:
    """Images per second of whole batches, decoded and normalised, with one worker thread."""
    whole = TrainingSet(dataset, CONFIG, Recipe("caffe", "caffe", "bench", augment=SOURCES["caffe"]), mode="fast")
    loader = Loader(whole, EpochSampler(len(dataset), 8), workers=1)
    rates = []
    for epoch in range(rounds):
        start = time.perf_counter()
        count = sum(len(batch.indices) for batch in loader.epoch(epoch))
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates)


if __name__ == "__main__":
    main()
