"""The folder of a run: what it was, what it told, what it left.

==================  ===============================================================================================
``run.json``        command lines, versions, data set, seed, class names, where the first values came from
``config.json``     the network; ``recipe.json`` the recipe with the run's own figures
``metrics.jsonl``   one line per logged step and per epoch
``states/``         the last states, from which the run can be resumed
``last.pth``        the network as it is; ``best.pth`` at its best evaluation: checkpoints for every other command
``diverged-*.npz``  the batch at which the loss stopped being a number
==================  ===============================================================================================
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ssdconv import __version__
from ssdconv.data.records import Dataset
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import read_text
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
