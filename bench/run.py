"""Run the benchmarks one after the other and merge what they print: ``python bench/run.py [NAME ...]``.

Every other script of this folder prints one JSON document on stdout. The merged document goes to stdout and to
``bench_out/bench.json``, progress to stderr. Exit code 1 when a script failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def scripts() -> dict[str, Path]:
    """The benchmarks by name."""
    return {p.stem: p for p in sorted(HERE.glob("*.py")) if p != Path(__file__).resolve() and p.stem[0] != "_"}


def run(script: Path, limit: float) -> dict[str, Any]:
    """Seconds taken, and the script's JSON or what went wrong."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, script], cwd=HERE.parent, stdout=subprocess.PIPE, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"seconds": round(time.perf_counter() - start, 1), "error": f"longer than {limit:.0f} s"}
    result: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 1)}
    if done.returncode:
        return result | {"error": f"exit code {done.returncode}"}
    try:
        return result | {"result": json.loads(done.stdout)}
    except json.JSONDecodeError as error:
        return result | {"error": f"no JSON on stdout: {error}"}


def main() -> int:
    """Run all benchmarks, or those named."""
    known = scripts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(known)}")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one benchmark (default: 900)")
    parser.add_argument("--out", type=Path, default=HERE.parent / "bench_out" / "bench.json")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    merged: dict[str, Any] = {
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "numpy", "opencv-python-headless")},
        "benchmarks": {},
    }
    for name in options.names or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        merged["benchmarks"][name] = outcome = run(known[name], options.limit)
        print(f"{name}: {outcome.get('error', 'done')} in {outcome['seconds']} s", file=sys.stderr, flush=True)
    text = json.dumps(merged, indent=1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text + "\n")
    print(text)
    return int(any("error" in outcome for outcome in merged["benchmarks"].values()))


if __name__ == "__main__":
    sys.exit(main())
