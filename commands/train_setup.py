"""From the options of ``ssdconv train`` to data sets, network and recipe, and what a training shows on stderr.

Stderr gets a progress bar on a terminal, and one line per epoch everywhere.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.arguments import existing
from ssdconv.errors import FormatError, MissingError, SsdconvError, UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.gate import read_input, reader
from ssdconv.ssd_ref.loss_rule import sane
from ssdconv.text import console
from ssdconv.train.loop import Terms

if TYPE_CHECKING:
    from ssdconv.data.images import OnProgress
    from ssdconv.data.records import Dataset, Problems
    from ssdconv.ssd_ref.model import SSD
    from ssdconv.train.recipe import Recipe
    from ssdconv.train.start import Start

HELD_OUT = {
    "voc0712": "voc07",
    "voc07-trainval": "voc07",
    "voc12-trainval": "voc07",
    "coco-train2017": "coco-val2017",
}
"""Training set -> the set on which it is evaluated."""


@dataclass(frozen=True)
class Network:
    """A network for the data set's classes; ``renew``: prefixes of tensors that do not come from ``finetune``."""

    config: SSDConfig
    renew: tuple[str, ...]


def training_data(options: Namespace, keep_going: Problems | None = None) -> Dataset:
    """The training set.

    Args:
        options: of the run.
        keep_going: collector of what its annotations have wrong.

    Raises:
        UsageError: none is named. Otherwise as ``open_dataset``.
    """
    from ssdconv.data.catalog import open_dataset

    if not options.dataset and not options.annotations:
        raise UsageError(
            "train on what?", hint="--dataset voc0712 --data-root VOCdevkit, or a folder or .yaml of your own"
        )
    images = options.images
    return open_dataset(
        options.dataset,
        options.data_root,
        annotations=options.annotations,
        images=images,
        split=options.split,
        keep_going=keep_going,
    )


def looked_at(
    dataset: Dataset, options: Namespace, keep_going: Problems | None, progress: OnProgress | None
) -> tuple[Dataset, list[str]]:
    """The data set once its images were looked at, before the first step, and lines that tell what is in it.

    Without a collector every image must be there with its annotated size. With one all are decoded, and those that cannot be
    used are left out.

    Raises:
        MissingImageError, UnreadableImageError, SizeMismatchError: the first fault, without a collector.
        EmptySetError: no image is left.
    """
    from ssdconv.data.images import check_images
    from ssdconv.data.records import EmptySetError
    from ssdconv.data.survey import count

    fine = check_images(
        dataset, keep_going, whole=keep_going is not None, workers=max(options.workers, 1), progress=progress
    )
    if not fine:
        raise EmptySetError("no image of the data set can be used", where=dataset.name)
    if len(fine) < len(dataset):
        dataset = dataset.take(fine)
    return dataset, [f"{dataset.name}: {count(dataset).text}"]


def held_out_data(options: Namespace, training: Dataset, keep_going: Problems | None = None) -> Dataset | None:
    """The set for evaluation; None with ``--no-eval``.

    Raises:
        MissingError: it cannot be opened; the hint tells how to go on.
        UsageError: it is the training set itself, or has other classes.
    """
    from ssdconv.data.catalog import DATASETS, open_dataset

    if options.no_eval:
        return None
    hint = "name one with --eval-dataset (--eval-root, --eval-split), or train with --no-eval"
    own = options.eval_dataset or (options.dataset if options.dataset not in DATASETS else None)
    name = own or HELD_OUT.get(options.dataset)
    if name is None:
        raise MissingError(f"there is no held-out set for {options.dataset or options.annotations}", hint=hint)
    split = options.eval_split or (None if options.eval_dataset else "val")
    try:
        held = open_dataset(name, options.eval_root or options.data_root, split=split, keep_going=keep_going)
    except SsdconvError as error:
        raise type(error)(error.what, where=error.where, expected=error.expected, got=error.got, hint=hint) from None
    if held.image_ids == training.image_ids and held.name == training.name:
        raise UsageError("the held-out set is the training set", where=held.name, hint=hint)
    if set(held.classes) != set(training.classes):
        raise UsageError(
            "the held-out set has other classes than the training set",
            where=held.name,
            expected=", ".join(training.classes[:8]),
            got=", ".join(held.classes[:8]),
        )
    return held


