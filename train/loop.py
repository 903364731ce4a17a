"""The training loop: epochs of steps, evaluations, states and checkpoints, from the start or from where a run stopped.

The loss is always in float32, matching in its source's precision. A run whose loss is no number any more stops, and the batch that
did it is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssdconv import __version__
from ssdconv.errors import EXIT_PARITY, SsdconvError, UsageError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.distributed import Rank
from ssdconv.train.loader import Batch, EpochSampler, Loader, TrainingSet, network_input
from ssdconv.train.loss import multibox_loss
from ssdconv.train.matching import Anchors
from ssdconv.train.optimizer import freeze, make_optimizer
from ssdconv.train.recipe import Recipe, lr_at, set_factor, total_steps
from ssdconv.train.run_folder import MetricsLog, RunFolder, RunProgress, newest_state, restore, write_state
from ssdconv.train.start import training_mode


@dataclass(frozen=True)
class Terms:
    """Numbers of one step, over the batch of all processes."""

    loc: float
    conf: float
    positives: int
    negatives: int

    @property
    def total(self) -> float:
        """What was minimised."""
        return self.loc + self.conf

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.total)


class TrainStep:
    """The step of one process.

    Args:
        model: in training mode, on its device, in the memory format that it shall run in.
        recipe: its loss.
        optimizer: over the model's parameters.
        place: among the processes that share the batch; with more than one, ``torch.distributed`` has begun.
        amp: run the network in bfloat16 (autocast); the parameters stay float32.
    """

    def __init__(
        self, model: SSD, recipe: Recipe, optimizer: Optimizer, place: Rank | None = None, amp: bool = False
    ) -> None:
        self.model, self.recipe, self.optimizer = model, recipe, optimizer
        self.place = place or Rank()
        self.amp = amp
        where = next(model.parameters())
        self.device = where.device
        dtype = torch.float64 if where.dtype == torch.float64 else torch.float32
        self.priors = Priors.of(model.config.priors, model.config.pixels.size, dtype, self.device)
        numerics = recipe.loss.matching.numerics
        self.anchors = Anchors.of(model.config.priors, model.config.pixels.size, numerics, self.device)
        self.net: nn.Module = model
        if self.place.world > 1:
            ids: Any = [self.device] if self.device.type == "cuda" else None
            self.net = nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def gradients(self, batch: Batch) -> Terms:
        """Forward and backward; the gradients are those of the whole batch's loss on every process."""
        pixels = batch.images.to(self.device, non_blocking=True)
        if pixels.shape[-1] == 3 and pixels.shape[1] != 3:  # raw images
            pixels = network_input(pixels, self.model.config.pixels)
        dtype = self.priors.corners.dtype
        pixels = pixels.to(dtype, memory_format=torch.channels_last)
        targets = batch.targets.to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loc, conf = self.net(pixels)
        loss = multibox_loss(
            loc.to(dtype), conf.to(dtype), self.priors, targets, self.recipe.loss, self.place, self.anchors
        )
        (loss.total * self.place.world).backward()  # type: ignore[no-untyped-call]  # the processes' gradients are averaged
        shares = self.place.total(torch.stack([loss.loc.detach(), loss.conf.detach()]))
        numbers: list[float] = torch.cat([shares, torch.stack([loss.positives, loss.negatives]).to(dtype)]).tolist()
        return Terms(numbers[0], numbers[1], int(numbers[2]), int(numbers[3]))

    def __call__(self, batch: Batch) -> Terms:
        """The whole step. Nothing is updated when the loss is not finite."""
        terms = self.gradients(batch)
        if terms.finite:
            self.optimizer.step()
        return terms


@torch.no_grad()
def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    floats = {name: t for name, t in tensors.items() if t.is_floating_point()}
    return [name for name, t in floats.items() if not bool(torch.isfinite(t).all())]


@dataclass(frozen=True)
class TrainScore:
    """An evaluation: the number that decides which checkpoint is best, its name, and others to be logged."""

    value: float | None
    name: str = "mAP"
    others: dict[str, float | None] = field(default_factory=dict)


Evaluate = Callable[[SSD], TrainScore]
"""Scores the network, which is in eval mode."""


