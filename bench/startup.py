"""How fast the command answers: ``python bench/startup.py`` prints JSON.

Each command line runs in a fresh process, in turn with the bare interpreter (``python -c pass``) and with ``import torch``;
milliseconds are medians, ratios are to the bare interpreter of the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def milliseconds(command: list[str]) -> float:
    """Wall time of one run of ``command``.

    Raises:
        SystemExit: it failed, so its time says nothing.
    """
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    taken = (time.perf_counter() - start) * 1e3
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return taken


def checkpoint_like(folder: Path) -> Path:
    """A 105 MB safetensors file with 70 tensors, for ``inspect``."""
    import numpy as np
    from safetensors.numpy import save_file

    path = folder / "large.safetensors"
    save_file({f"tensor{i}": np.zeros(375_000, np.float32) for i in range(70)}, path)
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    tool = str(Path(sys.executable).with_name("ssdconv"))
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "ssdconv --help": [tool, "--help"],
            "ssdconv verify --help": [tool, "verify", "--help"],
            "ssdconv networks": [tool, "networks"],
            "ssdconv inspect (105 MB)": [tool, "inspect", str(checkpoint_like(Path(folder)))],
            "import ssdconv": [sys.executable, "-c", "import ssdconv"],
            "import torch": [sys.executable, "-c", "import torch"],
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for command in runs.values():
            milliseconds(command)  # byte code and file cache
        for _ in range(rounds):
            for name, command in runs.items():
                times[name].append(milliseconds(command))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    rows = {
        name: {"ms": round(ms, 1), "ratio": round(ms / medians["python -c pass"], 2)} for name, ms in medians.items()
    }
    print(json.dumps({"rounds": rounds, "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
