"""A network that runs any layer graph, from prepared pixels to raw loc and conf.

Every layer is one child module under its own name (``operation.module_name``), so that a forward hook sees the
value right after that layer, before any in-place layer of the original overwrites it. Nothing is written in place; where
the original does, blobs that share the overwritten memory get the new values (``operation.Memory``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import Graph, LayerSpec
from ssdconv.ssd_ref.graph.operation import Memory, learned_blobs, module_name, operation_of, operations

Values = tuple[Tensor, ...]


class GraphLayer(nn.Module):
    """One layer of a graph: its operation, and its learned tensors under the names that the operation gives them.

    Raises:
        FormatError: unknown type, parameters out of range, or another number of learned tensors.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.operation = operation_of(spec)
        self.names = self.operation.learned(spec)
        if len(self.names) != len(spec.blobs):
            what = "the layer has another number of learned tensors"
            raise self.operation.p.fail(what, expected=self.names, got=spec.blobs)
        for name, shape in zip(self.names, spec.blobs, strict=True):
            value = self.operation.initial(name, tuple(shape))
            if name in self.operation.statistics:
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, nn.Parameter(value))

    def train(self, mode: bool = True) -> GraphLayer:
        """Training or not, told to the operation too."""
        self.operation.training = mode
        return super().train(mode)

    def forward(self, *bottoms: Tensor) -> Any:
        """The bottoms' values -> one tensor, or a tuple for several tops."""
        return self.operation.run(*bottoms, **{name: getattr(self, name) for name in self.names})

    def extra_repr(self) -> str:
        """The layer's type, for ``print(model)``."""
        return self.operation.spec.type


class LayerGraph(nn.Module):
    """(N, C, H, W) -> loc (N, P, 4 * graph.loc_classes), conf (N, P, C).

    Parameters are named ``<layer>.<blob name>`` (``operation.learned_blobs``). A parameter that layers share is stored once,
    under the first of them.

    Args:
        graph: the layers, with the shapes of their blobs.

    Raises:
        FormatError: a layer type is not supported, or a layer reads what none before it writes.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self._shared: dict[str, str] = {}
        for spec in graph.layers:
            key = module_name(spec.name)
            if key in self._modules:
                raise FormatError("two layers have this name", where=f"layer {spec.name!r}")
            # Not add_module: a layer may well be called "type" or "half", like attributes of nn.Module.
            self._modules[key] = GraphLayer(spec)
        self._last_use = _last_uses(graph.input, graph.layers, (graph.loc, graph.conf))
        for blob in learned_blobs(graph.layers):
            if blob.same_as:
                self._shared[blob.parameter] = blob.same_as
        self._tie()
        self._register_state_dict_hook(_drop_shared)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_fill_shared)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_tie_again)  # type: ignore[no-untyped-call]

    def layer(self, name: str) -> GraphLayer:
        """The module of a layer."""
        module = self._modules[module_name(name)]
        assert isinstance(module, GraphLayer)
        return module

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared pixels (N, C, H, W) -> raw loc and conf, values of a prior next to each other."""
        values = {self.graph.input: pixels}
        for _ in self._run(values, self.graph.layers, self._last_use, Memory()):
            pass
        return self._heads(values)

    def trace(self, pixels: Tensor) -> Iterator[tuple[LayerSpec, Values]]:
        """Run the graph and give each layer's outputs as they are made; then those of the tail that compute on them.

        The tail's softmax, sigmoid and regrouping layers are run; PriorBox, DetectionOutput and what reads them are not.
        """
        values, memory = {self.graph.input: pixels}, Memory()
        tail = _computed(self.graph.tail, self.graph.input, self.graph.layers)
        written = {self.graph.input}.union(*(spec.tops for spec in self.graph.layers))
        keep = written.intersection(name for spec in tail for name in spec.bottoms)
        yield from self._run(values, self.graph.layers, _last_uses(self.graph.input, self.graph.layers, keep), memory)
        for spec in tail:
            module = GraphLayer(spec).to(pixels.device, pixels.dtype)
            yield spec, _step(module, spec, values, memory)

    def _run(
        self, values: dict[str, Tensor], layers: Iterable[LayerSpec], last_use: list[tuple[str, ...]], memory: Memory
    ) -> Iterator[tuple[LayerSpec, Values]]:
        for spec, finished in zip(layers, last_use, strict=True):
            outputs = _step(self._modules[module_name(spec.name)], spec, values, memory)
            for name in finished:
                del values[name]
            yield spec, outputs

    def _heads(self, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loc, conf = values[self.graph.loc], values[self.graph.conf]
        loc = loc.reshape(loc.shape[0], -1, 4 * self.graph.loc_classes)
        return loc, conf.reshape(loc.shape[0], loc.shape[1], -1)

    def _tie(self) -> None:
        for alias, owner in self._shared.items():
            module, _, name = alias.rpartition(".")
            held, _, held_name = owner.rpartition(".")
            target, source = self._modules[module], self._modules[held]
            assert target is not None and source is not None
            parameter = source._parameters[held_name]
            if parameter is None or parameter.shape != getattr(target, name).shape:
                raise FormatError("a shared parameter has two shapes", where=f"{alias} and {owner}")
            target._parameters[name] = parameter


# Hooks are functions of the module, for pickle and deepcopy know no others.
def _fill_shared(module: LayerGraph, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for alias, owner in module._shared.items():
        if prefix + owner in state:
            state[prefix + alias] = state[prefix + owner]


def _tie_again(module: LayerGraph, _: Any) -> None:
    module._tie()


def _drop_shared(module: LayerGraph, state: dict[str, Any], prefix: str, _: Any) -> None:
    for alias in module._shared:
        state.pop(prefix + alias, None)


def _step(module: nn.Module | None, spec: LayerSpec, values: dict[str, Tensor], memory: Memory) -> Values:
    assert module is not None
    result = module(*(values[name] for name in spec.bottoms))
    outputs: Values = result if isinstance(result, tuple) else (result,)
    values.update(zip(spec.tops, outputs, strict=True))
    for name, top in memory.run(spec).items():
        if name in values:
            values[name] = values[top].reshape(values[name].shape)
    return outputs


def _last_uses(start: str, layers: Iterable[LayerSpec], keep: Iterable[str]) -> list[tuple[str, ...]]:
    """Per layer the blobs that no later layer reads, to be freed once it has run."""
    steps = list(layers)
    known, last = {start}, {start: -1}
    for index, spec in enumerate(steps):
        for name in spec.bottoms:
            if name not in known:
                raise FormatError(f"reads blob {name!r}, which no layer before it writes", where=f"layer {spec.name!r}")
        known.update(spec.tops)
        last.update(dict.fromkeys((*spec.bottoms, *spec.tops), index))
    kept = set(keep)
    if not kept <= known:
        raise FormatError(f"no layer writes blob {min(kept - known)!r}", where="layer graph")
    return [tuple(n for n, at in last.items() if at == index and n not in kept) for index in range(len(steps))]


def _computed(tail: Iterable[LayerSpec], start: str, layers: Iterable[LayerSpec]) -> list[LayerSpec]:
    """Layers of the tail that compute on the graph's values alone."""
    known, known_types = {start}.union(*(spec.tops for spec in layers)), operations()
    steps = []
    for spec in tail:
        if spec.type in known_types and known.issuperset(spec.bottoms):
            steps.append(spec)
            known.update(spec.tops)
        else:
            known.difference_update(spec.tops)
    return steps