class Listener(Protocol):
    """Hears how a run goes on."""

    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None:
        """After every update; ``done`` and ``total`` count updates of the run."""

    def epoch(self, values: dict[str, Any]) -> None:
        """After every epoch: what the log gets."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; nothing here changes the recipe.

    Attributes:
        seed: of initial values, order and augmentation.
        amp: bfloat16 in the network (``Step``).
        device: of this process.
        workers: threads that make samples.
        eval_every: epochs between evaluations; there is always one at the end.
        keep: states that are kept.
        save_every: updates between states, beside the one after every epoch.
        log_every: updates between lines of the log.
        tensorboard: whether TensorBoard's files are written too.
    """

    seed: int = 0
    amp: bool = False
    device: str = "cpu"
    workers: int = 2
    eval_every: int = 5
    keep: int = 3
    save_every: int = 1000
    log_every: int = 10
    tensorboard: bool = False


@dataclass(frozen=True)
class TrainOutcome:
    """What a run came to.

    Attributes:
        steps, epochs: done over the whole run.
        loss: mean of the last epoch; None where nothing was left to do.
        best, best_epoch, metric: best score, its epoch, its name; None and 0 without evaluation.
        seconds, images_per_s, waiting: of this process: time in the loop, rate without evaluations and saving, share of the
            time in which the network waited for images.
        last, best_path: checkpoints.
    """

    steps: int
    epochs: int
    loss: float | None
    best: float | None
    best_epoch: int
    metric: str
    seconds: float
    images_per_s: float
    waiting: float
    last: Path
    best_path: Path | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


class DivergedError(SsdconvError):
    """The loss, or a weight, became NaN or infinite."""

    exit_code = EXIT_PARITY


def keep_batch(path: Path, batch: Batch, names: Sequence[str]) -> Path:
    """Write a batch as .npz: ``images``, ``boxes``, ``labels``, ``valid``, ``indices``, ``image_ids``; loads without pickle."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            images=batch.images.cpu().numpy(),
            boxes=batch.targets.boxes.cpu().numpy(),
            labels=batch.targets.labels.cpu().numpy(),
            valid=batch.targets.valid.cpu().numpy(),
            indices=np.asarray(batch.indices, np.int64),
            image_ids=np.asarray(list(names), np.str_),
        )
    return path


def diverged(what: str, step: int, terms: Terms, names: Sequence[str], kept: Path) -> DivergedError:
    """The error that names the images of the batch."""
    shown = ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
    hint = f"the batch is in {kept}; a smaller --lr or a --warmup often helps, and the last good state can be resumed"
    if terms.positives == 0:
        hint = (
            f"no prior of the batch overlaps an object enough, and this recipe's source divides by their number: "
            f"--quirks sane gives such a batch a loss of 0; it is in {kept}"
        )
    return DivergedError(
        what,
        where=f"step {step}",
        got=f"loc {terms.loc:g}, conf {terms.conf:g} on images {shown}",
        hint=hint,
    )


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
        place: Rank | None = None,
        evaluate: Evaluate | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.place = place or Rank()
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
        self.progress = RunProgress()
        self._busy, self._waited, self._images = 0.0, 0.0, 0
        self._loss: float | None = None
        self._metric = "mAP"

    def resume(self) -> int:
        """Take up the newest good state of the folder; returns the number of updates that it has done."""
        state = newest_state(self.folder.states, self.listener.note if self.place.first else lambda _: None)
        if state is not None:
            self.progress = restore(state, self.model, self.optimizer)
        return self.progress.step

    def run(self) -> TrainOutcome:
        """Train to the end.

        Raises:
            DivergedError: the loss or a weight is no number; the batch is kept.
            OutputError, FormatError, MissingError: a file that cannot be written, or an image that cannot be read.
        """
        started = time.perf_counter()
        step = TrainStep(self.model, self.recipe, self.optimizer, self.place, self.settings.amp)
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
        return TrainOutcome(
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

    def _epoch(self, step: TrainStep, log: MetricsLog) -> None:
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

    def _checkpoint(self, path: Path, score: TrainScore | None) -> None:
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
