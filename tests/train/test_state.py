"""States on disk: whole, or recognised as damaged and passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ssdconv.errors import FormatError
from ssdconv.train.optimizer import VelocitySGD
from ssdconv.train.run_folder import Progress, newest_state, read_state, restore, write_state


def _trained(steps: int) -> tuple[nn.Module, VelocitySGD]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = VelocitySGD([{"params": list(model.parameters()), "lr": 0.1, "initial_lr": 0.1, "names": ["a"]}])
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_restored_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    model, optimizer = _trained(3)
    path = write_state(tmp_path, model, optimizer, Progress(3, 1, 2, 0.5, 4, 0.25, 1), keep=2)
    drawn = torch.rand(3)
    other, empty = _trained(0)
    progress = restore(read_state(path), other, empty)
    assert progress == Progress(3, 1, 2, 0.5, 4, 0.25, 1)
    assert torch.equal(torch.rand(3), drawn)  # the random state is that of the moment of writing
    data = torch.ones(5, 3) * torch.arange(5)[:, None]
    for m, o in ((model, optimizer), (other, empty)):
        m.zero_grad()
        m(data).square().sum().backward()
        o.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_only_the_last_ones_stay(tmp_path: Path) -> None:
    model, optimizer = _trained(1)
    for step in (5, 10, 1000, 20):
        write_state(tmp_path, model, optimizer, Progress(step), keep=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-000000020.state", "step-000001000.state"]


def test_any_cut_and_any_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = write_state(tmp_path, *_trained(1), Progress(1), keep=1)
    whole = path.read_bytes()
    for cut in [0, 1, 20, 79, 80, 81, *range(100, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            read_state(path)
    for place in range(0, len(whole), 211):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(FormatError):
            read_state(path)
    path.write_bytes(whole)
    assert read_state(path)["progress"]["step"] == 1


def test_a_damaged_newest_state_falls_back_and_says_so(tmp_path: Path) -> None:
    model, optimizer = _trained(1)
    for step in (1, 2, 3):
        write_state(tmp_path, model, optimizer, Progress(step), keep=3)
    newest = tmp_path / "step-000000003.state"
    newest.write_bytes(newest.read_bytes()[:-10])
    (tmp_path / ".step-000000004.state.1.aa.tmp").write_bytes(b"half")
    said: list[str] = []
    state = newest_state(tmp_path, said.append)
    assert state is not None
    assert state["progress"]["step"] == 2
    assert len(said) == 1
    assert "step-000000003.state" in said[0]
    assert "step-000000002.state" in said[0]
    assert not list(tmp_path.glob(".*"))  # what a killed process left is gone
    for path in tmp_path.glob("*.state"):
        path.write_bytes(b"")
    with pytest.raises(FormatError, match="no older state"):
        newest_state(tmp_path, said.append)
    assert newest_state(tmp_path / "none", said.append) is None


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    path = write_state(tmp_path, *_trained(1), Progress(1), keep=1)
    with pytest.raises(FormatError, match="another network"):
        restore(read_state(path), nn.Linear(2, 2), _trained(0)[1])
