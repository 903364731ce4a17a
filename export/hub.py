"""A folder as model hubs want it: ``config.json``, ``model.safetensors`` and a model card, ``README.md``.

``model.safetensors`` is a checkpoint of ours, so it describes itself; ``config.json`` holds the same description for whoever reads
JSON only. ``ssdconv.load(FOLDER)`` gives the network back, bit for bit. The card has YAML front matter and says where the weights
come from, what is proven, and how to load them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.checkpoint import VERSION, Checkpoint, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.containers import CARD, CONFIG, WEIGHTS
from ssdconv.ssd_ref.files import atomic_folder
from ssdconv.text import Markdown, markdown_code, markdown_table, markdown_text


@dataclass(frozen=True)
class CardFacts:
    """What only the user knows.

    Attributes:
        license: identifier as the hub lists them; "unknown" where nobody told.
        datasets: identifiers of the data sets that the network was trained on.
    """

    license: str = "unknown"
    datasets: tuple[str, ...] = ()


def model_card(
    config: SSDConfig, provenance: Mapping[str, Any], sha256: str, facts: CardFacts, parity: Mapping[str, Any] | None
) -> str:
    """The card as Markdown.

    Args:
        config: the network.
        provenance: of the checkpoint.
        sha256: of ``model.safetensors``.
        facts: from the user.
        parity: figures as ``parity_report.ParityReport.summary`` gives them; None where nothing was measured.
    """
    parts = [
        _front_matter(config, facts),
        f"# {config.name}",
        _introduction(config, provenance),
        "## Use",
        _use(config),
        "## Network",
        _network(config),
        "## Provenance",
        _provenance(provenance, sha256),
        "## Parity with the source",
        _parity(parity),
        "## Training data and license",
        _rights(facts),
    ]
    if config.class_names:
        names = ", ".join(f"{number} {name}" for number, name in enumerate(config.class_names))
        parts += ["## Classes", markdown_text(names)]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: SSDConfig, facts: CardFacts) -> str:
    # JSON strings are YAML strings, whatever is in them.
    lines = [
        f"license: {json.dumps(facts.license)}",
        "library_name: ssdconv",
        "pipeline_tag: object-detection",
        "tags:",
    ]
    lines += [f"- {json.dumps(tag)}" for tag in ("ssd", "single-shot-multibox-detector", config.source)]
    if facts.datasets:
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in facts.datasets)]
    return "\n".join(["---", *lines, "---"])


def _introduction(config: SSDConfig, provenance: Mapping[str, Any]) -> str:
    return (
        f"A Single Shot MultiBox Detector (arXiv:1512.02325), converted from {markdown_code(provenance.get('file', 'a file'))} of "
        f"{config.source} to PyTorch by ssdconv {markdown_text(provenance.get('ssdconv', ''))}. The tensors are the source's, "
        "reordered only; pixels, prior boxes and the detection rule are the source's too and stand in `config.json`."
    )


def _use(config: SSDConfig) -> str:
    return (
        "```python\nimport ssdconv\n\nmodel = ssdconv.load(\"this-folder\")\n"
        "for found in model.detect([\"photo.jpg\"], threshold=0.5):\n"
        "    print(found.labels, found.scores, found.boxes)  # boxes: xmin, ymin, xmax, ymax in pixels of the photo\n```"
    )  # fmt: skip


def _network(config: SSDConfig) -> str:
    pixels, rule = config.pixels, config.detect
    height, width = pixels.size
    limit = "≥" if rule.score_inclusive else ">"
    return markdown_table(
        ("", "value"),
        [
            ("input", f"{width}x{height} pixels (width x height), {pixels.order}, resized by {pixels.resize}"),
            ("pixels", f"((x / {pixels.unit:g}) - {list(pixels.mean)}) / {list(pixels.std)} * {pixels.scale:g}"),
            ("outputs per prior", f"{config.num_classes} classes, background: {rule.background}"),
            ("priors", config.num_priors or "unknown: the source file does not tell them"),
            ("detections", f"score {limit} {rule.score_threshold:g}, NMS at IoU {rule.nms_threshold:g}"),
        ],
        left=2,
    )


def _provenance(provenance: Mapping[str, Any], sha256: str) -> str:
    rows = [
        ("source file", markdown_code(provenance.get("file", "not recorded"))),
        ("its format", provenance.get("format", "not recorded")),
        ("its sha256", markdown_code(provenance.get("sha256", "not recorded"))),
        (Markdown("`model.safetensors`, sha256"), markdown_code(sha256)),
        ("converter", f"ssdconv {provenance.get('ssdconv', '(version not recorded)')}"),
    ]
    return markdown_table(("", "value"), rows, left=2)


def _parity(parity: Mapping[str, Any] | None) -> str:
    if parity is None:
        return "Not measured. `ssdconv verify` compares every layer with a live run of the source file."
    rows = [
        (key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else value)
        for key, value in parity.items()
        if not isinstance(value, Mapping) and key != "headline"
    ]
    verdict = "Both sides agree: " + str(parity.get("headline") or "who vouches for what was not recorded") + "."
    verdict = markdown_text(verdict) if parity.get("passed") else "**The check failed.**"
    return f"{verdict} Ratios are errors over the rounding floor of float32.\n\n{markdown_table(('', 'value'), rows, left=2)}"


def _rights(facts: CardFacts) -> str:
    data = ", ".join(facts.datasets) if facts.datasets else "not recorded"
    rights = (
        "unknown: ask whoever published the original file before passing it on"
        if facts.license == "unknown"
        else facts.license
    )
    return f"Training data: {markdown_text(data)}. License of the weights: {markdown_text(rights)}."


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
