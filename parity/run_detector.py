"""Running a converted network over a data set: prefetched, batched, resumable, and the same from any number of processes.

Images are cut into batches once, by their place in the data set, and every batch is run whole: a resumed run, or one of
several processes under ``torchrun``, puts exactly the same tensors through the network as one uninterrupted process, so
that the results are bit-identical. Each process appends to a stream of its own (``detections.<rank>.jsonl``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ssdconv.errors import SsdconvError, UsageError
from ssdconv.parity.class_map import class_map
from ssdconv.parity.detections_io import DetectionsWriter, read_done
from ssdconv.ssd_ref.config import Pixels
from ssdconv.ssd_ref.data.images import read_image
from ssdconv.ssd_ref.data.problems import Problems, report
from ssdconv.ssd_ref.data.records import Dataset
from ssdconv.ssd_ref.detections import Detections
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.pixels import prepare

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class RunStats:
    """What a run did.

    Attributes:
        images: images run now (not counting those that an earlier run had done).
        resumed: images that an earlier run had done.
        seconds: wall time of the loop.
        waiting: seconds of it in which the network waited for images.
        stream: folder with the detection streams.
    """

    images: int
    resumed: int
    seconds: float
    waiting: float
    stream: Path


@dataclass(frozen=True)
class _Item:
    index: int
    pixels: Tensor | None
    width: int = 0
    height: int = 0
    error: SsdconvError | None = None


class _Images(TorchDataset[_Item]):
    """Decodes and prepares one image; errors travel as values, so that the main process decides what to do."""

    def __init__(self, dataset: Dataset, pixels: Pixels) -> None:
        self.dataset = dataset
        self.pixels = pixels

    def __getitem__(self, index: int) -> _Item:
        record = self.dataset[index]
        try:
            image = read_image(record)
        except SsdconvError as error:
            return _Item(index, None, error=error)
        return _Item(index, prepare([image], self.pixels)[0], image.shape[1], image.shape[0])

    def __len__(self) -> int:
        return len(self.dataset)


def _one_thread(_: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _same(items: list[_Item]) -> list[_Item]:
    return items


def process_place() -> tuple[int, int]:
    """(rank, processes) as ``torchrun`` tells them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Let every process of a ``torchrun`` finish its share."""
    if process_place()[1] > 1:
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo")
        dist.barrier()


def run_detector(
    model: SSD,
    dataset: Dataset,
    folder: Path,
    *,
    batch_size: int = 8,
    workers: int = 1,
    resume: bool = True,
    keep_going: Problems | None = None,
    progress: Progress | None = None,
) -> RunStats:
    """Detect over a data set and stream the detections to ``folder``.

    Args:
        model: a loaded network; it runs where it is, in its own memory format.
        dataset: images with their ids.
        folder: gets ``detections.<rank>.jsonl``; streams of an earlier, interrupted run there are continued.
        batch_size: images per forward pass.
        workers: processes that decode and resize; 0 does it in this one.
        resume: False refuses to continue an earlier run.
        keep_going: collects unreadable images instead of stopping at the first.
        progress: told about every batch.

    Raises:
        MissingImageError, UnreadableImageError, SizeMismatchError: naming the file.
        UsageError: the network's classes are not the data set's, or the folder belongs to another run.
        OutputError: a detection could not be written.
    """
    if batch_size < 1:
        raise UsageError("the batch size must be at least 1", got=batch_size)
    rank, processes = process_place()
    folder.mkdir(parents=True, exist_ok=True)
    to_label = class_map(model.config, dataset.classes)
    where = next(model.parameters()).device
    done = read_done(folder)
    if done and not resume:
        raise UsageError(
            "this folder holds detections already", where=str(folder), hint="resume, or name another folder"
        )
    todo = [
        batch
        for batch in _batches(len(dataset), batch_size)[rank::processes]
        if any(dataset.image_ids[i] not in done for i in batch)
    ]
    loader: Any = DataLoader(
        _Images(dataset, model.config.pixels),
        batch_sampler=todo,
        num_workers=workers,
        collate_fn=_same,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_one_thread,
    )
    started, waiting, images = time.perf_counter(), 0.0, 0
    name = folder / f"detections.{rank}.jsonl"
    with DetectionsWriter(name, dataset=dataset.name, network=model.config.name, classes=dataset.classes) as writer:
        batches: Iterator[list[_Item]] = iter(loader)
        for _ in todo:
            asked = time.perf_counter()
            items = next(batches)
            waiting += time.perf_counter() - asked
            good = []
            for item in items:
                if item.error is not None:
                    report(item.error, keep_going)
                else:
                    good.append(item)
            for item, found in zip(good, _detect(model, good, where), strict=True):
                image_id = dataset.image_ids[item.index]
                if image_id not in done:
                    _write(writer, image_id, found, to_label)
                    images += 1
            if progress is not None:
                progress(images, sum(map(len, todo)))
    return RunStats(images, len(done), time.perf_counter() - started, waiting, folder)


def _batches(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


@torch.inference_mode()
def _detect(model: SSD, items: Sequence[_Item], device: torch.device) -> list[Detections]:
    if not items:
        return []
    pixels = torch.stack([item.pixels for item in items if item.pixels is not None])
    found = model.postprocess(*model(pixels.to(device, non_blocking=True)))
    return [d.scaled(item.width, item.height).cpu() for d, item in zip(found, items, strict=True)]


def _write(writer: DetectionsWriter, image_id: str, found: Detections, to_label: Sequence[int]) -> None:
    labels = torch.tensor(to_label)[found.labels]
    known = labels >= 0
    writer.write(image_id, labels[known].numpy(), found.scores[known].numpy(), found.boxes[known].numpy())
