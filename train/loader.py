"""Batches for the training loop: samples made ahead of time by threads, in order, as tensors.

OpenCV and numpy release the interpreter's lock while they decode, resize and convert, so threads are enough. Processes come
only by ``spawn``: a forked OpenCV can hang.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdconv.errors import SsdconvError, UsageError
from ssdconv.ssd_ref.config import Pixels
from ssdconv.ssd_ref.preprocess import normalise, ordered
from ssdconv.train.sampler import EpochSampler
from ssdconv.train.samples import Sample, TrainingSet
from ssdconv.train.targets import Targets


class SampleError(SsdconvError):
    """Something unexpected happened while an image was made into a sample."""


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        images: (N, channels, height, width) float32 ready for the network; with ``Loader(raw=True)`` (N, height, width, 3) BGR of
            the samples' type, for ``network_input`` on the device.
        targets: the objects.
        indices: which images these are.
    """

    images: Tensor
    targets: Targets
    indices: tuple[int, ...]


def network_input(images: Tensor, pixels: Pixels) -> Tensor:
    """Raw images to the network's input on their own device.

    Args:
        images: (N, height, width, 3) BGR 0..255, any type.
        pixels: the network's rule.

    Returns:
        (N, channels, height, width) float32, contiguous: ``((x / unit) - mean) / std * scale``, channels in ``pixels.order``.
    """
    x = images.permute(0, 3, 1, 2)
    if pixels.order == "GRAY":
        x = _grey(x)
    x = (x.flip(1) if pixels.order == "RGB" else x).to(torch.float32, memory_format=torch.contiguous_format)
    if pixels.unit != 1:
        x = x / pixels.unit
    x = x - torch.tensor(pixels.mean, device=x.device).view(1, -1, 1, 1)
    return x / torch.tensor(pixels.std, device=x.device).view(1, -1, 1, 1) * pixels.scale


def _grey(images: Tensor) -> Tensor:
    """BGR (N, 3, H, W) to grey (N, 1, H, W) as OpenCV's BGR2GRAY does it: for bytes in whole numbers of 2**-15."""
    if images.dtype != torch.uint8:
        return images[:, :1] * 0.114 + images[:, 1:2] * 0.587 + images[:, 2:] * 0.299
    whole = images.int()
    return (whole[:, :1] * 3735 + whole[:, 1:2] * 19235 + whole[:, 2:] * 9798 + (1 << 14)) >> 15


class Loader:
    """Batches of a training set, made ahead.

    Args:
        training_set: makes the samples.
        sampler: says which.
        workers: threads or processes; 0 makes every sample when it is asked for.
        kind: ``thread``, or ``process`` (started by spawn: the data set and the recipe are pickled).
        raw: leave the pixels as they are, for ``network_input`` on the device.
        ahead: batches prepared in advance.
        pin: page-locked memory, for copies to a GPU in the background.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        sampler: EpochSampler,
        workers: int = 2,
        kind: Literal["thread", "process"] = "thread",
        raw: bool = False,
        ahead: int = 2,
        pin: bool = False,
    ) -> None:
        if workers < 0 or ahead < 1:
            raise UsageError("a loader needs workers >= 0 and ahead >= 1", got=f"workers {workers}, ahead {ahead}")
        if sampler.count != len(training_set):
            raise UsageError("sampler and data set differ in size", expected=len(training_set), got=sampler.count)
        self.training_set, self.sampler = training_set, sampler
        self.workers, self.kind, self.raw, self.ahead, self.pin = workers, kind, raw, ahead, pin

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, in order, from ``start_batch`` on.

        Raises:
            SsdconvError: an image cannot be used; the message names it.
        """
        parts = self.sampler.batches(epoch, start_batch)
        if self.workers == 0:
            for part in parts:
                yield self._batch(part, [self._make(i, epoch) for i in part])
            return
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # each worker is one thread; OpenCV's own pool would fight with them
        pool = self._pool()
        waiting: deque[tuple[tuple[int, ...], list[Future[Sample]]]] = deque()
        try:
            for part in parts:
                waiting.append((part, [self._submit(pool, i, epoch) for i in part]))
                if len(waiting) > self.ahead:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            cv2.setNumThreads(threads)

    def _pool(self) -> Executor:
        if self.kind == "thread":
            return ThreadPoolExecutor(self.workers, thread_name_prefix="samples")
        return ProcessPoolExecutor(
            self.workers, get_context("spawn"), initializer=_begin, initargs=(self.training_set, self.raw)
        )

    def _submit(self, pool: Executor, index: int, epoch: int) -> Future[Sample]:
        return pool.submit(self._make, index, epoch) if self.kind == "thread" else pool.submit(_remote, index, epoch)

    def _next(self, waiting: deque[tuple[tuple[int, ...], list[Future[Sample]]]]) -> Batch:
        part, made = waiting.popleft()
        return self._batch(part, [m.result() for m in made])

    def _make(self, index: int, epoch: int) -> Sample:
        return _make(self.training_set, index, epoch, self.raw)

    def _batch(self, indices: tuple[int, ...], made: list[Sample]) -> Batch:
        height, width = self.training_set.config.pixels.size
        shape = (0, height, width, 3) if self.raw else (0, self.training_set.config.pixels.channels, height, width)
        stacked = np.stack([m.image for m in made]) if made else np.zeros(shape, np.float32)
        targets = Targets.pad(
            [torch.from_numpy(m.boxes) for m in made],
            [torch.from_numpy(m.labels) for m in made],
            [torch.from_numpy(m.keep) for m in made],
        )
        images = torch.from_numpy(stacked)
        return Batch(images.pin_memory() if self.pin else images, targets, indices)


def _make(training_set: TrainingSet, index: int, epoch: int, raw: bool) -> Sample:
    try:
        sample = training_set.sample(index, epoch)
    except SsdconvError:
        raise
    except Exception as error:
        raise SampleError(
            f"this image could not be made into a sample: {type(error).__name__}: {error}",
            where=training_set.name(index),
            hint=f"it is image {index} of epoch {epoch} with seed {training_set.seed}",
        ) from error
    if raw:
        return sample
    return Sample(_ready(sample.image, training_set.config.pixels), sample.boxes, sample.labels, sample.keep)


def _ready(image: npt.NDArray[Any], pixels: Pixels) -> npt.NDArray[np.float32]:
    """(height, width, 3) BGR -> (channels, height, width) float32 as the network wants it.

    Bytes go through a table of what ``normalise`` makes of each of them, which is the same to the last bit and quicker.
    """
    image = ordered(image, pixels)
    if image.dtype != np.uint8:
        return np.ascontiguousarray(normalise(image, pixels).transpose(2, 0, 1))
    tables = _tables(pixels)
    out = np.empty((pixels.channels, *image.shape[:2]), np.float32)
    for channel, plane in enumerate(cv2.split(image)):
        cv2.LUT(plane, tables[channel], out[channel])
    return out


@lru_cache(maxsize=8)
def _tables(pixels: Pixels) -> npt.NDArray[np.float32]:
    """(channels, 256) the network's input for each byte, channels in ``pixels.order``."""
    every = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], pixels.channels, axis=2)
    return np.ascontiguousarray(normalise(every, pixels)[:, 0].T)


_own: tuple[TrainingSet, bool] | None = None


def _begin(training_set: TrainingSet, raw: bool) -> None:
    """Start of a worker process."""
    global _own
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    _own = training_set, raw


def _remote(index: int, epoch: int) -> Sample:
    if _own is None:
        raise UsageError("a worker process was asked before it began")
    return _make(_own[0], index, epoch, _own[1])
