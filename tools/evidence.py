"""Write what the original projects' own output bears out of every recipe, field by field.

``losses``: targets, losses and gradients against recorded arrays, and ``steps``: updates, into ``tools/computation.json``: images and priors
that differ, the worst error of loss terms and gradients. ``augmentation``: features of augmented samples laid side by side, the least p and
the exact colour cases, into ``tools/augmentation.json``. Both tell **which fields are borne out**: each field is changed in turn, and what
was recorded either tells it (``arrays``; ``samples``, ``colour cases``) or does not (``reading``: set from the source's text alone).
Recipes without a recording rest on reading in all fields. ``tools/tables.py`` writes it into the documents.

    python tools/evidence.py losses --golden DIR [--only gluon] [--quick]
    python tools/evidence.py steps [--only keras]
    python tools/evidence.py augmentation --golden DIR --photos DIR [--only gluon] [--samples 4000]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
import torch

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
from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.ssd_ref.priors import Priors
from ssdconv.tools import train_golden as arrays
from ssdconv.tools import train_steps as original
from ssdconv.train.augment.spec import AugmentSpec, Retry
from ssdconv.train.loss import multibox_loss
from ssdconv.train.matching import Targets
from ssdconv.train.recipes import RECIPES

HERE = Path(__file__).resolve().parent
COMPUTATION, AUGMENTATION = HERE / "computation.json", HERE / "augmentation.json"
TERMS, GRADIENTS, OFFSETS = 1e-6, 1e-5, 2e-4
"""Largest errors of rows that count as equal."""
_IN_PIXELS = ("expand.fill", "jpeg", "precision", "rounded", "stages")


def paths(rule: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every field; parts that a rule does not have are one field."""
    for field in fields(rule):
        value = getattr(rule, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from paths(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def changed(rule: Any, path: str, value: Any) -> Any:
    """The rule with another value at a dotted name."""
    head, _, rest = path.partition(".")
    return replace(rule, **{head: value if not rest else changed(getattr(rule, head), rest, value)})


def _write(path: Path, table: dict[str, Any]) -> None:
    with atomic_path(path) as target:
        target.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def other_rules(rule: LossRule, path: str, value: Any) -> list[Any]:
    """Values that a field might wrongly have."""
    owner: Any = rule
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    hint = get_type_hints(type(owner))[name]
    choices = [c for part in (hint, *get_args(hint)) for c in get_args(part) if isinstance(c, str)]
    choices += [c for c in get_args(hint) if isinstance(c, str)]
    if choices:
        return [c for c in dict.fromkeys(choices) if c != value]
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return [3.0]
    if name == "samples":
        return [8]
    if isinstance(value, int):
        return [value + 1]
    return [0.1] if value == 0 else [value * 0.8]


Check = Callable[[LossRule], bool]
"""Whether a rule gives what the arrays hold."""


def _with(name: str, rule: LossRule) -> None:
    RECIPES[name] = replace(RECIPES[name], loss=rule)  # type: ignore[index]


def checks(golden: Path, name: str) -> Check:
    """A quick comparison of a recipe with its arrays."""
    if name == "caffe":
        return lambda rule: caffe(golden, rule)["equal"]
    matched = [key for key, (recipe, _) in arrays.MATCHED.items() if recipe == name and "300" in key]
    own = [key for key, (recipe, _) in arrays.LOSSES.items() if recipe == name]
    keras = [key for key, (recipe, _) in arrays.KERAS_TF.items() if recipe == name]

    def check(rule: LossRule) -> bool:
        before = RECIPES[name].loss
        _with(name, rule)
        try:
            for key in own:
                found = list(arrays.losses(golden, key, (3, 8)))
                if not all(_good(b, True) for b in found):
                    return False
            for key in keras:
                if not all(_good(b, True) for b in arrays.keras_losses(golden, key, (3,))):
                    return False
                targets = arrays.keras_targets(golden, key, 40)
                if targets.priors or targets.neutral:
                    return False
            return all(not arrays.matching(golden, key, "syn", "own").priors for key in matched)
        except Exception:  # noqa: BLE001 - a rule that cannot be computed is told by that
            return False
        finally:
            _with(name, before)

    return check


def _good(batch: arrays.BatchLoss, exact: bool) -> bool:
    fine = batch.terms < TERMS and batch.grad_loc < GRADIENTS and batch.labels == 0 and batch.counts
    return bool(fine and (not exact or (batch.negatives == 0 and batch.grad_conf < GRADIENTS)))


def caffe(golden: Path, rule: LossRule) -> dict[str, Any]:
    """The six recorded layers of ``multibox_loss.npz`` under a rule: worst errors, and whether all are equal."""
    told = json.loads((golden / "multibox_loss.json").read_text())
    held = arrays.opened(golden / "multibox_loss.npz")
    worst = [0.0, 0.0, 0.0]
    same = True
    for case, about in told.items():
        part = {key: torch.from_numpy(held[f"{case}/{key}"]) for key in ("loc", "conf", "priors", "gt")}
        batch, rows = part["loc"].shape[0], part["gt"].reshape(-1, 8)
        objects = [rows[rows[:, 0] == item] for item in range(batch)]
        skip = "use_difficult_gt: false" in about["param"]
        keep = [~(o[:, 7] > 0) if skip else torch.ones(len(o), dtype=torch.bool) for o in objects]
        targets = Targets.pad([o[:, 3:7] for o in objects], [o[:, 1].long() for o in objects], keep)
        loc = part["loc"].reshape(batch, -1, 4).requires_grad_()
        conf = part["conf"].reshape(batch, -1, about["classes"]).requires_grad_()
        try:
            out = multibox_loss(loc, conf, Priors.from_corners(*part["priors"].reshape(2, -1, 4)), targets, rule)
            out.total.backward()  # type: ignore[no-untyped-call]
        except Exception:  # noqa: BLE001
            return {"equal": False}
        assert loc.grad is not None and conf.grad is not None
        grads = [
            (g.numpy(), held[f"{case}/grad_{w}"].reshape(g.shape)) for g, w in ((loc.grad, "loc"), (conf.grad, "conf"))
        ]
        same &= all(bool(((a != 0) == (b != 0)).all()) for a, b in grads)
        errors = [abs(out.total.item() / float(held[f"{case}/loss"]) - 1)]
        errors += [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in grads]
        worst = [max(a, b) for a, b in zip(worst, errors, strict=True)]
    equal = same and worst[0] < TERMS and max(worst[1:]) < GRADIENTS
    return {"equal": equal, "layers": len(told), "terms": _short(worst[0]), "gradients": _short(max(worst[1:]))}


def _short(value: float) -> float:
    return float(f"{value:.2g}")


def measured_losses(golden: Path, name: str, quick: bool) -> dict[str, Any]:
    """Numbers of one recipe."""
    if name == "caffe":
        found = caffe(golden, RECIPES[name].loss)
        return {"losses": {"batches": found["layers"], "terms": found["terms"]}, "gradients": found["gradients"]}
    targets: list[dict[str, Any]] = []
    for key, (recipe, _) in arrays.MATCHED.items():
        if recipe == name:
            for part in ("voc", "syn"):
                for whose in ("own", "file"):
                    m = arrays.matching(golden, key, part, whose, 100 if quick else None)
                    row = {"file": key, "images": m.compared, "part": part, "priors of": whose}
                    targets.append(
                        {**row, "images differ": m.images, "priors differ": m.priors, "offsets": _short(m.offsets)}
                    )
    batches: list[arrays.BatchLoss] = []
    for key, (recipe, _) in arrays.LOSSES.items():
        if recipe == name:
            batches += arrays.losses(golden, key)
    for key, (recipe, _) in arrays.KERAS_TF.items():
        if recipe == name:
            k = arrays.keras_targets(golden, key)
            row = {"file": key, "images": 300, "part": "voc", "priors of": "own", "neutral differ": k.neutral}
            targets.append({**row, "images differ": k.images, "priors differ": k.priors, "offsets": _short(k.offsets)})
            batches += arrays.keras_losses(golden, key)
    exact = [b for i, b in enumerate(batches) if i != 11]  # in the twelfth all losses are equal
    return {
        "targets": targets,
        "losses": {
            "batches": len(batches),
            "terms": _short(max(b.terms for b in batches)),
            "labels differ": sum(b.labels for b in batches),
            "negatives differ": sum(b.negatives for b in exact),
            "counts": all(b.counts for b in batches),
        },
        "gradients": _short(max(max(b.grad_loc for b in batches), max(b.grad_conf for b in exact))),
    }


def steps(only: list[str] | None) -> None:
    """Measure three updates of the recorded runs, the update rules of TensorFlow and Keras, and Caffe's solvers."""
    table: dict[str, Any] = json.loads(COMPUTATION.read_text())
    for name in (*original.RECORDED, *original.UPDATES, *original.SOLVERS):
        if only and name not in only:
            continue
        if name in original.UPDATES:
            table[name]["steps"] = {"update": _short(original.updates(name))}
        elif name in original.SOLVERS:
            plan = original.SOLVERS[name]
            report = original.beside(original.solved(name), original.solver_recipe(name), plan)
            assert report.passed, report.failures()[:3]
            ratios = {what: _short(report.worst(what).ratio) for what in ("loss", "gradient", "weights")}
            table[name]["steps"] = {"updates": max(plan.keep), "ratios": ratios}
        else:
            found = original.recorded(name)
            told = {"losses": found.losses, "weights": found.weights, "floor": found.floor, "changes": found.changes}
            table[name]["steps"] = {"tensors": found.tensors, **{k: _short(v) for k, v in told.items()}}
        _write(COMPUTATION, table)


def losses(golden: Path, only: list[str] | None, quick: bool) -> None:
    """Measure targets, losses and gradients, and which fields the arrays tell."""
    recorded = {"caffe", *(r for table in (arrays.MATCHED, arrays.LOSSES, arrays.KERAS_TF) for r, _ in table.values())}
    table: dict[str, Any] = json.loads(COMPUTATION.read_text()) if COMPUTATION.is_file() else {}
    for name, recipe in list(RECIPES.items()):
        if only and name not in only:
            continue
        rule = recipe.loss
        entry: dict[str, Any] = {"rule": msgspec.to_builtins(rule)}
        if name not in recorded:
            entry["fields"] = {path: "reading" for path, _ in paths(rule)}
        else:
            entry |= measured_losses(golden, name, quick)
            check, evidence = checks(golden, name), {}
            assert check(rule), f"{name}: the recipe itself is not what the arrays hold"
            for path, value in paths(rule):
                told = [not check(changed(rule, path, other)) for other in other_rules(rule, path, value)]
                evidence[path] = "arrays" if told and all(told) else "reading"
                print(f"{name} {path}: {evidence[path]}", file=sys.stderr, flush=True)
            entry["fields"] = evidence
        table[name] = {**{k: v for k, v in table.get(name, {}).items() if k == "steps"}, **entry}
        _write(COMPUTATION, table)


def other_specs(spec: AugmentSpec, path: str, value: Any) -> list[Any]:
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


def measured_samples(original: OriginalSamples, golden: Path, photos: Path, samples: int) -> dict[str, Any]:
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
            for other in other_specs(original.spec, path, value)
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


def augmentation(golden: Path, photos: Path, only: list[str] | None, samples: int) -> None:
    """Measure features of augmented samples, and which fields they tell."""
    content = json.loads(AUGMENTATION.read_text()) if AUGMENTATION.is_file() else {}
    table = content.setdefault("augmentation", {})
    for name, recipe in RECIPES.items():
        spec = msgspec.to_builtins(recipe.augment)
        if name not in ORIGINALS:
            table[name] = {"spec": spec, "fields": {path: "reading" for path, _ in paths(recipe.augment)}}
        elif not only or name in only:
            started = time.process_time()
            table[name] = {"spec": spec, **measured_samples(ORIGINALS[name], golden, photos, samples)}
            print(f"{name}: {time.process_time() - started:.0f} s of CPU time", file=sys.stderr)
        _write(AUGMENTATION, content)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("losses", "steps", "augmentation"))
    parser.add_argument(
        "--golden", type=Path, help="folder of the recorded arrays (aug_*.npz and colour_*.npz among them)"
    )
    parser.add_argument("--photos", type=Path, help="folder of 000004.jpg and 000067.jpg")
    parser.add_argument("--only", nargs="*", help="measure these recipes again")
    parser.add_argument("--quick", action="store_true", help="losses: fewer images")
    parser.add_argument("--samples", type=int, default=4000, help="of each photo (default: %(default)s)")
    options = parser.parse_args()
    if options.what == "steps":
        steps(options.only)
    elif options.what == "losses" and options.golden:
        losses(options.golden, options.only, options.quick)
    elif options.what == "augmentation" and options.golden and options.photos:
        augmentation(options.golden, options.photos, options.only, options.samples)
    else:
        parser.error("--golden is needed, and --photos for augmentation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
