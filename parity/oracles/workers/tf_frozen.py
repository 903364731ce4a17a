"""A frozen graph of SSD.TensorFlow run as it is: what to read is found by following the graph from its weights. Run by ``tf_worker.py``.

Nothing is taken from what the converter makes of such a network but the weights' names: padding, dilation, eps and the order of layers
are the graph's.
"""

BETWEEN = ("Identity", "Reshape", "ExpandDims", "Cast", "BatchToSpaceND")
ARITHMETIC = (
    *BETWEEN, "Add", "AddV2", "AvgPool", "BiasAdd", "ConcatV2", "Const", "Conv2D", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3",
    "Gather", "GatherV2", "MaxPool", "Maximum", "Minimum", "Mul", "Pack", "Pad", "PadV2", "Placeholder", "PlaceholderWithDefault", "Prod",
    "RealDiv", "Relu", "Rsqrt", "Shape", "Slice", "SpaceToBatchND", "Sqrt", "Square", "Squeeze", "StridedSlice", "Sub", "Sum", "Transpose",
)  # fmt: skip
"""Operations that do nothing but compute; a graph with others is not run (there are some that write files)."""


class Graph:
    """The nodes of a GraphDef by name, and who takes their outputs."""

    def __init__(self, stored):
        self.nodes = {node.name: node for node in stored.node}
        self.takers = {}
        for node in stored.node:
            for name in self.inputs(node):
                self.takers.setdefault(name, []).append(node.name)

    def inputs(self, node):
        """Names of the nodes whose outputs a node takes."""
        return [name.split(":")[0] for name in node.input if not name.startswith("^")]

    def after(self, name, ops, through=BETWEEN):
        """The only node of ``ops`` that takes an output, directly or through nodes that regroup; None for none."""
        found = set()
        for taker in self.takers.get(name, ()):
            op = self.nodes[taker].op
            if op in ops:
                found.add(taker)
            elif op in through:
                found.add(self.after(taker, ops, through))
        found.discard(None)
        if len(found) > 1:
            raise ValueError(f"several nodes of {ops} take the output of {name!r}: {sorted(found)[:3]}")
        return found.pop() if found else None

    def layer(self, weight):
        """The node whose output is the layer's that holds a weight: behind its bias, and its ReLU where one follows."""
        if weight not in self.nodes:
            raise ValueError(f"the graph has no node {weight!r}")
        first = self.after(weight, ("Conv2D", "Mul"))
        if first is None:
            raise ValueError(f"no convolution or product of the graph takes {weight!r}")
        if self.nodes[first].op == "Mul":
            return first
        end = self.after(first, ("BiasAdd", "Add", "AddV2")) or first
        return self.after(end, ("Relu",), ()) or end

    def entry(self, weight):
        """The node whose output enters the first convolution, before any padding."""
        (name, *_) = self.inputs(self.nodes[self.after(weight, ("Conv2D",))])
        while self.nodes[name].op in ("Pad", "PadV2", "SpaceToBatchND"):
            name = self.inputs(self.nodes[name])[0]
        return name

    def joined(self, heads):
        """The graph's own concatenation of these heads in their order, and of nothing else; None where it has none."""
        for node in self.nodes.values():
            if node.op == "ConcatV2":
                parts = self.inputs(node)[:-1]
                if [self._source(part) for part in parts] == heads:
                    return node.name
        return None

    def _source(self, name):
        while self.nodes[name].op in ("Reshape", "Transpose", "Identity"):
            name = self.inputs(self.nodes[name])[0]
        return name

    def check(self, wanted, entry):
        """Raise unless everything that runs between ``entry`` and the wanted nodes only computes."""
        seen, left = {entry}, list(wanted)
        while left:
            name = left.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self.nodes[name]
            if node.op not in ARITHMETIC:
                raise ValueError(f"node {name!r} is a {node.op}, which is not run from a file")
            left += [other.lstrip("^").split(":")[0] for other in node.input]
