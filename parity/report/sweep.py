"""PARITY.md: what a sweep over all networks found, as a table per source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from ssdconv.parity.layers.results import WORDS
from ssdconv.parity.layers.tolerance import MAX_RATIO, RMS_RATIO
from ssdconv.parity.sweep import SweepResult
from ssdconv.ssd_ref.evidence import INDEPENDENT
from ssdconv.ssd_ref.networks.registry import networks

HEAD = (
    "| network | oracle | probes compared | worst error / floor | rms / floor | detections equal | stored tensors | round trip | rests on our reading |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|---|"
)

INTRODUCTION = f"""# Parity of every network

Every named network at full size with seeded random weights (batch statistics included), written as a file of its source,
converted, and run beside the source's own framework on a generated picture and on noise. Made by `make parity`.

- *worst error / floor*: the largest error of the oracle against the float64 reference, over what float32 rounding costs the
  reference itself; up to {MAX_RATIO:g} passes, and up to {RMS_RATIO:g} for the root of the mean square ([how](parity/layers/tolerance.py)).
- *detections equal*: the oracle's final boxes that the reference gives too, with equal class, score and box within rounding.
  "at a boundary" are boxes of one side only where a score or overlap lies within rounding of a threshold; "–": the source's
  network ends before its boxes.
- *stored tensors*: of the converted file, bit-identical with the source file's.
- *round trip*: tensors of the file written back from the converted one, bit-identical with the source file's.
- *rests on our reading*: links (tensors, layers, pixels, priors, detection rule, classes) for which the comparison's other side is not
  the file itself, its framework on the file's own graph, or the project's original code, but was rebuilt from facts, or assumed. Agreement
  there proves arithmetic and no more.

Random weights prove layers, layouts, priors and rules. They prove nothing about a published file that holds something else
than its network's code says; `ssdconv verify` checks the file at hand. Keras', TensorFlow's and ssd.pytorch's oracles are
the networks built again in those frameworks, see the README.
"""


def render(results: Mapping[str, SweepResult]) -> str:
    """The document.

    Args:
        results: by "source/network"; networks without one are listed as not run.
    """
    rows = [
        results.get(f"{info.source}/{info.name}")
        or SweepResult(f"{info.source}/{info.name}", "not run", "not in this run")
        for info in networks()
    ]
    return "\n".join([INTRODUCTION, *_summary(rows), *_tables(rows), *_not_run(rows), *_made(rows)]).rstrip() + "\n"


def _summary(rows: Sequence[SweepResult]) -> Iterable[str]:
    done = [r for r in rows if r.status != "not run"]
    passed = [r for r in done if r.status == "passed"]
    yield f"**{len(passed)} of {len(rows)} networks passed, {len(done) - len(passed)} failed, {len(rows) - len(done)} not run.**"
    if passed:
        worst = max(passed, key=lambda r: r.worst)
        yield (
            f"{sum(r.probes for r in passed):,} probes compared; the worst error is {worst.worst:.2f} x the rounding floor "
            f"(`{worst.worst_probe}` of `{worst.network}`)."
        )
    yield ""


def _tables(rows: Sequence[SweepResult]) -> Iterable[str]:
    for source, group in groupby(rows, key=lambda r: r.network.split("/")[0]):
        done = [r for r in group if r.status != "not run"]
        if done:
            oracles = ", ".join(dict.fromkeys(r.oracle for r in done if r.oracle))
            yield from (f"## {source}: {oracles}", "", HEAD)
            yield from (_row(r) for r in done)
            yield ""
            yield from (f"- `{r.network}` {r.status}: {r.why}" for r in done if r.status != "passed")
            if any(r.status != "passed" for r in done):
                yield ""


def _row(r: SweepResult) -> str:
    found = f"{r.matched} of {max(r.oracle_rows, r.matched)}" if r.oracle_rows or r.unexplained else "–"
    found += f", {r.boundary} at a boundary" if r.boundary else ""
    found += f", **{r.unexplained} unexplained**" if r.unexplained else ""
    mark = {"passed": "", "not compared": " (not all compared)"}.get(r.status, " ❌")
    cells = (
        f"`{r.network.split('/')[1]}`{mark}",
        r.oracle.split(" (")[0].split(",")[0],
        r.probes,
        f"{r.worst:.2f}",
        f"{r.worst_rms:.2f}",
        found,
        f"{r.identical} of {r.tensors}",
        "bit-identical" if r.round_trip else f"**{r.back_identical} of {r.back}**",
        _weak(r),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _weak(r: SweepResult) -> str:
    """Links that nobody but this project vouches for, by who does."""
    if not r.links:
        return "not recorded"
    weak: dict[str, list[str]] = {}
    for link, basis in r.links.items():
        if basis not in INDEPENDENT and basis != "user":
            weak.setdefault(basis or "nobody says", []).append(WORDS.get(link, link))  # type: ignore[call-overload]
    return "; ".join(f"{basis}: {', '.join(links)}" for basis, links in weak.items()) or "nothing"


def _not_run(rows: Sequence[SweepResult]) -> Iterable[str]:
    missing = [r for r in rows if r.status == "not run"]
    if missing:
        yield from ("## Not run", "", "| network | why |", "|---|---|")
        yield from (f"| `{r.network}` | {r.why.replace('|', '/')} |" for r in missing)
        yield ""


def _made(rows: Sequence[SweepResult]) -> Iterable[str]:
    done = [r for r in rows if r.status != "not run"]
    if not done:
        return
    commits = ", ".join(dict.fromkeys(r.commit or "unknown" for r in done))
    libraries = ", ".join(f"{name} {number}" for name, number in sorted(done[0].versions.items()))
    seconds = sum(r.seconds for r in done)
    yield from ("## This run", "", f"- commit {commits}; {libraries}; seed {done[0].seed}")
    yield f"- {len(done)} networks one after the other, {seconds / 60:.0f} min in all"
