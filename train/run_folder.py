"""The folder of a run: what it was, what it told, what it left.

==================  ===============================================================================================
``run.json``        command lines, versions, data set, seed, class names, where the first values came from
``config.json``     the network; ``recipe.json`` the recipe with the run's own figures
``metrics.jsonl``   one line per logged step and per epoch
``states/``         the last states, from which the run can be resumed
``last.pth``        the network as it is; ``best.pth`` at its best evaluation: checkpoints for every other command
``diverged-*.npz``  the batch at which the loss stopped being a number
==================  ===============================================================================================

A state holds everything that a resumed run needs to go on as if nothing had happened. The file is one line, ``ssdconv-state 1
<sha256 of the rest>``, then ``torch.save`` of plain data and tensors: the network, the optimizer, the place within the data (epoch
and batch; order and augmentation are functions of seed, epoch and image), torch's random state. It is written whole or not at
all, and loads with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ssdconv import __version__
from ssdconv.data.records import Dataset
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import read_input, read_text, reader
from ssdconv.train.recipe import Recipe

_PACKAGES = ("torch", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Identity:
    """What makes a run this run; a resumed one must have the same.

    Attributes:
        config, recipe: the network, the recipe with the run's own figures.
        data: name, number of images, digest of the annotations (``describe_data``).
        seed, augment, amp: as in the settings.
    """

    config: SSDConfig
    recipe: Recipe
    data: Mapping[str, Any]
    seed: int
    augment: str
    amp: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "config": json.loads(self.config.to_json()),
            "recipe": json.loads(self.recipe.to_json()),
            "data": dict(self.data),
            "seed": self.seed,
            "augment": self.augment,
            "amp": self.amp,
        }


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Name, image count, classes, and a digest of every image's id, size and objects (image files are not read)."""
    digest = hashlib.sha256()
    for record in dataset:
        digest.update(f"{record.image_id} {record.width} {record.height} {len(record)}\n".encode())
        for array in (record.boxes, record.labels, record.difficult, record.crowd):
            digest.update(array.tobytes())
    return {
        "name": dataset.name,
        "images": len(dataset),
        "classes": list(dataset.classes),
        "annotations": digest.hexdigest(),
    }


