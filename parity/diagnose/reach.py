"""Which layers can be the reason that a probe differs while the ones before it agree."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn

from ssdconv.parity.diagnose.judge import Outcome
from ssdconv.parity.diagnose.net import Net, Role
from ssdconv.parity.diagnose.replay import Tape


def reach(net: Net, outcome: Outcome, place: int) -> tuple[list[str], set[Role], Tape | None]:
    """Layers that can make a probe differ while all before it agree, their roles, and a tape to replay; none behind the heads.

    Args:
        net: the network that ``outcome`` is of.
        place: of the probe; behind the last one stand the detections.
    """
    if place == len(outcome.probes):
        seen = any(p.reference == "@priors" for p in outcome.probes)
        return [], {"detections"} if seen else {"detections", "priors"}, None
    reference = outcome.probes[place].reference
    fixed: dict[str, set[Role]] = {"@input": {"input"}, "@priors": {"priors"}, "@scores": {"scores"}}
    if reference in fixed:
        return [], fixed[reference], None
    model = net.model()
    tape = Tape(model, torch.as_tensor(outcome.pixels))
    passed = {p.reference.split(":")[0] for p in outcome.probes if p}
    paths = reachable(tape.order, reference, passed)
    return paths, roles_of(model, paths, tape.order), tape


def reachable(order: Sequence[str], reference: str, passed: Collection[str]) -> list[str]:
    """Layers without children whose mistakes can show first at a probe.

    Args:
        order: all layers as they ran.
        reference: the probe's module path, or ``@loc`` / ``@conf``.
        passed: modules whose outputs agree.

    Returns:
        The probe's own layers and those before it that nothing has shown to agree. A layer in front of one that agrees counts as
        agreeing only where it runs right before it.
    """
    path = reference.split(":")[0]
    if path.startswith("@"):
        end = len(order) - 1
    else:
        within = [i for i, p in enumerate(order) if p == path or p.startswith(f"{path}.")]
        end = max(within, default=len(order) - 1)
    agreed = [i for i in range(end) if _covers(passed, order[i])]
    start = max(agreed, default=-1) + 1
    heads = [p for p in order[:start] if p.startswith("heads.") and not _covers(passed, p)]
    return [*heads, *(p for p in order[start : end + 1] if not _covers(passed, p))]


def _covers(passed: Collection[str], path: str) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:n]) in passed for n in range(1, len(parts) + 1))


_GRAPH_ROLES: dict[str, Role] = {
    "Convolution": "conv",
    "InnerProduct": "conv",
    "Deconvolution": "conv",
    "Pooling": "pool",
    "BatchNorm": "norm",
    "Scale": "norm",
    "Normalize": "l2norm",
    "ReLU": "act",
}


def roles_of(model: nn.Module, paths: Sequence[str], order: Sequence[str]) -> set[Role]:
    """The roles of these layers."""
    roles: set[Role] = set()
    first = next((p for p in order if isinstance(model.get_submodule(p), nn.Conv2d)), "")
    for path in paths:
        module = model.get_submodule(path)
        kind = type(module).__name__
        if isinstance(module, nn.Conv2d):
            roles.add("loc" if ".loc." in path else "conf" if ".conf." in path and "heads." in path else "conv")
            if path == first:
                roles.add("first")
        elif ("Norm" in kind and kind != "L2Norm" and kind != "Normalize") or kind in ("Standardize", "ChannelAffine"):
            roles.add("norm")
        elif kind in ("L2Norm", "Normalize"):
            roles.add("l2norm")
        elif "Pool" in kind:
            roles.add("pool")
        elif "ReLU" in kind or kind == "ELU":
            roles.add("act")
        elif kind == "SamePad":
            roles |= {"conv", "pool"}
        role = _GRAPH_ROLES.get(kind)
        if role is not None:
            roles.add(role)
    return roles
