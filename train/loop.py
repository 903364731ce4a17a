"""The training loop: epochs of steps, evaluations, states and checkpoints, from the start or from where a run stopped."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from ssdconv import __version__
from ssdconv.errors import UsageError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.model import SSD
from ssdconv.train.distributed import Place
from ssdconv.train.diverged import diverged, keep_batch
from ssdconv.train.groups import freeze
from ssdconv.train.loader import Batch, Loader
from ssdconv.train.log import MetricsLog
from ssdconv.train.norms import training_mode
from ssdconv.train.optimizer import make_optimizer
from ssdconv.train.recipe import Recipe
from ssdconv.train.run_folder import RunFolder
from ssdconv.train.sampler import EpochSampler
from ssdconv.train.samples import TrainingSet
from ssdconv.train.schedule import lr_at, set_factor, total_steps
from ssdconv.train.settings import Evaluate, Listener, Outcome, Score, Settings
from ssdconv.train.state import Progress, newest_state, restore, write_state
from ssdconv.train.step import Step, Terms, not_finite


class Training:
    """One run of one process.

    Args:
        folder: created already.
        model: with its starting values, on the CPU or its device.
        data: the training set.
        recipe: with the run's own figures; its ``batch_size`` is that of all processes together.
        settings: how.
        place: this process; ``torch.distributed`` has begun where there are more.
        evaluate: scores the network; None for no evaluation, and no ``best.pth``.
        listener: hears about progress.
        about: goes into the checkpoints' provenance.

    Raises:
        UsageError: a batch that the processes cannot share evenly, or a data set smaller than a batch.
    """

    def __init__(
        self,
        folder: RunFolder,
        model: SSD,
        data: TrainingSet,
        recipe: Recipe,
        settings: Settings,
        listener: Listener,
        place: Place | None = None,
        evaluate: Evaluate | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.place = place or Place()
        if recipe.batch_size % self.place.world:
            raise UsageError("the batch cannot be shared evenly", got=f"{recipe.batch_size} by {self.place.world}")
        self.folder, self.data, self.recipe, self.settings = folder, data, recipe, settings
        self.listener, self.evaluate, self.about = listener, evaluate, about or {}
        device = torch.device(settings.device)
        sampler = EpochSampler(len(data), recipe.batch_size, settings.seed, self.place.rank, self.place.world)
        gpu = device.type == "cuda"
        self.loader = Loader(data, sampler, settings.workers, raw=gpu, pin=gpu)
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(model, recipe)
        self.optimizer = make_optimizer(self.model, recipe)
        self.per_epoch = len(sampler)
        self.total = total_steps(recipe.schedule, self.per_epoch)
        self.progress = Progress()
        self._busy, self._waited, self._images = 0.0, 0.0, 0
        self._loss: float | None = None
        self._metric = "mAP"

    def resume(self) -> int:
        """Take up the newest good state of the folder; returns the number of updates that it has done."""
        state = newest_state(self.folder.states, self.listener.note if self.place.first else lambda _: None)
        if state is not None:
            self.progress = restore(state, self.model, self.optimizer)
        return self.progress.step

    def run(self) -> Outcome:
        """Train to the end.

        Raises:
            DivergedError: the loss or a weight is no number; the batch is kept.
            OutputError, FormatError, MissingError: a file that cannot be written, or an image that cannot be read.
        """
        started = time.perf_counter()
        step = Step(self.model, self.recipe, self.optimizer, self.place, self.settings.amp)
        training_mode(self.model, self.recipe)
        events = self.folder.path / "tensorboard" if self.settings.tensorboard and self.place.first else None
        log = MetricsLog(self.folder.metrics, events)
        if self.place.first:
            log.rewind(self.progress.step)
        try:
            while self.progress.step < self.total:
                self._epoch(step, log)
        finally:
            log.close()
        p = self.progress
        return Outcome(
            steps=p.step,
            epochs=p.epoch + (p.batch > 0),
            loss=self._loss,
            best=p.best,
            best_epoch=p.best_epoch,
            metric=self._metric,
            seconds=time.perf_counter() - started,
            images_per_s=self._images / self._busy if self._busy else 0.0,
            waiting=self._waited / self._busy if self._busy else 0.0,
            last=self.folder.last,
            best_path=self.folder.best if p.best is not None else None,
        )

    def _epoch(self, step: Step, log: MetricsLog) -> None:
        """The rest of the running epoch, and what follows it."""
        p, began = self.progress, time.perf_counter()
        batch, terms = None, Terms(0.0, 0.0, 0, 0)
        with closing(self.loader.epoch(p.epoch, p.batch)) as batches:  # type: ignore[type-var]
            while p.batch < self.per_epoch and p.step < self.total:
                asked = time.perf_counter()
                batch = next(batches)
                self._waited += time.perf_counter() - asked
                factor = lr_at(self.recipe.schedule, p.step, p.epoch, self.per_epoch)
                set_factor(self.optimizer, factor)
                terms = step(batch)
                if not terms.finite:
                    raise self._stop("the loss is no number any more", p.step + 1, batch, terms)
                p.step, p.batch = p.step + 1, p.batch + 1
                p.loss_sum, p.loss_count = p.loss_sum + terms.total, p.loss_count + 1
                spent = time.perf_counter() - asked
                self._busy, self._images = self._busy + spent, self._images + self.recipe.batch_size
                self._after_step(log, terms, factor, spent)
                if p.step % self.settings.save_every == 0 and p.batch < self.per_epoch and p.step < self.total:
                    self._save(batch, terms, last=False)
        if batch is not None:
            self._close_epoch(log, batch, terms, time.perf_counter() - began)

    def _after_step(self, log: MetricsLog, terms: Terms, factor: float, seconds: float) -> None:
        p = self.progress
        if not self.place.first:
            return
        self.listener.step(p.epoch, p.step, self.total, terms)
        if p.step % self.settings.log_every == 0 or p.step == self.total:
            log.write(
                p.step,
                {
                    "epoch": p.epoch,
                    "lr": self.recipe.optimizer.lr * factor,
                    "loss": terms.total,
                    "loc": terms.loc,
                    "conf": terms.conf,
                    "positives": terms.positives,
                    "negatives": terms.negatives,
                    "images_per_s": round(self.recipe.batch_size / seconds, 2),
                },
            )

    def _close_epoch(self, log: MetricsLog, batch: Batch, terms: Terms, seconds: float) -> None:
        p = self.progress
        self._loss = p.loss_sum / max(p.loss_count, 1)
        if p.batch == self.per_epoch:
            p.epoch, p.batch, p.loss_sum, p.loss_count = p.epoch + 1, 0, 0.0, 0
        ended = p.step >= self.total
        if not self.place.first:
            return
        epochs = p.epoch + (p.batch > 0)
        values: dict[str, Any] = {"epochs": epochs, "mean_loss": self._loss, "seconds": round(seconds, 2)}
        self._check(batch, terms)
        if self.evaluate is not None and (ended or p.epoch % self.settings.eval_every == 0):
            values |= self._score(epochs)
        log.write(p.step, values)
        self.listener.epoch(values)
        self._save(batch, terms, last=True)

    def _score(self, epochs: int) -> dict[str, Any]:
        assert self.evaluate is not None
        p = self.progress
        self.model.eval()
        score = self.evaluate(self.model)
        training_mode(self.model, self.recipe)
        self._metric = score.name
        if score.value is not None and (p.best is None or score.value > p.best):
            p.best, p.best_epoch = score.value, epochs
            self._checkpoint(self.folder.best, score)
        return {score.name: score.value, **score.others}

    def _save(self, batch: Batch, terms: Terms, *, last: bool) -> None:
        if self.place.first:
            self._check(batch, terms)
            if last:
                self._checkpoint(self.folder.last, None)
            write_state(self.folder.states, self.model, self.optimizer, self.progress, self.settings.keep)

    def _check(self, batch: Batch, terms: Terms) -> None:
        """Nothing is evaluated or written of a network that is broken."""
        broken = not_finite(self.model.state_dict())
        if broken:
            raise self._stop(f"tensor {broken[0]!r} is no number any more", self.progress.step, batch, terms)

    def _checkpoint(self, path: Path, score: Score | None) -> None:
        p = self.progress
        made = {
            "step": p.step,
            "epochs": p.epoch + (p.batch > 0),
            "recipe": self.recipe.name,
            "seed": self.settings.seed,
        }
        if score is not None:
            made[score.name] = score.value
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.model.state_dict().items()}
        provenance = {"converter": f"ssdconv {__version__}", "training": {**self.about, **made}}
        checkpoint.save(path, self.model.config, tensors, provenance)

    def _stop(self, what: str, step: int, batch: Batch, terms: Terms) -> Exception:
        ids = [self.data.dataset.image_ids[i] for i in batch.indices]
        suffix = "" if self.place.world == 1 else f"-rank{self.place.rank}"
        kept = keep_batch(self.folder.path / f"diverged-{step:09d}{suffix}.npz", batch, ids)
        return diverged(what, step, terms, ids, kept)
