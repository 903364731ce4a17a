"""The naming dialects of ``.params`` files, brought to one network's tensors by name.

One network is written in three ways, with the same tensors:

- ``structural`` (``save_parameters``): attribute path, ``features.stages.0.0.weight``, ``class_predictors.0.predictor.bias``;
- ``legacy`` (``save_params``, ``collect_params().save``): block prefixes with counters, ``ssd14_resnetv10_conv0_weight``,
  with or without the network's own prefix (``ssd14_``), which may be any word;
- ``export`` (``export``, Module checkpoints): legacy names behind ``arg:`` or ``aux:``.

Counters of blocks that occur once carry no meaning: they tell how many networks a process had built before. Networks that were trained
with statistics over several GPUs have ``syncbatchnorm`` where others have ``batchnorm``; it is the same layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ssdconv.errors import MappingError

Dialect = Literal["structural", "legacy", "export", "unnamed"]

_COUNTER = re.compile(r"(?<![a-z0-9])(resnetv[12]|mobilenet|vggatrousextractor|normalize|resnetv1bssd)\d+_")
_ANCHOR = re.compile(r"(ssd|lite)anchorgenerator\d+_anchor_(\d+)$")
_NETWORK = re.compile(r"^ssd\d+_")
_HEAD = re.compile(r"(?:.*_)?(convpredictor\d+_conv0_(?:weight|bias))")
_FIRST_BOX_HEAD = "convpredictor1_conv0_weight"


@dataclass(frozen=True)
class ParamName:
    """A tensor's name in both schemes; ``legacy`` as the first network of a process has it (``ssd0_…``)."""

    structural: str
    legacy: str


def dialect_of(names: Sequence[str]) -> Dialect:
    """Which scheme a file's names follow; ``unnamed`` for an empty list."""
    if not names:
        return "unnamed"
    if any(name.startswith(("arg:", "aux:")) for name in names):
        return "export"
    return "structural" if any("." in name for name in names) else "legacy"


def prefix_counts(names: Iterable[str]) -> dict[str, int]:
    """How many names begin with ``arg:``, with ``aux:``, and with neither (key ``""``)."""
    counts = {"arg": 0, "aux": 0, "": 0}
    for name in names:
        counts[name[:3] if name.startswith(("arg:", "aux:")) else ""] += 1
    return counts


def bare(name: str) -> str:
    """The name without ``arg:`` or ``aux:``."""
    return name[4:] if name.startswith(("arg:", "aux:")) else name


def without_counters(name: str, prefix: str = "") -> str:
    """The name as the first network of a process would have it, without the network's own prefix.

    >>> without_counters("arg:ssd14_resnetv13_stage1_conv0_weight")
    'resnetv10_stage1_conv0_weight'
    """
    name = bare(name).replace("syncbatchnorm", "batchnorm")
    head = "features." if name.startswith("features.") else ""
    name = name.removeprefix(head)
    if match := _HEAD.fullmatch(name):
        return match[1]  # after reset_class the class predictors have the network's prefix twice
    name = name.removeprefix(prefix) if prefix else _NETWORK.sub("", name, count=1)
    return head + _ANCHOR.sub(r"\1anchorgenerator\2_anchor_\2", _COUNTER.sub(r"\g<1>0_", name))


def resolve(names: Iterable[str], wanted: Sequence[ParamName], *, where: str = "") -> dict[str, str]:
    """Find a network's tensors among a file's names.

    Args:
        names: all names of the file, in any dialect and any order.
        wanted: the network's tensors.
        where: file name for the error message.

    Returns:
        Structural name -> name in the file, one per wanted tensor. A tensor that the file lacks gets the name that it
        would have there, so that a mapping's check can tell what is missing in the file's own terms.

    Raises:
        MappingError: two names of the file mean the same tensor, or the file has no names.
    """
    names = list(names)
    if names == [str(index) for index in range(len(names))]:
        raise MappingError(
            "the file is a list of arrays without names, and arrays are never paired by position",
            where=where or None,
            hint="load it into its network with MXNet and save it with `net.save_parameters`",
        )
    dialect = dialect_of(names)
    prefix = network_prefix(names)
    known = {without_counters(w.legacy): w.structural for w in wanted}
    known |= {without_counters(w.structural): w.structural for w in wanted}
    found: dict[str, str] = {}
    for name in names:
        structural = known.get(without_counters(name, prefix))
        if structural is None:
            continue
        if structural in found:
            raise MappingError(
                f"{found[structural]!r} and {name!r} are both {structural!r}",
                where=where or None,
                expected="one of them",
            )
        found[structural] = name
    for w in wanted:
        found.setdefault(w.structural, in_dialect(w, dialect, prefix))
    return found


def plain_names(names: Iterable[str]) -> set[str]:
    """A file's names without counters and without the network's own prefix, whatever it is."""
    names = list(names)
    prefix = network_prefix(names)
    return {without_counters(name, prefix) for name in names}


def network_prefix(names: Iterable[str]) -> str:
    """The prefix that the user gave the whole network, read off the first box predictor; "" without one."""
    for name in names:
        name = bare(name)
        if name.endswith(_FIRST_BOX_HEAD) and "." not in name:
            return name[: -len(_FIRST_BOX_HEAD)]
    return ""


def in_dialect(name: ParamName, dialect: Dialect, prefix: str = "ssd0_") -> str:
    """The name that a tensor has in a file of that dialect, with the network's own prefix."""
    if dialect == "structural":
        return name.structural
    legacy = prefix + without_counters(name.legacy)
    if dialect == "legacy":
        return legacy
    statistics = ("_running_mean", "_running_var", "_moving_mean", "_moving_var")
    return ("aux:" if legacy.endswith(statistics) else "arg:") + legacy
