"""What a run tells while it goes on: ``metrics.jsonl``, and TensorBoard where it is wanted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ssdconv.errors import MissingError
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import read_text


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
