"""Running a converted network over a data set: prefetched, batched, resumable, and the same from any number of processes.

Images are cut into batches once, by their place in the data set, and every batch is run whole: a resumed run, or one of
several processes under ``torchrun``, puts exactly the same tensors through the network as one uninterrupted process, so
that the results are bit-identical. Each process appends to a stream of its own (``detections.<rank>.jsonl``).

From a network's conf channels to a data set's classes, by name.

``verify --dataset``: run a converted network over a data set, score it, and judge it against the published tables.

Scoring a network while it is trained: detections over a held-out set, then the metric of the data set's kind.
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
from pathlib import Path

import torch
from torch import Tensor

from ssdconv import __version__
from ssdconv.data.catalog import open_dataset
from ssdconv.data.images import record_image
from ssdconv.data.records import Dataset, Problems, report
from ssdconv.errors import MissingError, SsdconvError, UsageError
from ssdconv.parity.accuracy.evaluate import evaluate
from ssdconv.parity.accuracy.files import DetectionsWriter, read_done, read_stream
from ssdconv.parity.accuracy.result import EvaluationResult
from ssdconv.ssd_ref.config import Preprocess, SSDConfig
from ssdconv.ssd_ref.files import home
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.postprocess import Detections
from ssdconv.ssd_ref.preprocess import prepare
from ssdconv.train.loop import Score

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


Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunOptions:
    """What to run over and how; the fields are the options of ``ssdconv verify --dataset``.

    Attributes:
        dataset: a name of ``catalog.DATASETS``; only a label with ``annotations``.
        data_root: where the data set is.
        annotations, images: any COCO-form set instead.
        convention: preset of VOC conventions; None for the one that the network's published row was made with.
        coco_rule: preset of COCO rules, likewise.
        evaluator: "hotcoco" or "pycocotools".
        batch_size, workers, device: how the network runs; without a batch size 8 on CUDA and 1 on the CPU, where larger
            batches ran slower (bench/detect_dataset.py).
        limit: only the first so many images; the result is then not comparable with anything published.
        work: folder for the detection streams; None for one in the cache, keyed by weights, data set and version.
        resume: continue what stands there.
        keep_going: count and list bad images and annotations instead of stopping at the first.
        report: folder for ``evaluation.html``, ``.md`` and ``.json``.
        resamples: bootstrap resamples; None for the metric's default.
    """

    dataset: str | None = None
    data_root: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    convention: str | None = None
    coco_rule: str | None = None
    evaluator: str = "hotcoco"
    batch_size: int | None = None
    workers: int = 1
    device: str = "cpu"
    limit: int | None = None
    work: Path | None = None
    resume: bool = True
    keep_going: bool = False
    report: Path | None = None
    resamples: int | None = None

    @property
    def images_per_pass(self) -> int:
        """The batch size that is used."""
        if self.batch_size is not None:
            return self.batch_size
        return 8 if self.device.startswith("cuda") else 1


def verify_dataset(
    weights: Path, wish: RunOptions, progress: Progress | None = None
) -> tuple[EvaluationResult, RunStats, Problems] | None:
    """Detect with ``weights`` over a data set and evaluate.

    Returns:
        Result, statistics of the run, and collected problems; None in all processes of a ``torchrun`` but the first.

    Raises:
        MissingError, FormatError: weights, data set, or an image of it.
        UsageError: classes, device or options that do not fit.
    """
    import torch

    from ssdconv.ssd_ref.checkpoint import load

    problems = Problems()
    collector = problems if wish.keep_going else None
    whole = open_dataset(
        wish.dataset, wish.data_root, annotations=wish.annotations, images=wish.images, keep_going=collector
    )
    if wish.limit is not None and wish.limit < 1:
        raise UsageError("the limit must be at least 1", got=wish.limit)
    dataset: Dataset = whole if wish.limit is None else whole.take(whole.image_ids[: wish.limit])
    rank, processes = process_place()
    device = wish.device
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise MissingError("torch finds no CUDA device", hint="leave --device away to run on the CPU")
        if device == "cuda" and processes > 1:
            device = f"cuda:{rank % torch.cuda.device_count()}"
    model = load(weights, device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    folder = wish.work or work_folder(weights, dataset, wish)
    name = f"{model.config.source}/{model.config.name}"

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(f"{model.config.name} on {dataset.name}", done, total)

    stats = run_detector(
        model,
        dataset,
        folder,
        batch_size=wish.images_per_pass,
        workers=wish.workers,
        resume=wish.resume,
        keep_going=collector,
        progress=tell,
    )
    wait_for_all()
    if rank != 0:
        return None
    _, detections = read_stream(sorted(folder.glob("*.jsonl")), collector)
    result = evaluate(
        dataset,
        detections,
        network=name,
        convention_name=wish.convention,
        coco_rule=wish.coco_rule,
        evaluator=wish.evaluator,
        input_size=model.config.pixels.size,
        resamples=wish.resamples,
        source=f"{weights} through {name}",
        of_images=len(whole),
        problems=collector,
    )
    if wish.report is not None:
        from ssdconv.parity.report.accuracy import write_report

        write_report(result, wish.report)
    return result, stats, problems


def work_folder(weights: Path, dataset: Dataset, wish: RunOptions) -> Path:
    """Where the detection streams of this run lie; equal for runs whose detections would be equal."""
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(repr((__version__, dataset.name, dataset.image_ids, wish.images_per_pass, wish.device)).encode())
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

    def __call__(self, model: SSD) -> Score:
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
        return Score(result.numbers[result.main], result.main, others)
