"""Adding nodes and constants to an ONNX graph with names that clash with none there."""

from __future__ import annotations

from typing import Any

import numpy as np


class Nodes:
    """Writes to one graph; a value is its name.

    Args:
        graph: ``onnx.GraphProto`` to add to.
        prefix: of every new name.
    """

    def __init__(self, graph: Any, prefix: str) -> None:
        self.graph, self.prefix, self.count = graph, prefix, 0

    def constant(self, array: Any, dtype: Any = None) -> str:
        """An array as an initializer."""
        from onnx import numpy_helper

        name = self._name("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.array(array, dtype, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        """A vector of int64."""
        return self.constant(values, np.int64)

    def number(self, value: float) -> str:
        """A float32 without axes."""
        return self.constant(value, np.float32)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """One node with one output; an empty input name leaves an optional input out."""
        return self.several(1, op, *inputs, **attributes)[0]

    def several(self, outputs: int, op: str, *inputs: str, **attributes: Any) -> list[str]:
        """One node with several outputs."""
        from onnx import helper

        names = [self._name(op.lower()) for _ in range(outputs)]
        self.graph.node.append(helper.make_node(op, list(inputs), names, name=self._name(op), **attributes))
        return names

    def call_it(self, value: str, name: str) -> None:
        """Give a value a name of its own, for an output of the graph."""
        from onnx import helper

        self.graph.node.append(helper.make_node("Identity", [value], [name], name=self._name("Identity")))

    def _name(self, word: str) -> str:
        self.count += 1
        return f"{self.prefix}/{word}_{self.count}"
