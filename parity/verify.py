"""``verify``: is a converted checkpoint the network of its source file? Bits, every layer, heads, scores, detections.

What is compared, and who computes it:

* stored tensors: the checkpoint's against the source file's through the mapping, bit for bit;
* pixels: prepared by the checkpoint's config against prepared by the config that the source file itself gives (where it
  tells none, the checkpoint's are used for both, and the report says so);
* every probe at the rounding floor: the oracle runs the source file, fed with the source's pixels, the reference runs the
  checkpoint, fed with its own (``parity.layers.activations``, ``parity.layers.tolerance``);
* detections: as sets, with a reason for every one-sided row (``parity.layers.detections``);
* the config: field by field against the one that the source file gives when it is planned anew, as the checkpoint was asked for. That
  catches what no oracle can see (pixels that the file does not state, class names).

What the verdict rests on is in its ``links``.

An oracle that cannot run raises MissingError: not run is never passed. A part that the oracle cannot tell about, or detections
of which neither side has any, or whose boxes are infinite on both sides, are gaps: not compared, neither passed nor failed.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch

from ssdconv import __version__
from ssdconv.converters.convert import Opened, recalled
from ssdconv.converters.tensors import sha256_file
from ssdconv.errors import FormatError, UsageError
from ssdconv.parity.config_diff import config_differences
from ssdconv.parity.layers.activations import Progress, compare, derived, outputs_of
from ssdconv.parity.layers.detections import compare_detections, nothing_to_compare
from ssdconv.parity.layers.inputs import ProbeInput, differing_pixels, fainter, make_inputs
from ssdconv.parity.layers.results import (
    ComparedTensor,
    DetectionResult,
    GapCode,
    InputResult,
    ParityReport,
    TensorResult,
    link_results,
)
from ssdconv.parity.layers.tolerance import Array
from ssdconv.parity.oracles.base import Borrower, OracleRun, Prepared, require
from ssdconv.parity.source_side import PIXELS_UNTOLD, column_of, open_as, told_warnings
from ssdconv.ssd_ref.checkpoint import Checkpoint, build, read
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Link
from ssdconv.ssd_ref.model import SSD

SATURATED: frozenset[GapCode] = frozenset({"overflow", "undecided"})
"""Gaps that full pixels make in a network of large weights: where every input has one, a fainter input is compared too."""


def verify(
    weights: Path,
    source: Path,
    *,
    prototxt: Path | None = None,
    images: Sequence[Path] = (),
    seed: int = 0,
    oracle: str | None = None,
    symbol: Path | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Prove, or disprove, that ``weights`` compute what ``source`` computes.

    Args:
        weights: a checkpoint that ssdconv wrote.
        source: the original weight file.
        prototxt: the original network definition, where there is one.
        images: photos to compare on besides noise; none for a generated picture.
        seed: of noise and picture.
        oracle: who runs the source file, where there is a choice (Caffe: "caffe", "opencv"); None for the best that is there.
        symbol: MXNet's graph of a .params file; None for the one beside it, where there is one.
        progress: called with "input: probe", probes done, probes in all.

    Raises:
        MissingError: a file is missing, or the oracle cannot run.
        FormatError, UnsafeFileError: a file is damaged or refused.
        MappingError: the checkpoint is of another network than the source file.
        UsageError: a symbol for a source that has none.
    """
    started = time.perf_counter()
    checkpoint = read(weights)
    config = checkpoint.config
    model, unfit = _built(checkpoint, str(weights))
    if symbol is not None and config.source != "gluon":
        raise UsageError("only MXNet's .params files have a symbol", where=str(symbol), got=config.source)
    with (
        recalled(checkpoint.provenance, prototxt, source, str(weights)) as (definition, recollections),
        (opened := open_as(source, definition, checkpoint)).table,
    ):
        prepared = column_of(config.source).prepare(opened, definition, oracle or "", symbol=symbol)
        require(prepared.oracle)
        tensors = compare_tensors(opened, checkpoint)
        mine, theirs, notes = _inputs(opened, config, images, seed, recollections)
        results, not_compared = _compare_inputs(model, unfit, mine, theirs, prepared, progress)
        compared = compared_links(tensors, results, config)
        differs = differing_fields(config, opened)
        if prepared.pixels is not None:
            original = prepared.pixels([one.image for one in theirs])
            alike = [(one.name, one.pixels) for one in theirs]
            compared["pixels"], odd = differing_pixels(alike, original, opened.plan.config.pixels)
            differs.setdefault("pixels", []).extend(odd)
        links = link_results(opened.plan.evidence, prepared.evidence, compared, differs, prepared.alone)
    if unfit:
        notes = (*notes, f"the checkpoint's network does not fit itself: {unfit}")
    if not results and all(links):
        raise FormatError(unfit, where=str(weights))
    return ParityReport(
        network=config.name,
        source=config.source,
        weights=str(weights),
        weights_sha256=sha256_file(Path(weights)),
        source_file=str(source),
        source_sha256=sha256_file(Path(source)),
        oracle=prepared.oracle.name,
        inputs=results,
        tensors=tensors,
        versions=versions(),
        not_compared=not_compared,
        notes=notes,
        seconds=time.perf_counter() - started,
        class_names=config.class_names,
        links=links,
    )


