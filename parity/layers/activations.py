"""Every declared probe of the reference against an oracle, at the rounding floor, without holding the networks' insides.

The reference runs twice over the same pixels, in float32 (in a thread of its own) and in float64; forward hooks hand each
probe over one at a time, so at any moment only one probe of each run is alive. The oracle's outputs are taken from their
store and dropped as they are compared.

A probe is a pair of names: the oracle's, and the path of the reference module whose output it is (``path:1`` for the second
of several). Values that belong to no module have names of their own: ``@input`` (the pixels), and what ``derive`` makes of
the model's output, such as ``@loc`` (N, P, 4), ``@conf`` (N, P, C), ``@scores`` (N, P, C) and ``@priors`` (1, 2, P*4).
Arrays must have equal shapes; nothing is sorted, cropped or reshaped. The one relabelling: where a source keeps
``@loc``, ``@conf`` or ``@scores`` as a flat (N, P*4) or (N, P*C) row, the last two axes of the reference's are read as
that row, which is the same memory.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ssdconv.errors import MappingError
from ssdconv.parity.layers.results import ProbeResult
from ssdconv.parity.layers.tolerance import Array, Measurement, floors, measure
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.postprocess import scores_of
from ssdconv.ssd_ref.priors import Priors

Progress = Callable[[str, int, int], None]


class Probe(NamedTuple):
    """One point of comparison: the oracle's name for it, and the reference's module path or ``@`` name."""

    source: str
    reference: str


class Store(Protocol):
    """An oracle's outputs by name."""

    def __contains__(self, name: object) -> bool: ...

    def take(self, name: str) -> Array:
        """The array; the store may forget it."""


Heads = Mapping[str, Tensor]
Derive = Callable[[Any], Heads]


def compare(
    oracle: Store,
    model: nn.Module,
    pixels: Array,
    probes: Sequence[Probe],
    *,
    derive: Derive,
    progress: Progress | None = None,
) -> tuple[tuple[ProbeResult, ...], Heads, Heads]:
    """Compare every probe for one input.

    Args:
        oracle: the source framework's outputs for the same pixels.
        model: the reference in float32, eval mode.
        pixels: (N, 3, H, W) float32.
        probes: what to compare; each gives exactly one result.
        derive: the model's output -> the ``@`` outputs by name.
        progress: called with the probe's name, the number done and the total.

    Returns:
        Results in the reference's order of execution, those that never ran last; then the ``@`` outputs of the float64 and
        of the float32 run.

    Raises:
        MappingError: two probes share a source name, or the reference runs a probed layer twice.
    """
    wanted = _by_reference(probes)
    found: list[tuple[Probe, Measurement]] = []
    x, names = torch.as_tensor(pixels), list(wanted)
    with (
        closing(_Run(copy.deepcopy(model).double(), x.double(), names, derive)) as exact,
        closing(_Run(model, x, names, derive)) as rounded,
    ):
        for name, value in exact:
            other = rounded.next(name)
            for probe in wanted.pop(name):
                found.append((probe, _measure(oracle, probe, value, other)))
                if progress is not None:
                    progress(probe.source, len(found), len(probes))
        rounded.finish()
    for left in wanted.values():
        found += [(p, Measurement((), problem=f"the reference has no value {p.reference!r}")) for p in left]
    limits = floors([m for _, m in found])
    results = [ProbeResult(p.source, p.reference, m, f, m.problem) for (p, m), f in zip(found, limits, strict=True)]
    return tuple(results), exact.heads, rounded.heads


