"""A folder as model hubs want it: ``config.json``, ``model.safetensors`` and a model card, ``README.md``.

``model.safetensors`` is a checkpoint of ours, so it describes itself; ``config.json`` holds the same description for whoever reads
JSON only. ``ssdconv.load(FOLDER)`` gives the network back, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdconv.errors import UsageError
from ssdconv.export.card import CardFacts, model_card
from ssdconv.ssd_ref.checkpoint import VERSION, Checkpoint, save
from ssdconv.ssd_ref.containers import CARD, CONFIG, WEIGHTS
from ssdconv.ssd_ref.files import atomic_folder


@dataclass(frozen=True)
class HubFolder:
    """What was written: the files in order, and the digest of the weights."""

    files: tuple[Path, ...]
    sha256: str


def write_hub(
    checkpoint: Checkpoint,
    folder: str | Path,
    *,
    facts: CardFacts | None = None,
    parity: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> HubFolder:
    """Write the three files: all of them or, where one cannot be written, none.

    Args:
        checkpoint: the network.
        folder: made where it does not stand; other files in it are left alone.
        facts: what the user tells for the card.
        parity: figures of a parity report; they become ``provenance["parity"]`` and a table of the card.
        overwrite: replace files of these names.

    Raises:
        UsageError: one of the files stands there already.
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    targets = [folder / name for name in (WEIGHTS, CONFIG, CARD)]
    there = [target for target in targets if target.exists()]
    if there and not overwrite:
        raise UsageError("the folder holds a model already", where=str(there[0]), hint="--overwrite replaces it")
    provenance = dict(checkpoint.provenance)
    if parity is not None:
        provenance["parity"] = dict(parity)
    with atomic_folder(folder) as staged:
        save(staged / WEIGHTS, checkpoint.config, checkpoint.state_dict, provenance)
        with open(staged / WEIGHTS, "rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        config = json.loads(checkpoint.config.to_json())
        about = {"library_name": "ssdconv", "version": VERSION, "config": config, "provenance": provenance}
        (staged / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        card = model_card(checkpoint.config, provenance, sha256, facts or CardFacts(), parity)
        (staged / CARD).write_text(card, encoding="utf-8")
    return HubFolder(tuple(targets), sha256)
