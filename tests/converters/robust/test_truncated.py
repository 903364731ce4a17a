"""Files cut short at any place: refused with an SsdconvError, and nothing is written."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ssdconv.errors import SsdconvError

CUTS = [25, pytest.param(1_000, marks=pytest.mark.slow)]
CHILD = """
import random, sys
from pathlib import Path
from ssdconv.converters.convert import convert
from ssdconv.errors import SsdconvError
path, out = Path(sys.argv[1]), Path(sys.argv[1]).with_name("out.pth")
for size in map(int, sys.argv[2].split(",")):
    path.write_bytes(Path(sys.argv[3]).read_bytes()[:size])
    print(size, flush=True)
    try:
        convert(path, out, source="keras", digests=False)
    except SsdconvError:
        continue
    raise SystemExit(f"cut to {size} bytes, it was converted")
"""


def sizes_of(path: Path, cuts: int) -> list[int]:
    """Sizes from 0 to one byte less than all; many of them near the ends, where headers and directories are."""
    rng, whole = random.Random(cuts), path.stat().st_size
    near = [rng.randrange(min(2_000, whole)) for _ in range(cuts // 4)]
    far = [whole - 1 - rng.randrange(min(2_000, whole)) for _ in range(cuts // 4)]
    return [0, whole - 1, *near, *far, *(rng.randrange(whole) for _ in range(cuts - 2 - 2 * (cuts // 4)))]


@pytest.mark.parametrize("cuts", CUTS)
def test_no_cut_is_taken_for_the_file(case: Any, cuts: int, tmp_path: Path) -> None:
    if case.source == "keras":
        _in_a_child(case, cuts, tmp_path)
        return
    for file in case.files:
        shutil.copy(file, tmp_path)
    for file in case.files:
        cut = tmp_path / file.name
        for size in sizes_of(file, cuts // len(case.files)):
            shutil.copy(file, cut)
            os.truncate(cut, size)
            with pytest.raises(SsdconvError):
                case.convert(tmp_path / case.file.name, tmp_path / "out" / "out.pth")
        shutil.copy(file, cut)
    (tmp_path / "out").mkdir()
    case.convert(tmp_path / case.file.name, tmp_path / "out" / "out.pth")  # whole, it is fine


@pytest.mark.parametrize("cuts", CUTS)
def test_files_of_torch_before_1_6(cases: dict[str, Any], cuts: int, tmp_path: Path) -> None:
    case, path = cases["pth"], tmp_path / "x.pth"
    state = torch.load(case.file, weights_only=True)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in sizes_of(path, cuts):
        path.write_bytes(whole[:size])
        with pytest.raises(SsdconvError):
            case.convert(path, tmp_path / "out" / "out.pth")
    path.write_bytes(whole)
    case.convert(path, tmp_path / "out.pth")


def _in_a_child(case: Any, cuts: int, folder: Path) -> None:
    # The HDF5 library parses these: a crash of it shall not be pytest's.
    sizes = ",".join(map(str, sizes_of(case.file, cuts)))
    command = [sys.executable, "-c", CHILD, str(folder / case.file.name), sizes, str(case.file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + cuts, check=False)
    assert done.returncode == 0, f"after {done.stdout.split()[-1:]} bytes: {done.stderr[-1500:]}"
    assert [f.name for f in folder.iterdir()] == [case.file.name]
