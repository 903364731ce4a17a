"""Several processes that train one network together, as ``torchrun`` starts them; a lone process is the case of one.

Each process has its part of every batch. Sums over the batch (matched priors, loss terms) are formed over all processes, so
that the loss is divided by the same number as in one process with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ssdconv.errors import UsageError

PATIENCE = timedelta(hours=6)
"""How long the others wait while the first process evaluates."""


class Peers(Protocol):
    """The processes that share a batch."""

    @property
    def rank(self) -> int:
        """This process."""

    @property
    def world(self) -> int:
        """How many there are."""

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, without gradient."""

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes, (world * n, …), in the order of ranks; every process has as many."""


@dataclass(frozen=True)
class Rank:
    """This process among those that ``torchrun`` started.

    Attributes:
        rank, world: number of the process, and how many there are over all machines.
        local: number of the process on its machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and evaluates."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """See ``Peers``."""
        if self.world > 1:
            values = values.detach().clone()
            dist.all_reduce(values)
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """See ``Peers``."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()


def place_from_environment() -> Rank:
    """The place that ``torchrun`` tells; the only one without it.

    Raises:
        UsageError: the variables contradict each other.
    """
    try:
        rank, world, local = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    except ValueError:
        rank, world, local = -1, 0, 0
    if not 0 <= rank < world:
        raise UsageError(
            "RANK and WORLD_SIZE do not make sense together",
            got=f"RANK={os.environ.get('RANK')}, WORLD_SIZE={os.environ.get('WORLD_SIZE')}",
            hint="let torchrun set them",
        )
    return Rank(rank, world, local)


@contextmanager
def joined(place: Rank, device: torch.device) -> Iterator[None]:
    """Join the other processes for the block: NCCL between GPUs, gloo between CPUs."""
    if place.world == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