def derived(config: SSDConfig, output: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The ``@`` values of one run of an SSD: raw heads, scores, and where the network has them, priors as Caffe lays them out."""
    loc, conf = output
    values = {"@loc": loc, "@conf": conf, "@scores": scores_of(conf, config.detect.activation)}
    if config.priors:
        values["@priors"] = Priors.of(config.priors, config.pixels.size, conf.dtype).rows()
    return values


def _measure(oracle: Store, probe: Probe, value: Tensor, rounded: Tensor) -> Measurement:
    exact, own = value.numpy(), rounded.numpy()
    if probe.source not in oracle:
        return Measurement(tuple(exact.shape), problem=f"the oracle has no output {probe.source!r}")
    theirs = np.asarray(oracle.take(probe.source))
    if probe.reference.startswith("@") and theirs.ndim == exact.ndim - 1 and theirs.shape[0] == exact.shape[0]:
        exact, own = exact.reshape(exact.shape[0], -1), own.reshape(exact.shape[0], -1)
    return measure(theirs, exact, own)


def _by_reference(probes: Sequence[Probe]) -> dict[str, list[Probe]]:
    wanted: dict[str, list[Probe]] = {}
    names: set[str] = set()
    for probe in probes:
        if probe.source in names:
            raise MappingError(f"probe {probe.source!r} is declared twice")
        names.add(probe.source)
        wanted.setdefault(probe.reference, []).append(probe)
    return wanted


def outputs_of(model: nn.Module, pixels: Array, paths: Sequence[str]) -> dict[str, tuple[Array, ...]]:
    """Outputs of some modules in one forward run, by their paths; "" is the model's own, paths that it lacks are left out."""
    modules = dict(model.named_modules())
    found: dict[str, tuple[Array, ...]] = {}

    def keep(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def call(_: nn.Module, __: Any, output: Any) -> None:
            values = output if isinstance(output, tuple | list) else (output,)
            found[path] = tuple(value.detach().numpy().copy() for value in values)

        return call

    handles = [modules[path].register_forward_hook(keep(path)) for path in paths if path in modules]
    try:
        with torch.inference_mode():
            model(torch.as_tensor(pixels))
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Run:
    """One forward run in a thread of its own that stops at every probe; it only advances while somebody waits for it.

    So of all runs one computes at a time, with all of torch's threads, and at most one probe of each is on its way.
    """

    def __init__(self, model: nn.Module, pixels: Tensor, names: Sequence[str], derive: Derive) -> None:
        self.heads: Heads = {}
        self._out: queue.SimpleQueue[tuple[str, Tensor] | BaseException | None] = queue.SimpleQueue()
        self._go = threading.Semaphore(0)
        self._stop = False
        self._thread = threading.Thread(target=self._run, args=(model, pixels, names, derive), daemon=True)
        self._thread.start()

    def _wait(self) -> tuple[str, Tensor] | None:
        self._go.release()
        item = self._out.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        while (item := self._wait()) is not None:
            yield item

    def next(self, name: str) -> Tensor:
        """The next probe, which must be ``name``: both runs execute the same modules in the same order."""
        item = self._wait()
        if item is None or item[0] != name:
            raise RuntimeError(f"float32 and float64 runs part at {name!r}: {item and item[0]!r}")
        return item[1]

    def finish(self) -> None:
        """Run to the end; ``heads`` are there afterwards."""
        for _ in self:
            pass

    def close(self) -> None:
        """End the run."""
        self._stop = True
        self._go.release()
        self._thread.join()

    def _run(self, model: nn.Module, pixels: Tensor, names: Sequence[str], derive: Derive) -> None:
        handles = []
        seen: set[str] = set()

        def put(name: str, value: Tensor) -> None:
            if name in seen:
                raise MappingError(f"the reference runs layer {name!r} more than once in one pass")
            seen.add(name)
            self._out.put((name, value.detach()))
            pause()

        def pause() -> None:
            self._go.acquire()
            if self._stop:
                raise _Stopped

        def hook(wanted: Sequence[str]) -> Callable[[nn.Module, Any, Any], None]:
            def call(_: nn.Module, __: Any, output: Any) -> None:
                for name in wanted:
                    index = int(name.rpartition(":")[2]) if ":" in name else 0
                    put(name, output[index] if isinstance(output, tuple | list) else output)

            return call

        try:
            modules = dict(model.named_modules())
            paths: dict[str, list[str]] = {}
            for name in names:
                if (path := name.split(":")[0]) in modules:
                    paths.setdefault(path, []).append(name)
            handles = [modules[path].register_forward_hook(hook(wanted)) for path, wanted in paths.items()]
            pause()
            with torch.inference_mode():
                if "@input" in names:
                    put("@input", pixels)
                heads = dict(derive(model(pixels)))
                for name in names:
                    if name in heads:
                        put(name, heads[name])
            self.heads = heads
            self._out.put(None)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
            self._out.put(error)
        finally:
            for handle in handles:
                handle.remove()


class _Stopped(Exception):  # noqa: N818
    """The reader went away."""
