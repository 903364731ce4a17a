"""Write what the original projects' arrays say about every recipe's targets, losses and gradients: ``tools/computation.json``.

For each recipe with recorded arrays: images and priors that differ, the worst error of loss terms and gradients, and **which fields
of its loss the arrays bear out**: each field is changed in turn, and the arrays either tell it (``arrays``) or do not (``reading``: set
from the source's text alone). ``docs/training.md`` shows it (``tools/recipe_table.py``).

    python tools/computation.py --golden DIR [--only gluon] [--quick]
    python tools/computation.py --steps
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import train_golden as arrays  # type: ignore[import-not-found]
import train_steps as original  # type: ignore[import-not-found]
from nested import changed, paths  # type: ignore[import-not-found]

from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.loss import multibox_loss
from ssdconv.train.matching import Targets
from ssdconv.train.recipes import RECIPES

FILE = Path(__file__).with_name("computation.json")
TERMS, GRADIENTS, OFFSETS = 1e-6, 1e-5, 2e-4
"""Largest errors of rows that count as equal."""


def others(rule: LossRule, path: str, value: Any) -> list[Any]:
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


def measured(golden: Path, name: str, quick: bool) -> dict[str, Any]:
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


def steps(only: list[str] | None) -> int:
    """Measure three updates of the recorded runs, the update rules of TensorFlow and Keras, and Caffe's solvers."""
    table: dict[str, Any] = json.loads(FILE.read_text())
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
        with atomic_path(FILE) as target:
            target.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    return 0


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="folder of the recorded arrays")
    parser.add_argument("--only", nargs="*", help="measure these recipes again")
    parser.add_argument("--steps", action="store_true", help="measure the training steps instead (some minutes)")
    parser.add_argument("--quick", action="store_true", help="fewer images")
    options = parser.parse_args()
    if options.steps:
        return steps(options.only)
    recorded = {"caffe", *(r for table in (arrays.MATCHED, arrays.LOSSES, arrays.KERAS_TF) for r, _ in table.values())}
    table: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    for name, recipe in list(RECIPES.items()):
        if options.only and name not in options.only:
            continue
        rule = recipe.loss
        entry: dict[str, Any] = {"rule": msgspec.to_builtins(rule)}
        if name not in recorded:
            entry["fields"] = {path: "reading" for path, _ in paths(rule)}
        else:
            entry |= measured(options.golden, name, options.quick)
            check, evidence = checks(options.golden, name), {}
            assert check(rule), f"{name}: the recipe itself is not what the arrays hold"
            for path, value in paths(rule):
                told = [not check(changed(rule, path, other)) for other in others(rule, path, value)]
                evidence[path] = "arrays" if told and all(told) else "reading"
                print(f"{name} {path}: {evidence[path]}", file=sys.stderr, flush=True)
            entry["fields"] = evidence
        table[name] = {**{k: v for k, v in table.get(name, {}).items() if k == "steps"}, **entry}
        with atomic_path(FILE) as target:
            target.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