def _built(checkpoint: Checkpoint, where: str) -> tuple[SSD, str]:
    """The network, and why its heads do not fit its own config, "" where they do: a difference is to be found, not refused."""
    try:
        return build(checkpoint, where=where), ""
    except FormatError as error:
        return build(checkpoint, where=where, heads=False), error.what


def _inputs(
    opened: Opened, config: SSDConfig, images: Sequence[Path], seed: int, recollections: Sequence[str]
) -> tuple[tuple[ProbeInput, ...], tuple[ProbeInput, ...], tuple[str, ...]]:
    """What the reference and what the oracle is fed, and the notes of the report so far."""
    mine, notes = make_inputs(config.pixels, images, seed)
    theirs, column = mine, column_of(config.source)
    if column.tells_pixels(opened):
        theirs, _ = make_inputs(column.fed(opened), images, seed)
    else:
        notes = (*notes, PIXELS_UNTOLD)
    return mine, theirs, (*notes, *recollections, *told_warnings(opened))


def _compare_inputs(
    model: SSD,
    unfit: str,
    mine: Sequence[ProbeInput],
    theirs: Sequence[ProbeInput],
    prepared: Prepared,
    progress: Progress | None,
) -> tuple[tuple[InputResult, ...], dict[str, str]]:
    """The result of every input, and of a fainter one where all are saturated; then outputs of the oracle that are no probes, with the reason."""
    why_not = column_of(model.config.source).why_not
    results: list[InputResult] = []
    not_compared: dict[str, str] = {}
    fed = list(zip(mine, theirs, strict=True))
    for own, other in fed:
        try:
            run = _run(prepared, model, own, other)
            results.append(_one_input(model, own, other, prepared, run, progress))
        except (RuntimeError, ValueError, IndexError, FormatError):
            if not unfit:
                raise
            break  # a network that does not fit itself does not run either; its config tells where it is not the file's
        if len(results) == len(mine) and all(any(g.code in SATURATED for g in r.gaps) for r in results):
            fed += [(fainter(own), fainter(other))]
        not_compared |= {n: why_not(run.kinds.get(n, "")) for n in run.outputs.left}
    return tuple(results), not_compared


def _run(prepared: Prepared, model: SSD, own: ProbeInput, other: ProbeInput) -> OracleRun:
    oracle = prepared.oracle
    if not isinstance(oracle, Borrower):
        run: OracleRun = oracle.run(other.pixels)
        return run
    modules = {p.source: p.reference for p in prepared.probes if not p.reference.startswith("@")}
    first = {name.rpartition(":")[0]: path.rpartition(":")[0] for name, path in modules.items() if path.endswith(":0")}
    paths = {**first, **modules}

    def lend(names: Sequence[str]) -> dict[str, dict[int, Array]]:
        wanted = [paths[name] for name in names if name in paths]
        found = outputs_of(model, own.pixels, wanted) if wanted else {}
        return {n: dict(enumerate(found[paths[n]])) for n in names if n in paths and paths[n] in found}

    return oracle.run_with(other.pixels, lend)


