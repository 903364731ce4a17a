"""Tables of the documents, made from data: ``python tools/tables.py`` writes them, ``--check`` only compares.

docs/training.md: the recipes, everything read from them as data (one that differs from another in few fields is told as those), and
what the original code's arrays bear out (``tools/evidence.py`` writes computation.json). docs/own_data.md: what samples of the original code
say about their augmentation (augmentation.json). README.md: the zoo (zoo.json). fetch/zoo.schema.json: the JSON Schema of zoo files,
from the types that they are read with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ssdconv.fetch import record
from ssdconv.parity.steps.augmentation import ORIGINALS
from ssdconv.train.recipe import Recipe
from ssdconv.train.recipes import RECIPES
from ssdconv.zoo import entries

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "fetch" / "zoo.schema.json"
MEASURED = ROOT / "tools" / "computation.json"
DRAWN = ROOT / "tools" / "augmentation.json"
ZOO_HEAD = ("weights", "source", "paper", "the source's own", "here: layers", "here: mAP", "checksum")

VARIANTS = {
    "caffe-coco": "caffe",
    "caffe-no-difficult": "caffe",
    "ssd.pytorch-coco": "ssd.pytorch",
    "keras-resnet50": "keras",
}
"""Recipe -> the one that it is a variant of."""

DIVISORS = {"same": "positives", "selected": "selected / 4 (conf), positives (loc)"}
FORMULA = "formula only"
LIVE = {"chainer": "live, ten updates: 1.0e-12 of their change", "gluon": "live, ten updates: 2.6e-10 of their change"}
"""From the table of step parity in the same document."""

COLOUR = ("brightness", "contrast", "saturation", "hue")


def number(value: float) -> str:
    """1e-05 as 1e-5, 0.5 as 0.5, 120000 as 120,000."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}".replace("e-0", "e-")


def span(pair: tuple[float, float]) -> str:
    """A range."""
    return f"{number(pair[0])}–{number(pair[1])}"


def length(recipe: Recipe) -> str:
    unit = "" if recipe.schedule.unit == "iterations" else " epochs"
    return f"{number(recipe.schedule.length)}{unit or ' iterations'}"


def drops(recipe: Recipe) -> str:
    spec = recipe.schedule
    return f"×{number(spec.factor)} at {' and '.join(number(m) for m in spec.milestones)}"


def warmup(recipe: Recipe) -> str:
    spec = recipe.schedule
    if not spec.warmup:
        return "none"
    unit = spec.warmup_unit or spec.unit
    form = "rising from" if spec.warmup_form == "linear" else "constant"
    return f"{form} ×{number(spec.warmup_factor)}, {number(spec.warmup)} {unit}"


def update(recipe: Recipe) -> str:
    spec = recipe.optimizer
    if spec.kind == "rmsprop":
        return f"RMSProp {number(spec.rho)}, eps {number(spec.eps)} outside the root"
    return f"SGD {number(spec.momentum)}, rate {'inside' if spec.velocity == 'lr_inside' else 'outside'} the velocity"


def multipliers(recipe: Recipe) -> str:
    rules = [
        f"{'/'.join(r.roles) if len(r.roles) < 5 else 'all'}"
        f"{'' if r.names == '*' else f' of `{r.names}`'}: rate ×{number(r.lr)}, decay ×{number(r.decay)}"
        for r in recipe.optimizer.rules
    ]
    return "; ".join(rules) or "none"


def matching(recipe: Recipe) -> str:
    rule = recipe.loss.matching
    forced = {
        "greedy": "best pairs first",
        "per_object": "each object's best prior, the last object keeps it",
        "per_object_best": "each object's best prior, the largest overlap keeps it",
        "per_object_least": "each object's best prior, the smallest overlap keeps it",
        "none": "nothing forced",
    }[rule.forced]
    ties = "" if rule.ties == "none" else ", and its ties"
    return f"{forced}{ties}{'' if rule.threshold is None else f'; then IoU ≥ {number(rule.threshold)}'}"


def numerics(recipe: Recipe) -> str:
    rule = recipe.loss.matching.numerics
    areas = f", objects' areas {rule.object_areas}" if rule.object_areas else ""
    return f"{rule.dtype}, {rule.units}{areas}{', by way of centres' if rule.form == 'centers' else ''}"


