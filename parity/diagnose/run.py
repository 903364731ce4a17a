"""``diagnose``: why a weight file does not compute what its source, or another file, computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssdconv.converters.convert import Opened, open_source, recalled
from ssdconv.converters.plan import Request
from ssdconv.errors import UsageError
from ssdconv.parity.diagnose.files import Weights, load, own, pair
from ssdconv.parity.diagnose.net import Net
from ssdconv.parity.diagnose.result import Diagnosis
from ssdconv.parity.diagnose.search import SECONDS, Progress, Search
from ssdconv.parity.diagnose.truth import Truth, of_network, of_source
from ssdconv.parity.verify import PIXELS_UNTOLD, column_of, open_as
from ssdconv.ssd_ref.checkpoint import Checkpoint
from ssdconv.ssd_ref.files import CHECKPOINTS
from ssdconv.ssd_ref.model import reference_shapes


def diagnose(
    weights: Path,
    *,
    source: Path | None = None,
    reference: Path | None = None,
    prototxt: Path | None = None,
    images: Sequence[Path] = (),
    seed: int = 0,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Diagnosis:
    """Find out why ``weights`` differ, by undoing known mistakes in them.

    Args:
        weights: the suspect: a checkpoint of ssdconv, a state dict of somebody else, or a source file.
        source: the original weight file, run by its own framework (the oracle); or
        reference: a converted file that is believed.
        prototxt: network definition of a Caffe source.
        images: photos to compare on; none for a generated picture.
        seed: of picture and noise.
        seconds: after which no new trial begins.
        progress: called with a text, steps done and steps in all.

    Raises:
        UsageError: neither or both of ``source`` and ``reference``.
        MissingError: a file is missing, or the oracle cannot run here.
        FormatError, UnsafeFileError: a file is damaged or refused.
        MappingError: the files hold different networks.
    """
    if (source is None) == (reference is None):
        raise UsageError(
            "a diagnosis needs one thing to hold the weights against",
            hint="--source FILE is the original weight file, --reference FILE a converted one that is right",
        )
    if reference is not None:
        suspect, right = pair(weights, reference, prototxt)
        if not right.pixels_told:
            pixels = suspect.net.config.pixels
            right = replace(right, net=right.net.with_pixels(pixels), notes=(*right.notes, PIXELS_UNTOLD))
        truth = of_network(right.net, suspect.net, Path(reference).name, images, seed)
        return _search(suspect, replace(truth, notes=(*right.notes, *suspect.notes)), seconds, progress)
    assert source is not None
    path = Path(weights)
    held = own(path) if path.suffix in CHECKPOINTS else None
    with recalled(held.provenance if held else {}, prototxt, Path(source), str(path)) as (definition, notes):
        suspect, opened = _pair(path, held, Path(source), definition)
        with opened.table:
            truth = of_source(opened, suspect.net, definition, images, seed)
            every = (*truth.notes, *suspect.notes, *notes)
            return _search(suspect, replace(truth, notes=every), seconds, progress)


def _search(suspect: Weights, truth: Truth, seconds: float, progress: Progress | None) -> Diagnosis:
    return Search(suspect.net, truth, suspect.path.name, seconds, progress).run()


def _pair(weights: Path, held: Checkpoint | None, source: Path, prototxt: Path | None) -> tuple[Weights, Opened]:
    """The suspect and the opened source file, its mapping paired to the suspect's tensors."""
    if held is not None:
        return Weights(weights, Net.of(held), True), open_as(source, prototxt, held)
    opened = open_source(source, None, Request(prototxt=prototxt))
    try:
        suspect = load(weights, opened.plan.config)
        if {e.target for e in opened.plan.mapping} != set(reference_shapes(suspect.net.config)):
            adopted: Opened = column_of(opened.source.name).adopt(opened, suspect.net.config)
            return suspect, adopted
    except BaseException:
        opened.table.close()
        raise
    return suspect, opened
