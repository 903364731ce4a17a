"""The files of a folder as model hubs want it, and the description that two of them hold; ``export.hub`` writes them."""

from __future__ import annotations

import json
from pathlib import Path

from ssdconv.errors import FormatError

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
MAX_CONFIG = 32 << 20


def described(weights: Path) -> bool:
    """Whether a file is the weights of a hub folder, with a description of ours beside it."""
    if weights.name != WEIGHTS:
        return False
    try:
        with (weights.parent / CONFIG).open("rb") as stream:
            found = json.loads(stream.read(MAX_CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= {"version", "config", "provenance"}


def agreed(text: str | None, beside: Path) -> str | None:
    """The description in a folder's weights, or in its ``config.json`` where the weights lost theirs; two must be one.

    Args:
        text: the description (JSON) inside the weights, None where there is none.
        beside: the folder's ``config.json``; it may be absent.

    Raises:
        FormatError: it holds no description, or another network's.
    """
    try:
        with beside.open("rb") as stream:
            other = json.loads(stream.read(MAX_CONFIG))
        told = {key: other[key] for key in ("version", "config", "provenance")}
    except FileNotFoundError:
        return text
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"no description of a network: {error}", where=str(beside)) from None
    if text is not None and _config_of(text) != told["config"]:
        raise FormatError(
            f"{CONFIG} and {WEIGHTS} describe different networks",
            where=str(beside),
            hint="export the folder again; editing one of the two is not enough",
        )
    return text if text is not None else json.dumps(told)


def _config_of(text: str) -> object:
    try:
        return json.loads(text)["config"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
