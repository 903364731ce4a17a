"""Weight files between ssdconv and Keras 2.15 and 3 themselves: numbered layers, and files with names in Keras 3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.keras.rows import rows_of
from ssdconv.converters.tensors import apply_all, inverse
from ssdconv.parity.oracles.environments import ENVIRONMENTS
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.keras import NETWORKS

pytestmark = pytest.mark.oracle
Arrays = dict[str, np.ndarray[Any, Any]]
Ask = Callable[..., Arrays]
CASES = {"ssd_keras_ssd300_voc": (2, 21), "ssd7": (8, 6)}
"""Network -> width and classes."""


def ask_of(python: str, environment: dict[str, str], folder: Path) -> Ask:
    def ask(do: str, *files: tuple[str, Path]) -> list[Arrays]:
        jobs = []
        for network, path in files:
            job = {"do": do, "network": network, "path": str(path), "out": str(folder / f"{len(jobs)}.npz")}
            jobs.append({**job, **dict(zip(("width", "classes"), CASES[network], strict=True))})
        (folder / "jobs.json").write_text(json.dumps(jobs))
        command = [python, "-I", str(Path(__file__).with_name("keras_models.py")), str(folder / "jobs.json")]
        env = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"} | environment
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        return [dict(np.load(job["out"])) for job in jobs]

    return ask


@pytest.fixture(scope="module", params=["2.15", "3"])
def keras(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    folder = tmp_path_factory.mktemp("keras_files")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    if request.param == "2.15":
        return ask_of(str(ENVIRONMENTS[request.getfixturevalue("tensorflow")].python), quiet, folder)
    if find_spec("keras") is None:
        pytest.skip("Keras 3 is not installed (python -m pip install keras)")
    return ask_of(sys.executable, {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}, folder)


def expected(network: str, state: dict[str, torch.Tensor]) -> Arrays:
    """The reference's tensors by Keras layer and number; Keras' order of weights is that of the rows."""
    width, classes = CASES[network]
    found: dict[str, list[np.ndarray[Any, Any]]] = {}
    for row in rows_of(NETWORKS[network](network, classes, width=width)):
        found.setdefault(row.layer, []).append(apply_all(inverse(row.ops, row.shape), state[row.target].numpy()))
    return {f"{layer}/{k}": array for layer, arrays in found.items() for k, array in enumerate(arrays)}


def check(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def test_numbered_layers_that_keras_wrote(keras: Ask, tmp_path: Path) -> None:
    files = [(network, tmp_path / f"{network}.weights.h5") for network in CASES]
    for (network, path), written in zip(files, keras("save", *files), strict=True):
        report = convert(path, tmp_path / "out.pth")
        width, classes = CASES[network]
        named = NETWORKS[network](network, classes, width=width)
        assert replace(report.config, class_names=()) == replace(named, class_names=())
        check(expected(network, read(tmp_path / "out.pth").state_dict), written)


def test_keras_loads_what_we_write(keras: Ask, tmp_path: Path) -> None:
    files = []
    for network, (width, classes) in CASES.items():
        config = NETWORKS[network](network, classes, width=width)
        save(tmp_path / f"{network}.pth", config, seeded_tensors(config))
        for suffix in (".weights.h5", ".h5"):
            files.append((network, tmp_path / f"{network}{suffix}"))
            reverse(tmp_path / f"{network}.pth", files[-1][1], "keras")
    for (network, _), loaded in zip(files, keras("load", *files), strict=True):
        check(expected(network, read(tmp_path / f"{network}.pth").state_dict), loaded)
