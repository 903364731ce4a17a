"""Whole models on other backbones, made and saved by Keras 2.15 itself: there, against Keras, and back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.convert import convert, reverse
from ssdconv.errors import MappingError
from ssdconv.parity.oracles.environments import ENVIRONMENTS
from ssdconv.parity.oracles.worker import WORKERS
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def models(tensorflow: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("keras_ssds.py")
    command = [str(ENVIRONMENTS[tensorflow].python), "-I", str(script), str(WORKERS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(
    "name", ["every.h5", "every.keras", "mobilenet.h5", "mobilenet.keras", "nested.h5", "pruned.h5", "pruned.keras", "resnet50.h5", "resnet50.keras"]
)  # fmt: skip
def test_other_backbones(name: str, models: Path, tmp_path: Path) -> None:
    path = models / name
    convert(path, tmp_path / "there.pth", digests=False)
    report = verify(tmp_path / "there.pth", path)
    assert report, (report.first_divergent, [row.differs for row in report.links])
    if name == "nested.h5":
        with pytest.raises(MappingError, match="within the model"):
            reverse(tmp_path / "there.pth", tmp_path / name, "keras")
        return
    back = tmp_path / f"back{path.suffix}"
    reverse(tmp_path / "there.pth", back, "keras")
    convert(back, tmp_path / "again.pth", digests=False)
    first, second = read(tmp_path / "there.pth"), read(tmp_path / "again.pth")
    assert first.config == second.config
    for key, tensor in first.state_dict.items():
        assert np.array_equal(tensor.numpy(), second.state_dict[key].numpy()), key
    assert verify(tmp_path / "there.pth", back)  # Keras loads what was written


def test_a_model_within_a_keras_archive_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="not read"):
        convert(models / "nested.keras", tmp_path / "x.pth")