def network_of(options: Namespace, classes: Sequence[str]) -> Network:
    """The network that the options name, for ``classes``.

    Raises:
        UsageError: none or several named, or one that cannot be trained.
        MissingError, FormatError: a file.
    """
    from ssdconv.train.start import check_trainable, with_classes

    named = [n for n in ("network", "config", "finetune") if getattr(options, n)]
    if len(named) != 1:
        raise UsageError(
            "train which network?" if not named else f"--{' and --'.join(named)} contradict each other",
            expected="one of --network NAME, --config FILE, --finetune FILE",
        )
    if options.network:
        from ssdconv.ssd_ref.networks.registry import network

        config = network(options.network)
    elif options.config:
        config = read_config(existing(options.config))
    else:
        from ssdconv.ssd_ref.checkpoint import read

        config = read(existing(options.finetune)).config
    check_trainable(config)
    return Network(*with_classes(config, classes))


@reader
def read_config(path: Path) -> SSDConfig:
    """A network as JSON, as a run's ``config.json``.

    Raises:
        MissingError, FormatError: no such file, or no config; with its name.
    """
    try:
        return SSDConfig.from_json(read_input(path, "document", "network config"))
    except FormatError as error:
        where = str(path) if not error.where or error.where == str(path) else f"{path}: {error.where}"
        raise FormatError(error.what, where=where, expected=error.expected, got=error.got, hint=error.hint) from None


def recipe_for(options: Namespace, config: SSDConfig, images: int) -> Recipe:
    """The recipe with the run's own figures."""
    from ssdconv.train.recipe import edited
    from ssdconv.train.recipes import FILE, default_recipe, of_file, recipe_of

    recipe = recipe_of(options.recipe) if options.recipe and options.recipe != FILE else default_recipe(config)
    if options.recipe == FILE:
        recipe = of_file(recipe, config)
    if options.quirks == "sane":
        recipe = replace(recipe, loss=sane(recipe.loss), norm=replace(recipe.norm, scales="exact"))
    return edited(
        recipe,
        images,
        batch_size=options.batch_size,
        lr=options.lr,
        lr_mode=options.lr_mode,
        warmup=options.warmup,
        epochs=options.epochs,
        iterations=options.iterations,
        without=tuple(options.without or ()),
    )


def starting_network(options: Namespace, network: Network, recipe: Recipe) -> tuple[SSD, Start]:
    """The network with its starting values, and where they come from."""
    from ssdconv.ssd_ref.model import SSD
    from ssdconv.train.start import begin

    model = SSD(network.config)
    tensors: dict[str, Any] = {}
    sources = [Path(p).name for p in (options.finetune, options.backbone_weights) if p]
    if options.finetune:
        from ssdconv.ssd_ref.checkpoint import build, read

        path = existing(options.finetune)
        tensors |= build(read(path), where=str(path)).state_dict()
    if options.backbone_weights:
        from ssdconv.converters.backbone_weights import backbone_tensors

        tensors |= backbone_tensors(existing(options.backbone_weights), model)
    return model, begin(model, recipe, options.seed, tensors, network.renew, " and ".join(sources))


class Watcher:
    """A ``Listener``; ``bar`` and ``task`` of rich where stderr is a terminal."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self.bar, self.task = bar, task
        self._started = False

    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None:
        """Move the bar."""
        if self.bar is None:
            return
        if not self._started:  # a resumed run does not begin at 0, and its speed must not count what was done before
            self.bar.reset(self.task, total=total, completed=done, start=True)
            self._started = True
        text = f"epoch {epoch + 1}  loss {terms.total:.3f} (loc {terms.loc:.3f}, conf {terms.conf:.3f})"
        self.bar.update(self.task, completed=done, total=total, description=text)

    def epoch(self, values: dict[str, Any]) -> None:
        """One line."""
        scores = [f"{k} {100 * v:.2f}" for k, v in values.items() if k in ("mAP", "AP") and v is not None]
        parts = [
            f"epoch {values['epochs']}",
            f"mean loss {values['mean_loss']:.4f}",
            *scores,
            f"{values['seconds']:.0f} s",
        ]
        self.note(", ".join(parts))

    def note(self, text: str) -> None:
        """A line, above the bar where there is one."""
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.bar.console.print(text, highlight=False, markup=False)


class Silent(Watcher):
    """Of the processes that only compute."""

    def epoch(self, values: dict[str, Any]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@contextmanager
def watching(first: bool) -> Iterator[Watcher]:
    """The listener of this process."""
    if not first:
        yield Silent()
        return
    if not sys.stderr.isatty():
        yield Watcher()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        yield Watcher(bar, bar.add_task("", total=None))
