"""How sharp and how heavy is activation parity? JSON on stdout.

For each network given: time and memory of one ``verify``, the largest ratios of a correct conversion, and a sweep in which
every single tensor is multiplied by a factor in turn: is it noticed, at its own layer, and by how much?

    python bench/parity.py --source x.caffemodel --prototxt deploy.prototxt --factor 1.0002
    python bench/parity.py --seeded ssd300_voc ssd512_voc --no-sweep
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ssdconv.converters.convert import convert
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read, save


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(weights: Path, source: Path, prototxt: Path | None) -> dict[str, Any]:
    before, started = peak_mb(), time.perf_counter()
    report = verify(weights, source, prototxt=prototxt)
    probes = [p for i in report.inputs for p in i.probes]
    small = [p for p in probes if p.measured.size < 1024]
    return {
        "passed": report.passed,
        "probes": report.probes,
        "seconds": round(time.perf_counter() - started, 2),
        "peak_mb_before": round(before),
        "peak_mb": round(peak_mb()),
        "max_ratio": round(max(p.ratio for p in probes), 2),
        "rms_ratio": round(max(p.rms_ratio for p in probes), 2),
        "max_ratio_few": round(max((p.ratio for p in small), default=0), 2),
        "rms_ratio_few": round(max((p.rms_ratio for p in small), default=0), 2),
        "boundary": sum(i.detections.boundary for i in report.inputs if i.detections is not None),
    }


def sweep(weights: Path, source: Path, prototxt: Path | None, factor: float, folder: Path) -> dict[str, Any]:
    checkpoint = read(weights)
    rows = []
    for name, tensor in checkpoint.state_dict.items():
        save(folder / "one.pth", checkpoint.config, checkpoint.state_dict | {name: tensor * factor})
        report = verify(folder / "one.pth", source, prototxt=prototxt)
        first = [i.first_divergent for i in report.inputs if i.first_divergent is not None]
        layer = name.rsplit(".", 1)[0]
        own = [p for i in report.inputs for p in i.probes if p.reference == layer]
        best = max(own, key=lambda p: p.excess)
        at_own = report.first_divergent in {p.source for p in own}
        rows.append(
            {
                "tensor": name,
                "noticed": bool(first),
                "first_divergent": report.first_divergent,
                "at_own_layer": at_own,
                "bits_differ": report.tensors is not None and not report.tensors,
                "max_ratio": round(best.ratio, 2),
                "rms_ratio": round(best.rms_ratio, 2),
                "largest_element": float(tensor.abs().max()),
            }
        )
    return {
        "factor": factor,
        "tensors": len(rows),
        "noticed_by_activations": sum(r["noticed"] for r in rows),
        "at_own_layer": sum(r["at_own_layer"] for r in rows),
        "caught_by_bits": sum(r["bits_differ"] for r in rows),
        "missed_by_activations": [r for r in rows if not r["noticed"]],
        "weakest": sorted((r for r in rows if r["noticed"]), key=lambda r: max(r["max_ratio"] / 8, r["rms_ratio"] / 5))[
            :3
        ],
    }


def seeded(name: str, folder: Path) -> tuple[Path, Path]:
    from ssdconv.converters.caffe.source import write
    from ssdconv.converters.plan import Request
    from ssdconv.ssd_ref.model import seeded_tensors
    from ssdconv.ssd_ref.networks.registry import network

    config = network(name, "caffe", None)
    files = write(config, seeded_tensors(config), folder / f"{name}.caffemodel", Request())
    return files[0], files[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, nargs="*", default=[], help=".caffemodel files")
    parser.add_argument(
        "--prototxt", type=Path, nargs="*", default=[], help="their deploy prototxts, in the same order"
    )
    parser.add_argument("--seeded", nargs="*", default=[], help="named networks with seeded weights")
    parser.add_argument("--factor", type=float, default=1.0002)
    parser.add_argument("--no-sweep", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prototxts: list[Path | None] = list(args.prototxt) or [None] * len(args.source)
        files = list(zip(args.source, prototxts, strict=True)) + [seeded(name, folder) for name in args.seeded]
        for source, prototxt in files:
            print(f"{source.name} …", file=sys.stderr)
            weights = folder / "weights.pth"
            convert(source, weights, prototxt=prototxt)
            entry: dict[str, Any] = {"verify": measure(weights, source, prototxt)}
            if not args.no_sweep:
                entry["sweep"] = sweep(weights, source, prototxt, args.factor, folder)
            found[source.name] = entry
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
