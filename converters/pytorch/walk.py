"""Going through what ``machine`` read: references to storages, state dicts, and tensors. No recursion: depth is the file's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ssdconv.converters.pytorch.allowed import PARAMETER, REBUILD
from ssdconv.converters.pytorch.machine import Call, Global, Persistent


def persistent(root: Any) -> Iterator[Persistent]:
    """Every reference to a storage, each object visited once, in the order met."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str | bytes | int | float | bool | None | Global) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Persistent):
            yield node
        elif isinstance(node, Call):
            waiting += [node.values, node.items, node.state, node.args]
        elif isinstance(node, dict):
            waiting += list(node.values())[::-1]
        elif isinstance(node, list | tuple | set | frozenset):
            waiting += list(node)[::-1]


def as_dict(node: Any) -> dict[Any, Any] | None:
    """A saved dict or OrderedDict as a dict, None for anything else."""
    if isinstance(node, dict):
        return node
    if isinstance(node, Call) and isinstance(node.target, Global) and node.target.module == "collections":
        items = dict(node.items)
        # Python 2 saved an OrderedDict as a list of its pairs.
        pairs = node.args[0] if isinstance(node.args, tuple) and node.args else []
        for pair in pairs if isinstance(pairs, list) else []:
            if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str):
                items[pair[0]] = pair[1]
        return items
    return None


def tensor_parts(node: Any) -> tuple[Persistent, int, tuple[int, ...], tuple[int, ...]] | Persistent | None:
    """(storage, offset, size, stride) of a saved tensor or parameter; a bare reference (tar format); None for anything else."""
    for _ in range(4):  # a parameter holds a tensor
        if not (
            isinstance(node, Call) and isinstance(node.target, Global) and isinstance(node.args, tuple) and node.args
        ):
            break
        if node.target == Global("torch._utils", PARAMETER) or node.target == Global("torch.nn.parameter", "Parameter"):
            node = node.args[0]
            continue
        if node.target.module == "torch._utils" and node.target.name in REBUILD and len(node.args) >= 4:
            storage, offset, size, stride = node.args[:4]
            sides, steps = _sides(size), _sides(stride)
            if isinstance(storage, Persistent) and isinstance(offset, int) and sides is not None and steps is not None:
                return storage, offset, sides, steps
        return None
    return node if isinstance(node, Persistent) else None


def _sides(node: Any) -> tuple[int, ...] | None:
    if isinstance(node, Call) and node.target == Global("torch", "Size") and isinstance(node.args, tuple) and node.args:
        node = node.args[0]
    if isinstance(node, list | tuple) and all(type(n) is int and 0 <= n < 1 << 62 for n in node) and len(node) <= 32:
        return tuple(node)
    return None
