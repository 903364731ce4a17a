"""``verify --dataset``: run a converted network over a data set, score it, and judge it against the published tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssdconv import __version__
from ssdconv.data.catalog import open_dataset
from ssdconv.data.problems import Problems
from ssdconv.data.records import Dataset
from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.detections_io import read_stream
from ssdconv.parity.evaluate import evaluate
from ssdconv.parity.metrics.result import EvaluationResult
from ssdconv.parity.run_detector import RunStats, process_place, run_detector, wait_for_all
from ssdconv.ssd_ref.files import home

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wish:
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
    weights: Path, wish: Wish, progress: Progress | None = None
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
        from ssdconv.parity.report.map_report import write_report

        write_report(result, wish.report)
    return result, stats, problems


def work_folder(weights: Path, dataset: Dataset, wish: Wish) -> Path:
    """Where the detection streams of this run lie; equal for runs whose detections would be equal."""
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(repr((__version__, dataset.name, dataset.image_ids, wish.images_per_pass, wish.device)).encode())
    return home() / "detections" / digest.hexdigest()[:24]
