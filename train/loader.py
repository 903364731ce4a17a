"""Batches for the training loop: annotated images through a recipe's augmentation, as the network and the loss want them.

Which images make up which batch is a pure function of (seed, epoch), so that it needs no state to be resumed; every rank of a
distributed run takes its part of the same global batch: together they see what one process would. Samples are made ahead of time
by threads, in order. OpenCV and numpy release the interpreter's lock while they decode, resize and convert, so threads are enough.
Processes come only by ``spawn``: a forked OpenCV can hang.
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

from ssdconv.data.images import record_image
from ssdconv.data.records import Dataset, EmptySetError, Record
from ssdconv.errors import SsdconvError, UsageError
from ssdconv.ssd_ref.config import Preprocess, SSDConfig
from ssdconv.ssd_ref.preprocess import normalise, ordered
from ssdconv.train.augment.draw import check, draw
from ssdconv.train.augment.render import fill_value, render_faithful, render_fast
from ssdconv.train.matching import Targets
from ssdconv.train.recipe import Recipe

Mode = Literal["faithful", "fast"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One augmented image.

    Attributes:
        image: (height, width, 3) of the network's size, BGR, 0..255, uint8 or float32 as the recipe works (``fast``: uint8);
            float32 of recipes that do not clip may leave the range.
        boxes: (g, 4) float64 xyxy, fractions of the image.
        labels: (g,) int64 conf channels.
        keep: (g,) bool; False for boxes without area, which nothing can be matched to.
    """

    image: npt.NDArray[Any]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    keep: npt.NDArray[np.bool_]


class TrainingSet:
    """A data set seen through a recipe.

    ``sample`` is a pure function of (seed, epoch, index): order, threads, ranks and resumption do not change it.

    Args:
        dataset: records and image files.
        config: the network: pixels, class channels, background.
        recipe: its augmentation, ``difficult`` and ``origin``.
        seed: of all random numbers.
        mode: ``faithful``: the recipe's stages in its order at the image's own size; ``fast``: the same plan with all geometry
            in one step and colours changed afterwards, on the small image.
        cache: keep decoded images in memory.

    Raises:
        EmptySetError: the set has no image.
        UsageError: the network's classes are not the set's.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: SSDConfig,
        recipe: Recipe,
        seed: int = 0,
        mode: Mode = "faithful",
        cache: bool = False,
    ) -> None:
        if not len(dataset):
            raise EmptySetError("the data set has no image", where=dataset.name)
        if seed < 0:
            raise UsageError("a seed is a whole number from 0 on", got=seed)
        check(recipe.augment)
        self.dataset, self.config, self.recipe, self.seed, self.mode = dataset, config, recipe, seed, mode
        self.channels = class_channels(dataset, config)
        self._fill = None if recipe.augment.expand is None else fill_value(config.pixels, recipe.augment.expand.fill)
        self._images: dict[int, npt.NDArray[np.uint8]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """File of an image, or its id, for messages."""
        try:
            record = self.dataset[index]
        except SsdconvError:
            return self.dataset.image_ids[index]
        return str(record.path or record.image_id)

    def sample(self, index: int, epoch: int) -> Sample:
        """The augmented image ``index`` of ``epoch``.

        Raises:
            MissingImageError, UnreadableImageError, SizeMismatchError, AnnotationError: see ``ssd_ref.data``.
        """
        record = self.dataset[index]
        image = self._image(index, record)
        boxes, labels = objects(record, self.dataset.origin, self.recipe)
        height, width = image.shape[:2]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, epoch, index, 1))))
        spec = self.recipe.augment
        plan = draw(spec, (width, height), boxes, rng)
        render = render_fast if self.mode == "fast" else render_faithful
        pixels = render(image, plan, spec, self.config.pixels.size, self._fill)
        found = np.asarray(plan.boxes, np.float64)
        keep = (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
        return Sample(pixels, found, self.channels[labels[plan.index]], keep)

    def _image(self, index: int, record: Record) -> npt.NDArray[np.uint8]:
        if self._images is None:
            return record_image(record)
        if index not in self._images:
            self._images[index] = record_image(record)
        return self._images[index]


def objects(record: Record, origin: int, recipe: Recipe) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Boxes and labels of a record that a recipe trains on.

    Crowds are left out, and what ``recipe.difficult`` says; corners of a 1-based set are moved by ``recipe.origin``.

    Args:
        record: the image's objects.
        origin: the set's (``Dataset.origin``).
        recipe: the rules.

    Returns:
        (g, 4) float64 xyxy in pixels of the image, and (g,) labels of the data set.
    """
    chosen = ~record.crowd
    if recipe.difficult != "keep":
        easy = chosen & ~record.difficult
        if recipe.difficult == "drop_keep_one" and not easy.any() and chosen.any():
            easy[np.argmax(chosen)] = True
        chosen = easy
    shift = recipe.origin if origin == 1 else 0
    return record.boxes[chosen] - float(shift), record.labels[chosen]


def class_channels(dataset: Dataset, config: SSDConfig) -> npt.NDArray[np.int64]:
    """(classes,) conf channel of each label of a data set: by name where the network knows names, else in order.

    Raises:
        UsageError: another number of classes, or other names.
    """
    background = config.detect.background
    free = [c for c in range(config.num_classes) if c != background]
    names = [config.class_names[c] for c in free] if config.class_names else list(dataset.classes)
    if len(free) != len(dataset.classes) or set(names) != set(dataset.classes):
        strangers = [n for n in dataset.classes if n not in names]
        raise UsageError(
            "the network's classes are not the data set's",
            where=f"{config.name} and {dataset.name}",
            expected=f"{len(free)} classes: {', '.join(names) if config.class_names else 'of any name'}",
            got=f"{len(dataset.classes)} classes"
            + (f", among them {', '.join(strangers[:5])}" if strangers and config.class_names else ""),
            hint="give the network the data set's classes (training from scratch or fine-tuning with new heads)",
        )
    return np.asarray([free[names.index(n)] for n in dataset.classes], np.int64)


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


def network_input(images: Tensor, pixels: Preprocess) -> Tensor:
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


def _ready(image: npt.NDArray[Any], pixels: Preprocess) -> npt.NDArray[np.float32]:
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
def _tables(pixels: Preprocess) -> npt.NDArray[np.float32]:
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