def versions() -> dict[str, str]:
    """Of everything that the numbers depend on."""
    found = {"ssdconv": __version__, "python": platform.python_version(), "machine": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "?"
    return found


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.states = self.path / "states"
        self.metrics = self.path / "metrics.jsonl"
        self.last, self.best = self.path / "last.pth", self.path / "best.pth"

    @property
    def begun(self) -> bool:
        """Whether a run stands here."""
        return (self.path / "run.json").is_file()

    @property
    def has_states(self) -> bool:
        """Whether there is something to resume from; a run may be killed before its first state."""
        return any(self.states.glob("step-*.state"))

    def create(self, identity: Identity, about: Mapping[str, Any]) -> None:
        """Make the folder and write what the run is; ``about`` is JSON-ready and goes to ``run.json``.

        Raises:
            OutputError: it cannot be written.
        """
        self.states.mkdir(parents=True, exist_ok=True)
        whole = identity.to_json()
        self._write("config.json", whole.pop("config"))
        self._write("recipe.json", whole.pop("recipe"))
        started = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._write("run.json", {**whole, "versions": versions(), "started": started, **about})

    def read(self) -> tuple[Identity, dict[str, Any]]:
        """What the run is, and the whole of ``run.json``.

        Raises:
            MissingError: no run stands here.
            FormatError: a file is damaged.
        """
        if not self.begun:
            raise MissingError("no run stands here", where=str(self.path), hint="leave --resume away to begin one")
        try:
            about = json.loads(self._text("run.json"))
            config = SSDConfig.from_json(self._text("config.json"))
            recipe = Recipe.from_json(self._text("recipe.json"))
            return Identity(config, recipe, about["data"], about["seed"], about["augment"], about["amp"]), about
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(f"the description of the run is damaged: {error}", where=str(self.path)) from None

    def note_resumption(self, command: list[str], step: int) -> None:
        """Add a line about a resumption to ``run.json``."""
        about = json.loads(self._text("run.json"))
        entry = {"command": command, "step": step, "at": time.strftime("%Y-%m-%d %H:%M:%S %z"), "versions": versions()}
        about.setdefault("resumed", []).append(entry)
        self._write("run.json", about)

    def _text(self, name: str) -> str:
        return read_text(self.path / name, "document", "description of a run")

    def _write(self, name: str, data: Any) -> None:
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def check_same(before: Identity, now: Identity, where: Path) -> None:
    """Refuse to resume another run.

    Raises:
        UsageError: names everything that differs, with both values.
    """
    changes = list(differences(before.to_json(), now.to_json()))
    if changes:
        shown = "; ".join(f"{name}: {_short(a)} in the run, {_short(b)} now" for name, a, b in changes[:6])
        more = f"; and {len(changes) - 6} more" if len(changes) > 6 else ""
        raise UsageError(
            f"the run cannot be resumed with something else: {shown}{more}",
            where=str(where),
            hint="resume it with --resume --out alone, or begin another run in another folder",
        )


def differences(a: Any, b: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names and both values of everything in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            yield from differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{name}[{place}]")
    elif a != b:
        yield name, a, b


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


HEAD = b"ssdconv-state 1 "
PATTERN = "step-*.state"


@dataclass
class RunProgress:
    """How far a run is.

    Attributes:
        step: updates done.
        epoch, batch: the next batch.
        loss_sum, loss_count: of the running epoch.
        best, best_epoch: best score so far, and after how many epochs it was reached.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    best: float | None = None
    best_epoch: int = 0


def write_state(folder: Path, model: nn.Module, optimizer: Optimizer, progress: RunProgress, keep: int) -> Path:
    """Write ``step-<step>.state`` to ``folder`` and remove all but the newest ``keep`` states.

    Raises:
        OutputError: it cannot be written; the older ones stay.
    """
    random: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        random["cuda"] = torch.cuda.get_rng_state()
    body = io.BytesIO()
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": asdict(progress),
            "random": random,
        },
        body,
    )
    view = body.getbuffer()
    path = folder / f"step-{progress.step:09d}.state"
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(HEAD + hashlib.sha256(view).hexdigest().encode() + b"\n")
        stream.write(view)
    for old in sorted(folder.glob(PATTERN))[:-keep]:
        old.unlink(missing_ok=True)
    return path


@reader
def read_state(path: Path) -> dict[str, Any]:
    """The content of a state file.

    Raises:
        FormatError: not a state file, cut short or changed.
    """
    data = read_input(path, "state", "state of a run")
    line, _, body = data.partition(b"\n")
    if not line.startswith(HEAD):
        raise FormatError("this is no state of a training run", where=str(path))
    if hashlib.sha256(body).hexdigest().encode() != line[len(HEAD) :]:
        raise FormatError("this state is damaged or was cut short", where=str(path), got=f"{len(data)} bytes")
    try:
        loaded = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch's reader lets whatever its input provokes through
        raise FormatError(f"not a readable state: {type(error).__name__}", where=str(path)) from None
    if not isinstance(loaded, dict) or not {"model", "optimizer", "progress", "random"} <= loaded.keys():
        raise FormatError("this state lacks something", where=str(path))
    return loaded


def newest_state(folder: Path, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest state that can be read; None where there is none.

    ``tell`` hears about every damaged one that was passed over.

    Raises:
        FormatError: there are states, and all are damaged.
    """
    _remove_unfinished(folder)
    paths = sorted(folder.glob(PATTERN), reverse=True)
    for place, path in enumerate(paths):
        try:
            return read_state(path)
        except FormatError as error:
            if place == len(paths) - 1:
                hint = "no older state is left: train from the start in another folder"
                raise FormatError(error.what, where=error.where, got=error.got, hint=hint) from None
            tell(f"{error.what}: {path.name}; going back to {paths[place + 1].name}")
    return None


def _remove_unfinished(folder: Path) -> None:
    """Temporary files of a process that was killed while it wrote."""
    for path in folder.glob(".step-*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def restore(state: dict[str, Any], model: nn.Module, optimizer: Optimizer) -> RunProgress:
    """Put a state into network, optimizer and random generators.

    Raises:
        FormatError: it belongs to another network or optimizer.
    """
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = RunProgress(**state["progress"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"the state belongs to another network: {str(error).splitlines()[0]}") from None
    torch.set_rng_state(state["random"]["cpu"])
    if "cuda" in state["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random"]["cuda"])
    return progress


class MetricsLog:
    """Appends one JSON object a line; every line has a ``step``, the number of updates done.

    Args:
        path: the file; what stands there is continued.
        tensorboard: folder for TensorBoard's event files as well.

    Raises:
        MissingError: TensorBoard is wanted and not installed.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        self.path = path
        self._writer: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError:
                raise MissingError(
                    "TensorBoard is not installed",
                    hint="python -m pip install tensorboard, or leave --tensorboard away",
                ) from None
            self._writer = SummaryWriter(str(tensorboard))

    def rewind(self, step: int) -> None:
        """Drop lines after ``step``, which a resumed run writes anew, and a line that was cut short."""
        if not self.path.is_file():
            return
        kept = [line for line in read_text(self.path, "list", "log of a run").splitlines() if _step(line) <= step]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line; numbers also go to TensorBoard. What is no number in JSON becomes its name."""
        plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with open(self.path, "a") as stream:
            stream.write(json.dumps({"step": step, **plain}) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
