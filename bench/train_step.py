"""One training step (SSD300-VGG16, seeded weights, random pixels, VOC-like objects): ours against a plain PyTorch SSD loop.

Peer: the same network in contiguous (NCHW) memory format, matching and hard negatives image by image in Python as most SSD
ports do, and SGD without fused or multi-tensor kernels; operations of torch only, float32. Ours: ``ssd_ref.train.step`` in
channels_last with batched matching and the recipe's optimizer, in float32 and in bfloat16 autocast. All with the same number of
threads, the three by turns, best round of each; the first losses of peer and ours must agree. Prints one JSON object; the marks
are 1.2 x in float32 and 2 x in bfloat16. ``cpu`` ratios count processor seconds, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdconv.ssd_ref.boxes import iou_matrix
from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.loader import Batch
from ssdconv.train.loop import TrainStep
from ssdconv.train.matching import Targets
from ssdconv.train.optimizer import make_optimizer
from ssdconv.train.recipes import recipe_of
from ssdconv.train.start import training_mode


def make_batch(count: int, size: tuple[int, int]) -> Batch:
    """Random pixels; one to six objects an image."""
    generator = torch.Generator().manual_seed(0)
    boxes, labels = [], []
    for number in range(count):
        objects = 1 + number % 6
        corner = torch.rand(objects, 2, generator=generator) * 0.6
        side = torch.rand(objects, 2, generator=generator) * 0.35 + 0.05
        boxes.append(torch.cat([corner, corner + side], 1))
        labels.append(torch.randint(1, 21, (objects,), generator=generator))
    pixels = torch.randn(count, 3, *size, generator=generator) * 60
    return Batch(pixels, Targets.pad(boxes, labels), tuple(range(count)))


def plain_match(priors: Priors, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One image: class of each prior, and the offsets to learn. Every object first gets its best free prior, best pair first."""
    overlap = iou_matrix(priors.corners, boxes)
    value, owner = overlap.max(1)
    owner = torch.where(value >= 0.5, owner, -1)
    left = overlap.clone()
    for _ in range(len(boxes)):
        place = int(left.argmax())
        prior, thing = divmod(place, len(boxes))
        if left[prior, thing] <= 1e-6:
            break
        owner[prior] = thing
        left[prior, :] = -1
        left[:, thing] = -1
    classes = torch.where(owner >= 0, labels[owner.clamp_min(0)], 0)
    mine = boxes[owner.clamp_min(0)]
    centre, side = (mine[:, :2] + mine[:, 2:]) / 2, mine[:, 2:] - mine[:, :2]
    offset = (centre - priors.centers[:, :2]) / priors.centers[:, 2:] / priors.variances[:, :2]
    scale = torch.log(side / priors.centers[:, 2:]) / priors.variances[:, 2:]
    return classes, torch.cat([offset, scale], 1)


def plain_step(model: SSD, priors: Priors, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """The step of the peer."""
    optimizer.zero_grad()
    loc, conf = model(batch.images)
    loc_loss = loc.new_zeros(())
    conf_loss = loc.new_zeros(())
    positives = 0
    for image in range(len(loc)):
        keep = batch.targets.valid[image]
        with torch.no_grad():
            classes, wanted = plain_match(priors, batch.targets.boxes[image][keep], batch.targets.labels[image][keep])
        matched = classes > 0
        loc_loss = loc_loss + F.smooth_l1_loss(loc[image][matched], wanted[matched], reduction="sum")
        each = F.cross_entropy(conf[image], classes, reduction="none")
        hardest = each.detach().clone()
        hardest[matched] = -1.0
        with torch.no_grad():
            close = iou_matrix(priors.corners, batch.targets.boxes[image][keep]).max(1).values >= 0.5
        hardest[close] = -1.0
        negatives = hardest.topk(3 * int(matched.sum())).indices
        conf_loss = conf_loss + each[matched].sum() + each[negatives].sum()
        positives += int(matched.sum())
    loss = (loc_loss + conf_loss) / max(positives, 1)
    loss.backward()
    optimizer.step()
    return loss.item()


def fresh(name: str) -> SSD:
    """The network with seeded weights."""
    config = network(name)
    model = SSD(config)
    model.load_state_dict({n: torch.from_numpy(t) for n, t in seeded_tensors(config).items()})
    return model.train()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ssd300_voc")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = recipe_of("caffe")
    batch = make_batch(options.batch_size, network(options.network).pixels.size)
    runs: dict[str, Callable[[], float]] = {}
    plain = fresh(options.network)
    priors = Priors.of(plain.config.priors, plain.config.pixels.size)
    sgd = torch.optim.SGD(plain.parameters(), 1e-6, momentum=0.9, weight_decay=5e-4, foreach=False, fused=False)
    runs["plain"] = lambda: plain_step(plain, priors, sgd, batch)
    for name, amp in (("float32", False), ("bfloat16", True)):
        model = fresh(options.network).to(memory_format=torch.channels_last)
        step = TrainStep(training_mode(model, recipe), recipe, make_optimizer(model, recipe, 1e-6), amp=amp)
        runs[name] = lambda step=step: step(batch).total  # type: ignore[misc]
    losses = {name: run() for name, run in runs.items()}  # the first step also makes kernels and buffers
    wall = dict.fromkeys(runs, float("inf"))
    cpu = dict.fromkeys(runs, float("inf"))
    for _ in range(options.rounds):
        for name, run in runs.items():
            start, busy = time.perf_counter(), time.process_time()
            run()
            wall[name] = min(wall[name], time.perf_counter() - start)
            cpu[name] = min(cpu[name], time.process_time() - busy)
    print(
        json.dumps(
            {
                "peer": "plain PyTorch SSD loop: contiguous format, matching per image, for-loop SGD, float32",
                "network": options.network,
                "batch_size": options.batch_size,
                "threads": torch.get_num_threads(),
                "images_per_s": {name: round(options.batch_size / t, 3) for name, t in wall.items()},
                "ratio_float32": round(wall["plain"] / wall["float32"], 2),
                "ratio_bfloat16": round(wall["plain"] / wall["bfloat16"], 2),
                "cpu_ratio_float32": round(cpu["plain"] / cpu["float32"], 2),
                "cpu_ratio_bfloat16": round(cpu["plain"] / cpu["bfloat16"], 2),
                "marks": {"float32": 1.2, "bfloat16": 2.0},
                "first_loss": {name: round(value, 5) for name, value in losses.items()},
            },
            indent=2,
        )
    )
    if abs(losses["plain"] - losses["float32"]) > 1e-3 * losses["plain"]:
        raise SystemExit("the two steps do not compute the same loss")


if __name__ == "__main__":
    main()
