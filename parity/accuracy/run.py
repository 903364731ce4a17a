"""Running a converted network over a data set: prefetched, batched, resumable, and the same from any number of processes.

Images are cut into batches once, by their place in the data set, and every batch is run whole: a resumed run, or one of
several processes under ``torchrun``, puts exactly the same tensors through the network as one uninterrupted process, so
that the results are bit-identical. Each process appends to a stream of its own (``detections.<rank>.jsonl``).

``detect_dataset`` is the one runner behind ``verify --dataset`` and ``compare``; ``Evaluation`` scores a network in training.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ssdconv import __version__
from ssdconv.data.images import record_image
from ssdconv.data.records import Dataset, Problems, report
from ssdconv.errors import MissingError, SsdconvError, UsageError
from ssdconv.parity.accuracy.detections import DetectionSet
from ssdconv.parity.accuracy.evaluate import RunOptions, evaluate
from ssdconv.parity.accuracy.files import DetectionsWriter, read_done, read_stream
from ssdconv.ssd_ref.checkpoint import load
from ssdconv.ssd_ref.config import Preprocess, SSDConfig
from ssdconv.ssd_ref.files import home
from ssdconv.ssd_ref.gate import open_input
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.postprocess import Detections
from ssdconv.ssd_ref.preprocess import prepare
from ssdconv.train.loop import TrainScore

ALIASES = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "tv": "tvmonitor",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
}
"""COCO's words for VOC's classes; with them a COCO network can be looked at on VOC."""


def class_map(config: SSDConfig, classes: Sequence[str]) -> tuple[int, ...]:
    """For each conf channel the data set's label, or -1 where the data set has no such class.

    Raises:
        UsageError: no channel has a class of the data set, or the network does not name its channels and their count
            does not fit either.
    """
    background = config.detect.background
    if not config.class_names:
        channels = [c for c in range(config.num_classes) if c != background]
        if len(channels) != len(classes):
            raise UsageError(
                "the network does not name its classes, and their count is not the data set's",
                where=config.name,
                expected=len(classes),
                got=len(channels),
            )
        places = {channel: label for label, channel in enumerate(channels)}
        return tuple(places.get(channel, -1) for channel in range(config.num_classes))
    labels = {name: label for label, name in enumerate(classes)}
    labels |= {alias: labels[name] for alias, name in ALIASES.items() if name in labels and alias not in labels}
    found = tuple(
        -1 if channel == background else labels.get(name, -1) for channel, name in enumerate(config.class_names)
    )
    if all(label < 0 for label in found):
        raise UsageError(
            "the network knows none of the data set's classes",
            where=config.name,
            expected=", ".join(classes[:5]),
            got=", ".join(n for c, n in enumerate(config.class_names) if c != background)[:80],
        )
    return found


ImagesDone = Callable[[int, int], None]
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


def _load(dataset: Dataset, pixels: Preprocess, index: int) -> _Item:
    """Decode and prepare one image; errors travel as values, so that the loop decides what to do."""
    record = dataset[index]
    try:
        image = record_image(record)
    except SsdconvError as error:
        return _Item(index, None, error=error)
    return _Item(index, prepare([image], pixels)[0], image.shape[1], image.shape[0])


def _prefetched(
    dataset: Dataset, pixels: Preprocess, batches: Sequence[Sequence[int]], workers: int
) -> Iterator[list[_Item]]:
    """Batches of loaded images, two batches ahead of their use.

    Threads and not processes: OpenCV decodes and resizes without the interpreter lock, nothing is copied between
    processes, and a process forked while torch's or OpenCV's threads exist may hang.
    """
    if workers == 0:
        yield from ([_load(dataset, pixels, index) for index in batch] for batch in batches)
        return
    with ThreadPoolExecutor(workers, "images") as pool:
        waiting: deque[list[Future[_Item]]] = deque()
        try:
            for batch in batches:
                waiting.append([pool.submit(_load, dataset, pixels, index) for index in batch])
                if len(waiting) > 2:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def process_place() -> tuple[int, int]:
    """(rank, processes) as ``torchrun`` tells them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Let every process of a ``torchrun`` finish its share."""
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
    progress: ImagesDone | None = None,
    place: tuple[int, int] | None = None,
) -> RunStats:
    """Detect over a data set and stream the detections to ``folder``.

    Args:
        model: a loaded network; it runs where it is, in its own memory format.
        dataset: images with their ids.
        folder: gets ``detections.<rank>.jsonl``; streams of an earlier, interrupted run there are continued.
        batch_size: images per forward pass.
        workers: threads that decode and resize ahead of the network; 0 does it in between.
        resume: False refuses to continue an earlier run.
        keep_going: collects unreadable images instead of stopping at the first.
        progress: told about every batch.
        place: (rank, processes) that share the set; default: what ``torchrun`` tells.

    Raises:
        MissingImageError, UnreadableImageError, SizeMismatchError: naming the file.
        UsageError: the network's classes are not the data set's, or the folder belongs to another run.
        OutputError: a detection could not be written.
    """
    if batch_size < 1:
        raise UsageError("the batch size must be at least 1", got=batch_size)
    rank, processes = process_place() if place is None else place
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
    started, waiting, images = time.perf_counter(), 0.0, 0
    name = folder / f"detections.{rank}.jsonl"
    with DetectionsWriter(name, dataset=dataset.name, network=model.config.name, classes=dataset.classes) as writer:
        batches = _prefetched(dataset, model.config.pixels, todo, workers)
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


def detect_dataset(
    weights: Path,
    dataset: Dataset,
    options: RunOptions,
    keep_going: Problems | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    place: tuple[int, int] | None = None,
) -> tuple[SSDConfig, RunStats, DetectionSet] | None:
    """Run the network of a checkpoint over a data set, or take up where an equal run ended.

    Args:
        weights: .pth or .safetensors of ssdconv.
        dataset: images with their ids.
        options: batch size, workers, device, folder for the streams.
        keep_going: collector.
        progress: told what runs, images done, and in all.
        place: as in ``run_detector``.

    Returns:
        The network, what the run did, and the detections of all processes; None in all processes of a ``torchrun`` but the first.

    Raises:
        MissingError, FormatError: weights, device, or an image. UsageError: classes that do not fit.
    """
    rank, processes = place = process_place() if place is None else place
    device = options.device
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise MissingError("torch finds no CUDA device", hint="leave --device away to run on the CPU")
        if device == "cuda" and processes > 1:
            device = f"cuda:{rank % torch.cuda.device_count()}"
    model = load(weights, device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    folder = options.work or _work_folder(weights, dataset, options)
    stats = run_detector(
        model,
        dataset,
        folder,
        batch_size=options.images_per_pass,
        workers=options.workers,
        resume=options.resume,
        keep_going=keep_going,
        progress=progress and partial(progress, f"{model.config.name} on {dataset.name}"),
        place=place,
    )
    if processes > 1:
        wait_for_all()
    if rank != 0:
        return None
    return model.config, stats, read_stream(sorted(folder.glob("*.jsonl")), keep_going)[1]


def _work_folder(weights: Path, dataset: Dataset, options: RunOptions) -> Path:
    """Where the detection streams of this run lie; equal for runs whose detections would be equal."""
    with open_input(weights, "weights") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    digest.update(
        repr((__version__, dataset.name, dataset.image_ids, options.images_per_pass, options.device)).encode()
    )
    return home() / "detections" / digest.hexdigest()[:24]


class Evaluation:
    """Scores networks on one data set, in this process alone.

    Args:
        dataset: held out.
        folder: for the detections of a running evaluation; removed afterwards.
        batch_size, workers: as in ``run_detector``.
        convention: of VOC's metric; default the devkit's.
    """

    def __init__(
        self, dataset: Dataset, folder: Path, batch_size: int = 8, workers: int = 1, convention: str | None = None
    ) -> None:
        self.dataset, self.folder, self.batch_size, self.workers = dataset, folder, batch_size, workers
        self.convention = convention

    def __call__(self, model: SSD) -> TrainScore:
        """mAP (VOC) or AP (COCO), and AP per class as ``AP:<class>``."""
        shutil.rmtree(self.folder, ignore_errors=True)  # of a process that was killed meanwhile
        try:
            run_detector(
                model,
                self.dataset,
                self.folder,
                batch_size=self.batch_size,
                workers=self.workers,
                resume=False,
                place=(0, 1),
            )
            _, found = read_stream(sorted(self.folder.glob("*.jsonl")))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        result = evaluate(
            self.dataset,
            found,
            convention_name=self.convention,
            input_size=model.config.pixels.size,
            resamples=0,
            worst=0,
        )
        others = {f"AP:{c.name}": c.ap for c in result.classes}
        return TrainScore(result.numbers[result.main], result.main, others)
