"""The state of a run on disk: everything that a resumed run needs to go on as if nothing had happened.

A state file is one line, ``ssdconv-state 1 <sha256 of the rest>``, then ``torch.save`` of plain data and tensors: the network,
the optimizer, the place within the data (epoch and batch; order and augmentation are functions of seed, epoch and image),
torch's random state. It is written whole or not at all, and loads with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import read_input

HEAD = b"ssdconv-state 1 "
PATTERN = "step-*.state"


@dataclass
class Progress:
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


def write_state(folder: Path, model: nn.Module, optimizer: Optimizer, progress: Progress, keep: int) -> Path:
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


def restore(state: dict[str, Any], model: nn.Module, optimizer: Optimizer) -> Progress:
    """Put a state into network, optimizer and random generators.

    Raises:
        FormatError: it belongs to another network or optimizer.
    """
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"the state belongs to another network: {str(error).splitlines()[0]}") from None
    torch.set_rng_state(state["random"]["cpu"])
    if "cuda" in state["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random"]["cuda"])
    return progress
