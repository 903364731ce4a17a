"""How far GluonCV's own detections move when a port reads the network wrongly, on real photos.

Two misreadings of an existing hand port: batch normalisation of the extra layers with eps 1e-5 and learned gamma (MXNet: 1e-3 and
gamma 1), and pictures resized with Pillow's bilinear filter. Weights are random unless ``--params`` gives trained ones, and
random ones answer to small changes of pixels far more than trained ones do: read the pixel figure as an upper bound. Trained
files usually hold gamma 1 (MXNet's training writes it), so the first misreading is also measured with the stored gammas at 1.
Needs MXNet (``ssdconv oracle install gluon``). Prints one JSON object.
Usage: ``python bench/gluon_misreadings.py --images FOLDER [--network NAME] [--params FILE] [--count 8]``
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdconv.converters.convert import open_source
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.oracles.gluon import GluonOracle
from ssdconv.parity.oracles.worker import Worker
from ssdconv.ssd_ref.config import NormSpec, SSDConfig, Staged
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.postprocess import detect
from ssdconv.ssd_ref.preprocess import prepare

MAKER = Worker("gluon", str(Path(__file__).resolve().parents[1] / "tests/parity/oracles/workers/gluon_maker"))


def as_ported(config: SSDConfig) -> SSDConfig:
    """The network with the port's reading of the extra layers' batch normalisation."""
    stages = tuple(
        tuple(dataclasses.replace(spec, norm=NormSpec(1e-5)) for spec in stage) for stage in config.staged.extras.stages
    )
    extras = dataclasses.replace(config.staged.extras, stages=stages)
    return dataclasses.replace(config, layers=dataclasses.replace(config.staged, extras=extras))


def run(config: SSDConfig, state: dict[str, torch.Tensor], pixels: torch.Tensor) -> list[Rows]:
    """The reference's detections of each picture."""
    model = SSD(config)
    model.load_state_dict(state)
    model.eval()
    found = []
    with torch.inference_mode():
        for picture in pixels.split(1):
            one = detect(*model(picture), config.priors, config.pixels.size, config.detect)[0].numpy()
            found.append(Rows(one["labels"], one["scores"], one["boxes"]))
    return found


def moved(truth: list[Rows], other: list[Rows]) -> dict[str, float]:
    """Of GluonCV's detections: how many have no partner (class, IoU of at least 0.5), and how far the others moved."""
    lost, overlaps, scores = 0, [], []
    for a, b in zip(truth, other, strict=True):
        low = np.maximum(a.boxes[:, None, :2], b.boxes[None, :, :2])
        high = np.minimum(a.boxes[:, None, 2:], b.boxes[None, :, 2:])
        common = np.clip(high - low, 0, None).prod(-1)
        areas = [np.prod(x.boxes[:, 2:] - x.boxes[:, :2], axis=1) for x in (a, b)]
        iou = common / (areas[0][:, None] + areas[1][None] - common)
        iou = np.where(a.labels[:, None] == b.labels[None], iou, 0)
        best = iou.argmax(1)
        for k, j in enumerate(best):
            if iou[k, j] < 0.5:
                lost += 1
            else:
                overlaps.append(iou[k, j])
                scores.append(abs(float(a.scores[k] - b.scores[j])))
    total = sum(len(a) for a in truth)
    return {
        "detections": total,
        "without_partner": round(lost / total, 4),
        "median_iou": round(float(np.median(overlaps)), 4),
        "median_score_change": round(float(np.median(scores)), 6),
        "largest_score_change": round(float(np.max(scores)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("SSDCONV_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--images", type=Path, default=shared / "data" / "images")
    parser.add_argument("--network", default="ssd_512_resnet50_v1_coco")
    parser.add_argument("--params", type=Path)
    parser.add_argument("--count", type=int, default=8)
    args = parser.parse_args()
    photos = [str(path) for path in sorted(args.images.glob("*.jpg"))[: args.count]]
    with tempfile.TemporaryDirectory() as folder:
        params = args.params
        if params is None:
            job = {"do": "build", "network": args.network, "seed": 3, "size": 300, "folder": folder, "stem": "net"}
            answer = MAKER.ask([{**job, "dialects": ["structural"]}])
            params = Path(answer.jobs[0]["paths"]["structural"])
        opened = open_source(params, "gluon")
        config = opened.plan.config
        with opened.table as table:
            pairs = opened.plan.mapping.forward(table)
            state: dict[str, Any] = {entry.target: torch.from_numpy(array.copy()) for entry, array in pairs}
        pixels = prepare(photos, config.pixels)
        oracle = GluonOracle(params, config, nodes=["ssd0_softmax0"])
        jobs = [oracle.job() for _ in photos]
        answer = MAKER.ask(jobs, {f"{k}/input": pixels[k : k + 1].numpy() for k in range(len(photos))}, timeout=1800)
        truth = [oracle.read(answer.arrays.under(f"{k}/"), 1).detections[0] for k in range(len(photos))]  # type: ignore[index]
    result: dict[str, Any] = {
        "bench": "gluon_misreadings",
        "network": config.name,
        "weights": str(args.params) if args.params else "random, seed 3",
        "photos": len(photos),
        "reference_itself": moved(truth, run(config, state, pixels)),
    }
    if isinstance(config.layers, Staged) and config.layers.extras.stages[0][0].norm is not None:
        ones = {
            k: torch.ones_like(v) if k.startswith("extras") and k.endswith("norm.weight") else v
            for k, v in state.items()
        }
        base = run(config, ones, pixels)
        result["bn_eps_1e-5_and_learned_gamma"] = moved(truth, run(as_ported(config), state, pixels))
        result["bn_eps_1e-5_with_gamma_1_in_the_file"] = moved(base, run(as_ported(config), ones, pixels))
    pillow = prepare(photos, dataclasses.replace(config.pixels, resize="pil_bilinear"))
    result["pil_bilinear"] = moved(truth, run(config, state, pillow))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
