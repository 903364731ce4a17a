"""Which of Caffe's blobs lie in one piece of memory, so that a layer that works in place changes the others too.

Split, Flatten and Reshape, and Concat and Slice of a single blob, give their bottom's memory further names (``ShareData`` in their
sources). A layer whose top has the name of its bottom writes over that memory. All blobs that share it then hold the new
values, each in its own shape. Every other layer writes to memory of its own. Imports no torch.
"""

from __future__ import annotations

from ssdconv.ssd_ref.config import LayerSpec


def shares(spec: LayerSpec) -> bool:
    """Whether the layer's tops are its bottom's memory under other names."""
    if spec.type in ("Split", "Flatten", "Reshape"):
        return True
    return (spec.type, len(spec.bottoms)) == ("Concat", 1) or (spec.type, len(spec.tops)) == ("Slice", 1)


class Memory:
    """Follows layers in their order of execution."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}  # blob -> all blobs of its memory

    def run(self, spec: LayerSpec) -> dict[str, str]:
        """One layer on: the other blobs that it overwrites, each with the top whose values it then holds."""
        changed: dict[str, str] = {}
        if shares(spec) and spec.bottoms:
            group = self._names.setdefault(spec.bottoms[0], {spec.bottoms[0]})
            for top in spec.tops:
                self._move(top, group)
            return changed
        for index, top in enumerate(spec.tops):
            if spec.bottoms[index : index + 1] == (top,):
                changed.update(dict.fromkeys(sorted(self._names.get(top, set()) - set(spec.tops)), top))
            else:
                self._move(top, set())
        return changed

    def _move(self, name: str, group: set[str]) -> None:
        self._names.get(name, set()).discard(name)
        group.add(name)
        self._names[name] = group
