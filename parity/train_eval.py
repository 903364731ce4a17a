"""Scoring a network while it is trained: detections over a held-out set, then the metric of the data set's kind."""

from __future__ import annotations

import shutil
from pathlib import Path

from ssdconv.data.records import Dataset
from ssdconv.parity.detections_io import read_stream
from ssdconv.parity.evaluate import evaluate
from ssdconv.parity.run_detector import run_detector
from ssdconv.ssd_ref.model import SSD
from ssdconv.train.settings import Score


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
