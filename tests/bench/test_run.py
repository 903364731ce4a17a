"""The benchmark runner merges what each script prints and tells of every failure."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bench = tmp_path / "bench"
    bench.mkdir()
    shutil.copy(BENCH / "run.py", bench)
    (bench / "good.py").write_text("import sys; print('noise', file=sys.stderr); print('{\"ratio\": 0.5}')")
    (bench / "_helper.py").write_text("raise SystemExit('a helper is no benchmark')")
    return bench


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), *arguments], capture_output=True, text=True, check=False
    )


def test_results_are_merged(folder: Path) -> None:
    (folder / "other.py").write_text("print('{\"ms\": 3}')")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    merged = json.loads(done.stdout)
    assert merged == json.loads((folder.parent / "bench_out" / "bench.json").read_text())
    assert {name: row["result"] for name, row in merged["benchmarks"].items()} == {
        "good": {"ratio": 0.5},
        "other": {"ms": 3},
    }
    assert merged["machine"]["cpus"] >= 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit(3)", "exit code 3"),
        ("print('no data')", "no JSON"),
        ("import time; time.sleep(60)", "longer"),
    ],
)
def test_a_failing_benchmark_is_told_and_the_others_still_run(folder: Path, code: str, error: str) -> None:
    (folder / "bad.py").write_text(code)
    done = run(folder, "--limit", "1")
    assert done.returncode == 1
    rows = json.loads(done.stdout)["benchmarks"]
    assert error in rows["bad"]["error"]
    assert rows["good"]["result"] == {"ratio": 0.5}


def test_benchmarks_can_be_named(folder: Path) -> None:
    (folder / "bad.py").write_text("raise SystemExit(3)")
    assert list(json.loads(run(folder, "good").stdout)["benchmarks"]) == ["good"]
    assert run(folder, "godo").returncode == 2
