"""All networks against all oracles at hand: ``python tools/parity.py [--fresh] [NETWORK ...]`` writes PARITY.md.

NETWORK is "source/name", or a pattern of such ("gluon/*", "*/ssd300*"); without any, all networks are checked. Results lie
in ``.cache/parity``, one file per network and set of versions, so a sweep that was interrupted continues; ``--fresh`` makes
those of the chosen networks anew. Networks that were not chosen stand in PARITY.md with the results that are there already.
"""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
from pathlib import Path

from ssdconv.errors import EXIT_OK, EXIT_PARITY, EXIT_USAGE
from ssdconv.parity.report.sweep import render
from ssdconv.parity.sweep import SweepResult, cache_path, cached, sweep_one
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.networks.registry import networks

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The checkout's commit, "+" behind it where tracked files differ; "" outside of a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def chosen(patterns: list[str]) -> list[str]:
    """Networks that fit any pattern; all without patterns."""
    names = [f"{info.source}/{info.name}" for info in networks()]
    return [n for n in names if not patterns or any(fnmatch.fnmatch(n, p) for p in patterns)]


def line(result: SweepResult) -> str:
    """One line of progress."""
    told = (
        f"{result.probes} probes, worst {result.worst:.2f} x the floor, {result.matched} of {result.oracle_rows} boxes"
    )
    return f"{result.network}: {result.status} in {result.seconds:.0f} s, " + (result.why or told)


def main(words: list[str] | None = None) -> int:
    """Run the sweep; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--fresh", action="store_true", help="forget stored results of the chosen networks")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "parity")
    parser.add_argument("--out", type=Path, default=ROOT / "PARITY.md")
    args = parser.parse_args(words)
    wanted = chosen(args.networks)
    if not wanted:
        print("no such network; `ssdconv networks` lists them", file=sys.stderr)
        return EXIT_USAGE
    args.cache.mkdir(parents=True, exist_ok=True)
    results: dict[str, SweepResult] = {}
    for name in chosen([]):
        held = None if args.fresh and name in wanted else cached(args.cache, name)
        if held is not None:
            results[name] = held
    for number, name in enumerate(wanted, 1):
        if name not in results:
            print(f"[{number}/{len(wanted)}] {name} …", file=sys.stderr, flush=True)
            results[name] = sweep_one(name, commit=commit())
            with atomic_path(cache_path(args.cache, name)) as partial:
                partial.write_text(results[name].to_json(), encoding="utf-8")
            with atomic_path(args.out) as partial:
                partial.write_text(render(results), encoding="utf-8")
        print(f"[{number}/{len(wanted)}] {line(results[name])}", file=sys.stderr, flush=True)
    with atomic_path(args.out) as partial:
        partial.write_text(render(results), encoding="utf-8")
    failed = [name for name in wanted if results[name].status == "failed"]
    return EXIT_PARITY if failed else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