def prior_numbers(recipe: Recipe) -> str:
    rule = recipe.loss.matching.numerics
    order = {"reference": "", "inverses_last": "; 2, 3, ½, ⅓", "middle_first": "; larger square first; 2, 3, ½, ⅓"}
    return f"{rule.priors}{order[rule.cell_order]}"


def negatives(recipe: Recipe) -> str:
    rule = recipe.loss.mining
    hardness = {
        "loss": "class loss",
        "batch_shifted": "log sum exp less the batch's largest output",
        "background": "background's probability",
    }
    equal = {
        "first": "",
        "torch": "; of equal ones as torch's unstable sort",
        "numpy": "; of equal ones as numpy's unstable sort",
        "all": "; all of equal ones",
        "none": "; none of equal ones",
    }
    counted = "" if rule.counted == "positives" else "; neutral priors count as positives"
    return f"{number(rule.ratio)} per positive, of each {rule.scope}; by {hardness[rule.hardness]}{equal[rule.equal]}{counted}"


def accidents(recipe: Recipe) -> str:
    rule = recipe.loss
    told = ["no positives: not a number"] if rule.without_positives == "nan" else ["no positives: 0"]
    told += ["an image without objects: an error"] if rule.without_objects == "error" else []
    told += [f"class loss at most {rule.largest:.2f}"] if rule.largest else []
    return "; ".join(told)


def colour(recipe: Recipe) -> str:
    spec = recipe.augment.photometric
    if spec is None:
        return "none"
    used = {name for order in spec.orders for name in order}
    unit = "°" if spec.hue_unit == "degrees" else " half degrees"
    values = {
        "brightness": f"brightness ±{number(spec.brightness)}",
        "contrast": f"contrast {span(spec.contrast)}",
        "saturation": f"saturation {span(spec.saturation)}",
        "hue": "hue of YIQ, any angle" if spec.space == "yiq" else f"hue ±{number(spec.hue)}{unit}",
    }
    told = [values[n] for n in COLOUR if n in used and not (n in ("brightness", "hue") and getattr(spec, n) == 0)]
    shuffle = f", channels shuffled with p {number(spec.channel_shuffle)}" if spec.channel_shuffle else ""
    return f"{', '.join(told)}, each p {number(spec.probability)}{shuffle}"


def orders(recipe: Recipe) -> str:
    spec = recipe.augment.photometric
    return " or ".join("".join(n[0] for n in order) for order in spec.orders) if spec else "–"


def expand(recipe: Recipe) -> str:
    spec = recipe.augment.expand
    return f"p {number(spec.probability)}, {span(spec.ratio)}, {spec.fill.replace('_', ' as ')}" if spec else "none"


def crop(recipe: Recipe) -> str:
    spec = recipe.augment.crop
    if spec is None:
        return "none"
    limits = [
        number(s.min_iou) if s.min_iou is not None else f"at most {number(s.max_iou or 0.0)}" for s in spec.samplers
    ]
    more = ["whole"] * spec.whole + ["any"] * spec.unconstrained
    how = "one of those found" if spec.choice == "found" else "one drawn, then tried"
    return f"{', '.join([*more, *limits])}; {how}, {spec.trials} trials"


def asked(recipe: Recipe) -> str:
    spec = recipe.augment.crop
    told = {
        "any": "any object",
        "all": "all objects",
        "inside": "all objects inside",
        "any_inside": "any object inside",
        "never": "never rejects",
    }
    return told[spec.meets] if spec else "–"


def sides(recipe: Recipe) -> str:
    spec = recipe.augment.crop
    if spec is None:
        return "–"
    form = "scale and aspect" if spec.shape == "scale_aspect" else "both sides"
    return f"{form}: {span(spec.scale)}, {span(spec.aspect)}"


def initial(recipe: Recipe) -> str:
    spec = recipe.init
    heads = f", heads {spec.heads.replace('_', ' ')}" if spec.heads else ""
    return f"{spec.kernel.replace('_', ' ')}{heads}"


