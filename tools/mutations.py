"""Do the tests notice small faults? ``python tools/mutations.py`` plants those of mutations.json one by one and runs the nearest tests.

Works on a copy of the checkout in a temporary folder. A fault is a piece of text that stands exactly once in the product's code
(wherever that is), what replaces it, and the test files that should fail then. A fault that no test can notice has ``equal``: the
argument why the program does the same with it; it is not planted. Prints what each came to and the score; exit code 1 where fewer than
``--least`` of the faults are noticed, 2 where a text is not found exactly once or the tests fail without any fault.

    python tools/mutations.py [--only nms priors] [--timeout 300] [--json]
"""

from __future__ import annotations

import argparse
import ast
import compileall
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import cv2  # noqa: F401 - the forks have it from here
import msgspec
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("mutations.json")
OUTSIDE = ("tests/", "tools/", "bench/", "parity/oracles/workers/")
"""Python files that no fault is planted in."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One small fault.

    Attributes:
        old: a piece of the code, found exactly once in the product.
        new: what stands there instead.
        tests: files that should fail.
        equal: why nobody can notice it, "" where somebody can.
    """

    old: str
    new: str
    tests: tuple[str, ...]
    equal: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a fault came to: ``killed``, ``survived``, ``timeout`` (killed, too) or ``equal``."""

    fault: Fault
    file: str
    result: str
    seconds: float


def faults() -> list[Fault]:
    """Those of mutations.json."""
    return msgspec.json.decode(FILE.read_bytes(), type=list[Fault])


def tracked(root: Path) -> list[str]:
    """Files of the checkout, those that git does not know yet among them."""
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (root / name).is_file()]


def product(root: Path) -> dict[str, str]:
    """The product's Python files: name -> text."""
    names = [n for n in tracked(root) if n.endswith(".py") and not n.startswith(OUTSIDE)]
    return {name: (root / name).read_text() for name in names}


def planted(fault: Fault, texts: dict[str, str]) -> tuple[str, str]:
    """The file that a fault is in, and its text with the fault.

    Raises:
        LookupError: the piece of code is not there exactly once, or what comes of it is no Python.
    """
    found = {name: text.count(fault.old) for name, text in texts.items() if fault.old in text}
    if sum(found.values()) != 1 or fault.old == fault.new:
        raise LookupError(f"{fault.old!r} is found {sum(found.values())} times ({', '.join(found) or 'nowhere'})")
    (name,) = found
    text = texts[name].replace(fault.old, fault.new)
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise LookupError(f"{fault.new!r} makes {name} no Python: {error}") from None
    return name, text


def run(folder: Path, tests: tuple[str, ...], timeout: float) -> str:
    """``killed``, ``survived`` or ``timeout``: the tests in a fork of this process, which has the slow imports behind it.

    Raises:
        LookupError: pytest could not run these tests at all.
    """
    child = multiprocessing.get_context("fork").Process(target=_pytest, args=(folder, tests))
    child.start()
    child.join(timeout)
    if child.is_alive():
        child.kill()
        child.join()
        return "timeout"
    if child.exitcode in (4, 5):  # no such file, no test
        raise LookupError(" ".join(tests))
    return "survived" if child.exitcode == 0 else "killed"


def _pytest(folder: Path, tests: tuple[str, ...]) -> None:
    paths = os.pathsep.join(filter(None, [str(folder.parent), os.environ.get("PYTHONPATH", "")]))
    os.environ |= {"PYTHONPATH": paths, "SSDCONV_SHARED": os.environ.get("SSDCONV_SHARED", str(ROOT.parent / "shared"))}
    sys.path.insert(0, str(folder.parent))
    sys.dont_write_bytecode = True
    os.chdir(folder)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    words = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not oracle", *tests]
    os._exit(int(pytest.main(words)))


def copy(folder: Path) -> None:
    """The checkout in ``folder``, compiled so that a changed file is known by its content."""
    for file in tracked(ROOT):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file)
    compileall.compile_dir(folder, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)


def main(words: list[str] | None = None) -> int:
    """Plant, run, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="faults in files whose names hold this")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one fault (default: %(default)g)")
    parser.add_argument("--least", type=float, default=0.9, help="share that must be noticed (default: %(default)g)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    texts, outcomes = product(ROOT), list[Outcome]()
    try:
        places = [(fault, *planted(fault, texts)) for fault in faults()]
    except LookupError as error:
        print(f"mutations.json is stale: {error}", file=sys.stderr)
        return 2
    places = [p for p in places if not options.only or any(word in p[1] for word in options.only)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "ssdconv"
        copy(folder)
        sound: set[str] = set()
        try:
            for number, (fault, file, text) in enumerate(places, 1):
                started = time.perf_counter()
                result = "equal"
                if not fault.equal:
                    for test in (test for test in fault.tests if test not in sound):
                        if run(folder, (test,), 3600.0) != "survived":
                            print(f"{test} fails without any fault: nothing can be said", file=sys.stderr)
                            return 2
                        sound.add(test)
                    (folder / file).write_text(text)
                    try:
                        result = run(folder, fault.tests, options.timeout)
                    finally:
                        (folder / file).write_text(texts[file])
                outcomes.append(Outcome(fault, file, result, round(time.perf_counter() - started, 1)))
                line = f"[{number}/{len(places)}] {result:8} {file}: {fault.new.strip().splitlines()[0][:90]}"
                print(line, file=sys.stderr, flush=True)
        except LookupError as error:
            print(f"a fault's tests cannot be run: {error}", file=sys.stderr)
            return 2
    tried = [o for o in outcomes if o.result != "equal"]
    killed = sum(o.result != "survived" for o in tried)
    score = killed / len(tried) if tried else 1.0
    if options.json:
        rows: list[dict[str, Any]] = [
            {"file": o.file, "old": o.fault.old, "new": o.fault.new, "result": o.result, "seconds": o.seconds}
            for o in outcomes
        ]
        print(json.dumps({"faults": len(tried), "killed": killed, "score": round(score, 3), "rows": rows}, indent=1))
    else:
        print(f"{killed} of {len(tried)} faults are noticed ({score:.0%})")
    return int(score < options.least)


if __name__ == "__main__":
    sys.exit(main())
