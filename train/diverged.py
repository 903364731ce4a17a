"""A run whose loss is no number any more: it stops, and the batch that did it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssdconv.errors import EXIT_PARITY, SsdconvError
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.train.loader import Batch
from ssdconv.train.step import Terms


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