ROWS: dict[str, Callable[[Recipe], str]] = {
    "batch": lambda r: str(r.batch_size),
    "length": length,
    "base rate": lambda r: number(r.optimizer.lr),
    "drops": drops,
    "warm-up": warmup,
    "update": update,
    "weight decay": lambda r: number(r.optimizer.weight_decay),
    "multipliers": multipliers,
    "matching": matching,
    "overlaps in": numerics,
    "priors by": prior_numbers,
    "hard negatives": negatives,
    "loss divided by": lambda r: DIVISORS[r.loss.conf_normalizer],
    "edges of the loss": accidents,
    "difficult objects": lambda r: "drop, but one" if r.difficult == "drop_keep_one" else r.difficult,
    "subtracted from VOC's corners": lambda r: str(r.origin),
    "order of augmentation": lambda r: ", ".join(r.augment.stages),
    "colour": colour,
    "orders of colour": orders,
    "expand: canvas, fill": expand,
    "crop: least IoU": crop,
    "… asked of": asked,
    "… size, aspect": sides,
    "flip": lambda r: f"p {number(r.augment.flip)}",
    "interpolation": lambda r: ", ".join(r.augment.interpolations),
    "JPEG between stages": lambda r: "yes" if r.augment.jpeg else "no",
    "new kernels": initial,
    "running statistics": lambda r: f"share {number(r.norm.share)}, {r.norm.variance} variance",
    "scales of the L2 norm": lambda r: "after the gradient" if r.norm.scales == "outside" else "in the gradient",
}


def recipes() -> str:
    """The table of the recipes, the variants and what the data cannot say, in Markdown."""
    shown = [r for r in RECIPES.values() if r.name not in VARIANTS]
    lines = [
        f"| | {' | '.join(f'`{r.name}`' for r in shown)} |",
        f"|---|{'---|' * len(shown)}",
        *(f"| **{title}** | {' | '.join(cell(r) for r in shown)} |" for title, cell in ROWS.items()),
        "",
        "Orders of colour by their first letters. Variants:",
        "",
    ]
    for name, base in VARIANTS.items():
        found = ", ".join(f"{field} {value}" for field, value in differences(RECIPES[name], RECIPES[base]))
        lines.append(f"- `{name}` is `{base}` with {found}.")
    lines += ["", "What the data cannot say, and where the figures come from:", ""]
    for recipe in RECIPES.values():
        known = RECIPES[VARIANTS[recipe.name]].notes if recipe.name in VARIANTS else ()
        notes = [note for note in recipe.notes if note not in known]
        if recipe.name not in VARIANTS or notes:
            facts = f" ({recipe.facts})" if recipe.name not in VARIANTS else ""
            lines.append(f"- `{recipe.name}`{facts}: {'; '.join(notes) or 'nothing'}.")
    lines += ["", *proofs()]
    return "\n".join(lines)


def proofs() -> list[str]:
    """What was compared with the originals' own output, recipe by recipe, from what ``tools/evidence.py`` wrote; variants share their base's."""
    measured: dict[str, Any] = json.loads(MEASURED.read_text())
    drawn: dict[str, Any] = json.loads(DRAWN.read_text()).get("augmentation", {}) if DRAWN.is_file() else {}
    lines = [
        'Compared with what the original code computed; "formula only" is set from the source\'s text and tested for itself:',
        "",
        "| recipe | targets: priors that differ | loss: largest relative error | gradients: error of the largest | steps | augmentation |",
        "|---|---|---|---|---|---|",
    ]
    untold, own = [], [m for m in measured.values() if "losses" in m]  # recipes that share a rule share its proof
    for name in (n for n in RECIPES if n not in VARIANTS):
        told = measured[name]
        same = told if "losses" in told else next((m for m in own if m["rule"] == told["rule"]), told)
        cells = [targets_cell(same), loss_cell(same), f"{same['gradients']:.1e}" if "gradients" in same else FORMULA]
        lines.append(f"| `{name}` | {' | '.join([*cells, steps_cell(name, told), drawn_cell(drawn.get(name))])} |")
        reading = [path for path, basis in told["fields"].items() if basis == "reading"]
        count = len(told["fields"])
        if len(reading) < count:
            shown = ", ".join(f"`{path}`" for path in reading)
            untold.append(f"- `{name}`: {count - len(reading)} of {count} fields; no array tells {shown}.")
    return [
        *lines,
        "",
        "Fields of the loss that the recorded arrays bear out (each was changed, and the comparison failed):",
        "",
        *untold,
    ]


