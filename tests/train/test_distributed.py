"""Two processes with half a batch each have the gradients of one process with all of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.train.distributed import Rank, place_from_environment
from ssdconv.train.recipe import NormRule, Recipe
from ssdconv.train.recipes import RECIPES

WORKER = Path(__file__).with_name("ddp_worker.py")
FROZEN = NormRule(frozen=True)
"""Batch normalisation sees a process's own part, as in the sources; so here it runs on its stored statistics."""


def _recipes() -> list[Recipe]:
    """One for each different loss of the sources, and one with mining over the batch and its own normaliser."""
    losses: dict[LossRule, Recipe] = {}
    for recipe in RECIPES.values():
        loss = replace(recipe.loss, without_objects="background")  # one of the images has none
        losses.setdefault(loss, replace(recipe, loss=loss, norm=FROZEN))
    assert any(rule.mining.scope == "batch" for rule in losses)
    assert any(rule.mining.hardness == "batch_shifted" for rule in losses)
    assert any(rule.conf_normalizer == "selected" for rule in losses)
    return list(losses.values())


def _batch(path: Path) -> None:
    """Eight images; the second half has far more objects than the first, one image has none."""
    generator = torch.Generator().manual_seed(3)
    counts = [0, 1, 1, 1, 7, 8, 6, 8]
    corner = torch.rand(8, 8, 2, generator=generator) * 0.6
    size = torch.rand(8, 8, 2, generator=generator) * 0.35 + 0.05
    valid = torch.arange(8)[None] < torch.tensor(counts)[:, None]
    data = {
        "images": torch.randn(8, 3, 64, 64, generator=generator),
        "boxes": torch.cat([corner, corner + size], -1),
        "labels": torch.randint(1, 4, (8, 8), generator=generator),
        "valid": valid,
    }
    torch.save(data, path)


def _start(folder: Path, out: str, world: int) -> list[dict[str, torch.Tensor | float]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [
            sys.executable,
            str(WORKER),
            str(folder / "recipes.json"),
            str(folder / "batch.pt"),
            str(folder / out),
        ]
        environment = os.environ | {k: str(v) for k, v in place.items()}
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    return [torch.load(folder / f"{out}.{rank}", weights_only=True) for rank in range(world)]


def test_gradients_are_those_of_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    recipes = _recipes()
    (tmp_path / "recipes.json").write_bytes(msgspec.json.encode(recipes))
    _batch(tmp_path / "batch.pt")
    (whole,) = _start(tmp_path, "one", 1)
    parts = _start(tmp_path, "two", 2)
    for recipe, one, *two in zip(recipes, whole, *parts, strict=True):
        for half in two:
            assert half.keys() == one.keys()
            assert half["terms/positives"] == one["terms/positives"] > 10
            assert half["terms/negatives"] == one["terms/negatives"], recipe.name
            for name, value in one.items():
                expected = torch.as_tensor(value, dtype=torch.float64)
                error = (torch.as_tensor(half[name], dtype=torch.float64) - expected).abs().max()
                assert error <= 1e-12 * expected.abs().max().clamp_min(1e-3), (recipe.name, name)
    assert len(recipes) >= 4


def test_the_place_comes_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert place_from_environment() == Rank(0, 1, 0)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place_from_environment() == Rank(5, 8, 1)
    assert not place_from_environment().first
    for wrong in ("8", "-1", "x"):
        monkeypatch.setenv("RANK", wrong)
        with pytest.raises(UsageError, match="RANK"):
            place_from_environment()


def test_a_lone_process_needs_no_group() -> None:
    values = torch.tensor([1.0, 2.0])
    place = Rank()
    assert torch.equal(place.total(values), values)
    assert torch.equal(place.gather(values), values)
    place.barrier()