def _one_input(
    model: SSD, own: ProbeInput, other: ProbeInput, prepared: Prepared, run: OracleRun, progress: Progress | None
) -> InputResult:
    run.outputs.add(prepared.input, other.pixels)  # unless the oracle shows what it made of its pixels

    def told(probe: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{own.name}: {probe}", done, total)

    untold = {gap.part for gap in run.gaps}
    probes = [p for p in prepared.probes if p.source not in untold and p.source.rpartition(":")[0] not in untold]
    declared = (
        {p.source for p in prepared.probes} | {p.source.rpartition(":")[0] for p in prepared.probes} | {"detections"}
    )
    results, heads64, heads32 = compare(
        run.outputs, model, own.pixels, probes, derive=partial(derived, model.config), progress=told
    )
    found = compare_detections(model.config, run.detections, heads64, heads32)
    nothing = nothing_to_compare(found)
    gaps = [gap for gap in run.gaps if gap.part in declared] + ([nothing] if nothing else [])
    return InputResult(own.name, results, found, tuple(gaps))


def compare_tensors(opened: Opened, checkpoint: Checkpoint) -> TensorResult:
    """Every stored tensor against the source file's through the mapping, bit for bit."""
    different: list[str] = []
    rows = []
    for entry, array in opened.plan.mapping.forward(opened.table):
        held = checkpoint.state_dict[entry.target].numpy()
        theirs = np.asarray(array, order="C")  # not ascontiguousarray, which gives () an axis
        before = len(different)
        if held.dtype != theirs.dtype or held.shape != theirs.shape:
            different.append(f"{entry.target}: {held.dtype} {held.shape}, source {theirs.dtype} {theirs.shape}")
        elif held.tobytes() != theirs.tobytes():
            worst = float(np.nanmax(np.abs(held.astype(np.float64) - theirs.astype(np.float64)), initial=0.0))
            different.append(f"{entry.target}: differs from {entry.source} by up to {worst:.3g}")
        ops, same = ", ".join(map(str, entry.ops)), len(different) == before
        rows.append(ComparedTensor(entry.source, entry.source_shape, entry.target, held.shape, ops, same))
    dropped = {drop.source: drop.reason for drop in opened.plan.mapping.drops}
    return TensorResult(len(rows), tuple(different), tuple(rows), dropped)


def compared_links(tensors: TensorResult, results: Sequence[InputResult], config: SSDConfig) -> dict[Link, str]:
    """What a run compared of each link, in words; links of which it compared nothing are left out."""
    every = [probe for result in results for probe in result.probes]
    layers = sum(not probe.reference.startswith("@") for probe in every)
    boxes = [found for found in (r.detections for r in results) if _told(found)]
    count = sum(max(b.oracle, b.reference) for b in boxes)
    words: dict[Link, str] = {"tensors": f"{tensors.compared} tensors, bit for bit", "pixels": "fields of the config"}
    if layers:
        words["architecture"] = f"{layers:,} outputs of layers"
    if any(probe.reference == "@priors" for probe in every):
        words["priors"] = f"{config.num_priors:,} priors"
    elif count:
        words["priors"] = "in the boxes of detections"
    if count:
        words["detection rule"] = f"{count:,} detections on {len(boxes)} inputs"
    heads = [probe for probe in every if probe.reference in ("@conf", "@scores")]
    if heads:
        words["classes"] = f"{config.num_classes} channels in their order"
    return words


def _told(found: DetectionResult | None) -> TypeGuard[DetectionResult]:
    return found is not None and not found.problem and not found.overflow


def differing_fields(config: SSDConfig, opened: Opened) -> dict[Link, list[str]]:
    """Where a checkpoint's config is not the one that the source file gives, by link.

    A checkpoint under other tensor names than the file's own network (staged, where the file tells a graph) has no layers to compare but by
    its probes, and no pixels where the file tells none: nobody knows who named them.
    """
    theirs = opened.plan.config
    alike = type(config.layers) is type(theirs.layers)
    untold = not alike and not column_of(config.source).tells_pixels(opened)
    found: dict[Link, list[str]] = {}
    for difference in config_differences(config, theirs, layers=alike):
        if difference.link == "pixels" and untold:
            continue
        text = f"the checkpoint says {difference.mine}, the file gives {difference.theirs}"
        found.setdefault(difference.link, []).append(f"{difference.field}: {text}")
    if not alike:
        found.setdefault("architecture", []).extend(column_of(config.source).contradicted(config, theirs))
    return {link: texts for link, texts in found.items() if texts}


def versions() -> dict[str, str]:
    """Versions of everything that computes."""
    found = {"ssdconv": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    found["numpy"] = np.__version__
    for package in ("opencv-python-headless", "opencv-python"):
        try:
            found["opencv"] = version(package)
        except PackageNotFoundError:
            continue
    return found