def targets_cell(told: dict[str, Any]) -> str:
    rows = told.get("targets")
    if not rows:
        return FORMULA
    images = sum(row["images"] for row in rows if row["priors of"] == "own")
    differ = sum(row["priors differ"] + row.get("neutral differ", 0) for row in rows)
    return f"{differ} on {number(images)} images"


def loss_cell(told: dict[str, Any]) -> str:
    rows = told.get("losses")
    if not rows:
        return FORMULA
    mined = f", {rows['negatives differ']} other negatives" if "negatives differ" in rows else ""
    return f"{rows['terms']:.1e} in {rows['batches']} {'layers' if 'labels differ' not in rows else 'batches'}{mined}"


def steps_cell(name: str, told: dict[str, Any]) -> str:
    rows = told.get("steps")
    if name in LIVE:
        return LIVE[name]
    if not rows:
        return FORMULA
    if "ratios" in rows:
        ratios = ", ".join(f"{what} {ratio:g}" for what, ratio in rows["ratios"].items())
        how = "on SSD300" if name == "caffe" else "on SSD300 by `caffe`'s multipliers"
        return f"Caffe's solver live {how}, {rows['updates']} updates, error over float32's own: {ratios}"
    if "update" in rows:
        return f"update rule live, five updates: {rows['update']:g} of their change"
    return f"three updates recorded: loss {rows['losses']:.0e}, weights {rows['weights']:.0e} of their change"


def drawn_cell(told: dict[str, Any] | None) -> str:
    if not told or "features" not in told:
        return FORMULA
    cases = f"colours {told['colour_equal']} of {told['colour_cases']} equal"
    near = f", {told['colour_one_level']} by one level" if told["colour_one_level"] else ""
    return f"{told['features']} features, least p {told['least_p']:.2g}; {cases}{near}"


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Fields in which two recipes differ, but for names and notes."""
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if mine == theirs or field.name in ("name", "title", "facts", "notes"):
            continue
        if is_dataclass(mine) and is_dataclass(theirs):
            yield from differences(mine, theirs, f"{path}{field.name}.")
        elif field.name == "rules":
            more = [r for r in mine if r not in theirs]
            yield f"`{path}rules`", "+ " + "; ".join(f"`{r.names}` decay ×{number(r.decay)}" for r in more)
        else:
            yield f"`{path}{field.name}`", f"`{mine}`"


def augmentation() -> str:
    """What samples of the original code bear out of every recipe's augmentation, in Markdown."""
    rows = json.loads(DRAWN.read_text())["augmentation"]
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
    return "\n".join(lines)


def zoo() -> str:
    """The zoo's weights, in Markdown."""
    rows = [ZOO_HEAD, ("---",) * len(ZOO_HEAD)]
    for entry in entries().values():
        r = entry.record
        fetchable = record.checksum_kind(r) if record.has_address(r) else "no address of a file"
        rows.append(
            (
                f"`{r.name}`",
                r.source,
                record.paper_score(r),
                record.own_score(r),
                record.layers_proven(r),
                record.measured_score(r),
                fetchable,
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


TABLES: dict[Path, tuple[str, Callable[[], str]]] = {
    ROOT / "docs" / "training.md": ("recipes", recipes),
    ROOT / "docs" / "own_data.md": ("augmentation", augmentation),
    ROOT / "README.md": ("zoo", zoo),
}
"""Document -> word of its markers, and what makes the table."""


def inserted(text: str, word: str, table: str) -> str:
    """``text`` with the table between its markers made anew.

    Raises:
        SystemExit: the markers are not there.
    """
    begin, end = f"<!-- {word}:begin, made by tools/tables.py -->", f"<!-- {word}:end -->"
    start, stop = text.find(begin), text.find(end)
    if start < 0 or stop < start:
        raise SystemExit(f"no markers {begin!r} … {end!r}")
    return text[:start] + f"{begin}\n{table}\n{end}" + text[stop + len(end) :]


def main() -> int:
    """Write the documents, or compare; 1 where one differs and only comparing was asked."""
    wanted = {path: inserted(path.read_text(), word, make()) for path, (word, make) in TABLES.items()}
    wanted[SCHEMA] = json.dumps(record.schema(), indent=1, ensure_ascii=False) + "\n"
    different = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        print("\n".join(f"{path.name} differs: run python tools/tables.py" for path in different) or "as the data say")
        return int(bool(different))
    for path in different:
        path.write_text(wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
