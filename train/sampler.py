"""Which images make up which batch: a pure function of (seed, epoch), so that it needs no state to be resumed.

Every rank of a distributed run takes its part of the same global batch: together they see what one process would.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ssdconv.errors import UsageError


class EpochSampler:
    """Batches of an epoch for one rank.

    Args:
        count: images of the set.
        batch_size: images of a batch over all ranks.
        seed: of the order.
        rank, world: this process and how many there are; a batch is cut into ``world`` runs, as even as they can be.
        shuffle: a new order every epoch; otherwise the set's own.
        drop_last: leave out the last, smaller batch. Without it a rank's part of that batch may be smaller than the others',
            even empty.

    Raises:
        UsageError: the set is smaller than a batch, or the numbers do not make sense together.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world or seed < 0:
            raise UsageError(
                "this is no division of work",
                expected="batch size >= 1, 0 <= rank < world, seed >= 0",
                got=f"batch size {batch_size}, rank {rank} of {world}, seed {seed}",
            )
        if batch_size < world:
            raise UsageError(
                "the batch is smaller than the number of processes", got=f"{batch_size} images for {world} processes"
            )
        if count < 1 or (drop_last and count < batch_size):
            raise UsageError(
                "the data set is smaller than one batch",
                expected=f"at least {batch_size} images",
                got=count,
                hint="--batch-size with a smaller number",
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world, self.shuffle, self.drop_last = rank, world, shuffle, drop_last

    def __len__(self) -> int:
        """Batches of an epoch, the same for every rank."""
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """(count,) the epoch's order of the images, over all ranks.

        Sorts by raw output of PCG64, which numpy promises never to change, so an order outlives a numpy release.
        """
        if not self.shuffle:
            return np.arange(self.count)
        raw = np.random.PCG64(np.random.SeedSequence((self.seed, epoch))).random_raw(self.count)
        return np.argsort(raw, kind="stable")

    def batches(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[int, ...]]:
        """This rank's indices of every batch of ``epoch`` from ``start_batch`` on."""
        order = self.order(epoch)
        for batch in range(start_batch, len(self)):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            first, last = (len(whole) * part // self.world for part in (self.rank, self.rank + 1))
            yield tuple(whole[first:last].tolist())
