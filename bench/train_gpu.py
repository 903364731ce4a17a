"""Training on a GPU: images per second, share of the GPU's dense bfloat16 rate, and time spent waiting for data.

Three measurements in one run, each with its peer or ceiling beside it:

* the rate of an 8192 x 8192 x 8192 bfloat16 matrix product through torch on random numbers, as the ceiling;
* steps of ``ssd_ref.train.step`` on a batch that lies on the GPU, for each network and batch size, in float32, in bfloat16
  (autocast), and in bfloat16 with ``torch.compile``; operations are counted by torch on the same step;
* with ``--data``: whole runs of the training loop on a VOC data set, with what the loop itself reports.

Needs CUDA. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from train_step import fresh, make_batch

from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.train.loader import Batch
from ssdconv.ssd_ref.train.norms import training_mode
from ssdconv.ssd_ref.train.optimizer import make_optimizer
from ssdconv.ssd_ref.train.recipes import recipe_of
from ssdconv.ssd_ref.train.step import Step

RECIPES = {"ssd300_voc": "caffe", "ssd_512_resnet50_v1_voc": "gluon"}


def seconds_of(run: Callable[[], Any], rounds: int) -> float:
    """Median seconds of a call, by CUDA events, after two that do not count."""
    times = []
    for number in range(rounds + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if number >= 2:
            times.append(start.elapsed_time(end) / 1000)
    return sorted(times)[len(times) // 2]


def ceiling() -> float:
    """Dense bfloat16 rate of a large product, in operations per second."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds_of(lambda: a @ b, 20)


def operations(step: Step, batch: Batch) -> int:
    """Operations of one step, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step.gradients(batch)
    return counter.get_total_flops()


def steps(name: str, size: int, peak: float, rounds: int) -> dict[str, Any]:
    """One network at one batch size."""
    recipe = recipe_of(RECIPES.get(name, "caffe"))
    made = make_batch(size, network(name).pixels.size)
    batch = Batch(
        made.images.cuda().to(memory_format=torch.channels_last), made.targets.to(torch.device("cuda")), made.indices
    )
    found: dict[str, Any] = {"network": name, "batch_size": size}
    for kind, amp, compiled in (
        ("float32", False, False),
        ("bfloat16", True, False),
        ("bfloat16 compiled", True, True),
    ):
        try:
            model = fresh(name).cuda().to(memory_format=torch.channels_last)
            step = Step(training_mode(model, recipe), recipe, make_optimizer(model, recipe, 1e-6), amp=amp)
            if "operations_per_image" not in found:
                found["operations_per_image"] = operations(step, batch) / size
            if compiled:
                began = time.perf_counter()
                step.net = torch.compile(model)
                step(batch)
                torch.cuda.synchronize()
                found["seconds_to_compile"] = round(time.perf_counter() - began, 1)
            torch.cuda.reset_peak_memory_stats()
            taken = seconds_of(lambda step=step: step(batch), rounds)  # type: ignore[misc]
            rate = size / taken
            found[kind] = {
                "images_per_s": round(rate, 1),
                "share_of_ceiling": round(rate * found["operations_per_image"] / peak, 3),
                "gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
            }
        except torch.OutOfMemoryError:
            found[kind] = "out of memory"
        finally:
            model = step = None  # type: ignore[assignment]
            torch.cuda.empty_cache()
    return found


def whole_run(data: Path, name: str, size: int, epochs: int, lr: float) -> dict[str, Any]:
    """A run of the training loop, from files on the disk to updated weights, with the held-out score at its end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ssdconv", "train", "--network", name, "--dataset", str(data), "--json"]
        command += ["--split", "train", "--eval-split", "test", "--eval-every", str(max(epochs // 4, 1))]
        command += ["--out", f"{folder}/run", "--epochs", str(epochs), "--batch-size", str(size), "--lr", str(lr)]
        command += ["--lr-mode", "cos", "--warmup", "50", "--device", "cuda", "--amp", "--cache-images"]
        command += ["--workers", str(os.cpu_count() or 1)]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found: dict[str, Any] = {"network": name, "batch_size": size, "epochs": epochs, "lr": lr}
        found |= {"exit": done.returncode, "seconds": round(time.perf_counter() - began, 1)}
        found["report"] = json.loads(done.stdout) if done.returncode == 0 else done.stderr[-2000:]
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(RECIPES))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--data", type=Path, help="a VOC data set to run the whole loop on")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(json.dumps({"not measured": "no CUDA device"}))
        return
    torch.backends.cudnn.benchmark = True
    peak = ceiling()
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "ceiling_tflops_bfloat16": round(peak / 1e12, 1),
        "steps": [],
    }
    for name in options.networks:
        for size in options.batch_sizes:
            result["steps"].append(steps(name, size, peak, options.rounds))
            print(json.dumps(result["steps"][-1]), file=sys.stderr, flush=True)
    if options.data is not None:
        result["runs"] = [whole_run(options.data, n, 32, options.epochs, options.lr) for n in options.networks]
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
