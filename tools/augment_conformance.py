"""Write what samples of the original code say about every recipe's augmentation: ``tools/augmentation.json``, and the table
in docs/own_data.md.

For each source with samples (``golden/train``): the features laid side by side, the least p, the exact colour cases, and **which
fields the samples bear out**: each field is changed in turn, and the samples either tell it (``samples``, ``colour cases``) or do not
(``reading``: set from the source's text alone). Recipes without samples rest on reading in all fields.

    python tools/augment_conformance.py --golden DIR --photos DIR [--only gluon]
    python tools/augment_conformance.py --docs     # the table alone, from what is recorded
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

sys.path.insert(0, str(Path(__file__).parent))
from nested import changed, paths  # type: ignore[import-not-found]

from ssdconv.parity.steps.augmentation import (
    LEAST_P,
    ORIGINALS,
    OriginalSamples,
    colour_cases,
    original_features,
    our_features,
)
from ssdconv.parity.steps.augmentation import p_values as p_values_of
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.train.augment.spec import AugmentSpec, Retry
from ssdconv.train.recipes import RECIPES

FILE = Path(__file__).parents[1] / "tools" / "augmentation.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "own_data.md"
BEGIN, END = "<!-- augmentation:begin, made by tools/augment_conformance.py -->", "<!-- augmentation:end -->"
_IN_PIXELS = ("expand.fill", "jpeg", "precision", "rounded", "stages")


def others(spec: AugmentSpec, path: str, value: Any) -> list[Any]:
    """Values that a field might wrongly have."""
    name = path.rpartition(".")[2]
    owner = getattr(spec, path.partition(".")[0]) if "." in path else spec
    kind = get_type_hints(type(owner))[name]
    choices = [c for c in get_args(kind) if isinstance(c, str)]
    if choices:
        return [c for c in choices if c != value]
    if isinstance(value, bool):
        return [not value]
    match name:
        case "stages":
            return [tuple(_swapped(value, "expand", "crop")), tuple(_swapped(value, "flip", "resize"))]
        case "orders":
            return [value[:1], value[1:]] if len(value) > 1 else [(value[0][::-1],)]
        case "samplers":
            return [value[1:], value[:-1]]
        case "interpolations":
            return [value[1:]] if len(value) > 1 else [(*value, "nearest")]
        case "retry":
            return [Retry()] if value is None else [None]
        case "trials":
            return [value // 5]
        case "channel_shuffle" | "pivot":
            return [0.5 if name == "channel_shuffle" else 20.0] if not value else [0.0]
    if isinstance(value, tuple):
        return [(value[0] * 1.25, value[1]), (value[0], value[1] * 0.8)]
    return [value * 0.75]


def _swapped(stages: tuple[str, ...], one: str, other: str) -> list[str]:
    return [{one: other, other: one}.get(s, s) for s in stages]


def told(
    original: OriginalSamples, golden: Path, photos: Path, path: str, spec: AugmentSpec, theirs: Any, samples: int
) -> str | None:
    """What tells that a spec is not the source's; None where nothing does. Pixels cost most: a third of the samples for them."""
    if path.startswith("photometric"):
        cases = colour_cases(golden, original, spec.photometric)
        if cases.equal + cases.one_level < cases.cases:
            return "colour cases"
    rendered = path in _IN_PIXELS
    try:
        ours = our_features(golden, photos, original, samples // 3 if rendered else samples, 2, spec, pixels=rendered)
    except Exception:  # noqa: BLE001 - a rule that no image survives is told by that
        return "samples"
    return "samples" if min(p_values_of(ours, theirs).values()) < LEAST_P / 10 else None


def measured(original: OriginalSamples, golden: Path, photos: Path, samples: int) -> dict[str, Any]:
    """Everything about one source; a changed field gets three eighths of the samples."""
    theirs = original_features(golden, original)
    ours = our_features(golden, photos, original, samples)
    p = p_values_of(ours, theirs)
    least = min(p, key=lambda name: p[name])
    cases = colour_cases(golden, original)
    evidence = {}
    for path, value in paths(original.spec):
        found = [
            told(original, golden, photos, path, changed(original.spec, path, other), theirs, samples * 3 // 8)
            for other in others(original.spec, path, value)
        ]
        evidence[path] = "reading" if not found or None in found else min(f for f in found if f)
        print(f"{original.recipe} {path}: {evidence[path]}", file=sys.stderr, flush=True)
    return {
        "samples": samples,
        "features": len(p),
        "below_0.001": sum(v < LEAST_P for v in p.values()),
        "least_p": float(f"{p[least]:.3g}"),
        "least": least,
        "colour_cases": cases.cases,
        "colour_equal": cases.equal,
        "colour_one_level": cases.one_level,
        "fields": evidence,
    }


def section() -> str:
    """The table in Markdown between its markers, from what is recorded."""
    rows = json.loads(FILE.read_text())["augmentation"]
    lines = [
        "| recipe | samples of each photo | features with p > 0.001 | least p | exact colour cases | fields told |",
        "|---|---|---|---|---|---|",
    ]
    untold = []
    for name in ORIGINALS:
        row = rows[name]
        near = f", {row['colour_one_level']} by one level" if row["colour_one_level"] else ""
        cases = f"{row['colour_equal']} of {row['colour_cases']} equal{near}"
        reading = [f"`{path}`" for path, basis in row["fields"].items() if basis == "reading"]
        told_ = f"{len(row['fields']) - len(reading)} of {len(row['fields'])}"
        agree = f"{row['features'] - row['below_0.001']} of {row['features']}"
        lines.append(f"| `{name}` | {row['samples']:,} | {agree} | {row['least_p']:.2g} | {cases} | {told_} |")
        untold.append(f"- `{name}`: {', '.join(reading)}")
    without = ", ".join(f"`{name}`" for name in rows if name not in ORIGINALS)
    lines += [
        "",
        "A field is told where a wrong value in its place is noticed, every one that was tried, with three eighths of the samples (an",
        "eighth where only pixels can tell). The others are set from the source's text; so few samples do not tell them from a",
        "neighbouring value:",
        "",
        *untold,
        "",
        f"There are no samples of {without}: all their fields are set from their sources' text.",
    ]
    return "\n".join([BEGIN, *lines, END])


def inserted(text: str) -> str:
    """``text`` with the table between its markers made anew."""
    start, stop = text.index(BEGIN), text.index(END)
    return text[:start] + section() + text[stop + len(END) :]


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="folder of aug_*.npz and colour_*.npz")
    parser.add_argument("--photos", type=Path, help="folder of 000004.jpg and 000067.jpg")
    parser.add_argument("--docs", action="store_true", help="measure nothing, write the table")
    parser.add_argument("--only", choices=sorted(ORIGINALS), help="measure this one again")
    parser.add_argument("--samples", type=int, default=4000, help="of each photo (default: %(default)s)")
    options = parser.parse_args()
    if options.docs:
        DOCUMENT.write_text(inserted(DOCUMENT.read_text()))
        return 0
    if not options.golden or not options.photos:
        parser.error("--golden and --photos are needed to measure")
    content = json.loads(FILE.read_text()) if FILE.is_file() else {}
    table = content.setdefault("augmentation", {})
    for name, recipe in RECIPES.items():
        spec = msgspec.to_builtins(recipe.augment)
        if name not in ORIGINALS:
            table[name] = {"spec": spec, "fields": {path: "reading" for path, _ in paths(recipe.augment)}}
        elif options.only in (None, name):
            started = time.process_time()
            table[name] = {"spec": spec, **measured(ORIGINALS[name], options.golden, options.photos, options.samples)}
            print(f"{name}: {time.process_time() - started:.0f} s of CPU time", file=sys.stderr)
        with atomic_path(FILE) as target:
            target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    if all("features" in table.get(name, {}) for name in ORIGINALS):
        DOCUMENT.write_text(inserted(DOCUMENT.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
