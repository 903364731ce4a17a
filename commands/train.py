"""``ssdconv train``: train any network by its source's recipe, from scratch, from a backbone or from converted weights.

Its options have no defaults in the parser, so that a resumed run takes from its folder what was not said.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import print_json, table
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from ssdconv.data.records import Dataset, Problems
    from ssdconv.train.distributed import Rank
    from ssdconv.train.loop import Settings
    from ssdconv.train.run_folder import Identity, RunFolder

NAME = "train"

GROUP: Group = "train"

HELP = "train a network by its source's recipe, from scratch or from converted weights"

EXAMPLES: tuple[str, ...] = (
    "ssdconv train --network ssd_512_resnet50_v1_voc --dataset voc0712 --data-root VOCdevkit --out runs/r50 --device cuda --amp",
    "ssdconv train --finetune out.pth --dataset my.yaml --epochs 50 --lr 0.0005 --out runs/mine",
    "ssdconv train --network ssd300_voc --backbone-weights vgg.caffemodel --dataset voc0712 --data-root VOCdevkit --out runs/a",
    "ssdconv train --finetune caffe.pth --recipe file --dataset my.yaml --out runs/own-loss",
    "ssdconv train --resume --out runs/r50",
    "ssdconv train --network ssd300_voc --dataset voc0712 --data-root VOCdevkit --preview sheet.png",
    "ssdconv train --list-recipes",
)

DEFAULTS: dict[str, Any] = {
    "augment": "faithful",
    "seed": 0,
    "amp": False,
    "workers": 2,
    "eval_every": 5,
    "keep": 3,
    "save_every": 1000,
    "log_every": 10,
    "device": "cpu",
    "tensorboard": False,
    "cache_images": False,
    "no_eval": False,
    "keep_going": False,
}
"""Of options that were not given; the parser itself has none, so that a resumed run knows what the user said."""

NETWORK = ("network", "config", "finetune")

RECIPE = ("recipe", "quirks", "epochs", "iterations", "lr", "batch_size", "lr_mode", "warmup", "without")

PATHS = ("config", "finetune", "backbone_weights", "data_root", "annotations", "images", "eval_root")

_NOT_KEPT = ("json", "debug", "resume", "out", "preview", "list_recipes")


def configure(parser: ArgumentParser) -> None:
    add_options(parser)
    parser.description = (
        f"{HELP[0].upper()}{HELP[1:]}. Several processes: torchrun --nproc_per_node=4 -m ssdconv train … "
        "(the folder of --out must be the same for all machines)."
    )


def add_options(parser: ArgumentParser) -> None:
    """Declare all options."""
    what = parser.add_argument_group("network").add_argument
    what("--network", metavar="NAME", help="a named network (`ssdconv networks`), for the data set's classes")
    what("--config", metavar="FILE", help="a network as JSON, as a run's config.json")
    what("--finetune", metavar="FILE", help="start from a checkpoint of ssdconv; other classes renew its class outputs")
    what(
        "--backbone-weights",
        metavar="FILE",
        help="start the backbone from this file: VGG16's .caffemodel or .pth, ours",
    )
    data = parser.add_argument_group("data").add_argument
    data(
        "--dataset", metavar="NAME", help="voc0712, voc07-trainval, coco-train2017, …, a .yaml, or a VOC or COCO folder"
    )
    data("--data-root", metavar="DIR", help="VOCdevkit, or the folder with COCO's annotations/ and images")
    data("--annotations", metavar="FILE", help="a COCO-form annotation file instead")
    data("--images", metavar="DIR", help="the images of --annotations")
    data("--split", metavar="NAME", help="part of a set of your own (default: train)")
    data(
        "--augment",
        choices=("faithful", "fast"),
        help="the recipe's own order, or all geometry in one step (default: faithful)",
    )
    data(
        "--keep-going",
        action="store_true",
        default=None,
        help="decode all images first; leave out and list what is damaged, instead of stopping at it",
    )
    data("--cache-images", action="store_true", default=None, help="keep decoded images in memory")
    held = parser.add_argument_group("evaluation").add_argument
    held(
        "--eval-dataset", metavar="NAME", help="held-out set (default: voc07 for VOC, coco-val2017 for COCO, split val)"
    )
    held("--eval-root", metavar="DIR", help="its root (default: --data-root)")
    held("--eval-split", metavar="NAME", help="part of a set of your own (default: val)")
    held("--eval-every", type=int, metavar="N", help="epochs between evaluations (default: 5); always one at the end")
    held("--convention", metavar="NAME", help="VOC scoring: devkit (default), chainercv, gluoncv, ssd.pytorch, caffe")
    held("--no-eval", action="store_true", default=None, help="train without evaluation; there is no best.pth then")
    way = parser.add_argument_group("recipe (default: the network's source's own)").add_argument
    way(
        "--recipe",
        metavar="NAME",
        help="whose recipe; --list-recipes shows them; `file`: the loss that the weight file tells",
    )
    way(
        "--quirks",
        choices=("source", "sane"),
        help="what a source does by accident (underflow, 0/0, errors, an inexact gradient) is done too, or not (default: source)",
    )
    way("--epochs", type=int, metavar="N", help="length; milestones keep their share")
    way("--iterations", type=int, metavar="N", help="length in updates instead")
    way("--lr", type=float, metavar="RATE", help="base learning rate; not scaled with the batch")
    way("--batch-size", type=int, metavar="N", help="images per update, over all processes")
    way("--lr-mode", choices=("step", "cos"), help="drops at milestones, or half a cosine")
    way("--warmup", type=int, metavar="N", help="updates in which the rate rises")
    way(
        "--without",
        action="append",
        choices=("photometric", "expand", "crop", "flip"),
        metavar="STAGE",
        help="leave out a stage of the augmentation: photometric, expand, crop or flip (repeatable)",
    )
    way("--list-recipes", action="store_true", help="show all recipes and stop")
    how = parser.add_argument_group("run").add_argument
    how("--out", metavar="DIR", help="folder of the run")
    how("--resume", action="store_true", help="go on with the run in --out from its last state")
    how("--preview", metavar="PNG", help="write a sheet of augmented samples there and stop")
    how("--seed", type=int, metavar="N", help="of initial values, order and augmentation (default: 0)")
    how("--amp", action="store_true", default=None, help="bfloat16 in the network; loss and weights stay float32")
    how("--device", help="cpu, cuda, cuda:1 (default: cpu); `cuda` under torchrun takes one each")
    how("--workers", type=int, metavar="N", help="threads that make samples (default: 2)")
    how("--keep", type=int, metavar="K", help="states to keep (default: 3)")
    how("--save-every", type=int, metavar="N", help="updates between states, beside every epoch (default: 1000)")
    how("--log-every", type=int, metavar="N", help="updates between lines of metrics.jsonl (default: 10)")
    how("--tensorboard", action="store_true", default=None, help="write TensorBoard's event files, too")


def given(args: Namespace) -> dict[str, Any]:
    """What the user said about the run, paths made absolute."""
    said = {k: v for k, v in vars(args).items() if v is not None and k not in _NOT_KEPT}
    for name in PATHS:
        if name in said:
            said[name] = str(Path(said[name]).absolute())
    for name in ("dataset", "eval_dataset"):
        if name in said and Path(said[name]).exists():
            said[name] = str(Path(said[name]).absolute())
    return said


def merged(said: dict[str, Any], stored: dict[str, Any], names: list[str]) -> Namespace:
    """All options: said now, else stored in the run, else the default, else None; one of two that exclude each other."""
    for group in (NETWORK, ("epochs", "iterations")):
        if any(name in said for name in group):
            stored = {name: value for name, value in stored.items() if name not in group}
    return Namespace(**{name: said.get(name, stored.get(name, DEFAULTS.get(name))) for name in names})


def run(args: Namespace) -> int:
    if args.list_recipes:
        return _list_recipes(args.json)
    if not args.out and not args.preview:
        raise UsageError("where to?", hint="--out runs/NAME for the run, or --preview sheet.png")
    for path in (args.config, args.finetune, args.backbone_weights):
        if path:
            existing(path)
    from ssdconv.commands.train_setup import held_out_data, network_of, recipe_for, training_data
    from ssdconv.data.records import Problems
    from ssdconv.train.run_folder import Identity, RunFolder, check_same, describe_data

    said = given(args)
    folder = RunFolder(args.out or ".")
    before, stored = _stored(folder, args)
    options = merged(said, stored.get("options", {}), list(vars(args)))
    skipped = Problems() if options.keep_going else None
    data = training_data(options, skipped)
    fresh = before is None or not folder.has_states
    chosen = None
    if fresh or before is None or any(name in said for name in NETWORK):
        chosen = network_of(options, data.classes)
    config = chosen.config if chosen else before.config  # type: ignore[union-attr]
    held = None
    if not args.preview:
        data, held = _looked_at(data, held_out_data(options, data, skipped), options, skipped)
    if before is None or any(name in said for name in RECIPE):
        recipe = recipe_for(options, config, len(data))
    else:
        recipe = before.recipe
    identity = Identity(config, recipe, describe_data(data), options.seed, options.augment, options.amp)
    if args.preview:
        return _preview(args, identity, data)
    if before is not None:
        check_same(before, identity, folder.path)
    from ssdconv.train.distributed import joined, place_from_environment

    place = place_from_environment()
    settings = _settings(options, place)
    import torch

    with joined(place, torch.device(settings.device)):
        start = None
        if fresh:
            from ssdconv.commands.train_setup import starting_network

            assert chosen is not None
            model, start = starting_network(options, chosen, recipe)
            if place.first and before is None:
                about = {"command": sys.argv, "options": said, "processes": place.world, "start": start.to_json()}
                if skipped is not None:
                    about["left_out"] = skipped.to_json()
                folder.create(identity, about)
        else:
            from ssdconv.ssd_ref.model import SSD

            model = SSD(config)
        place.barrier()
        outcome = _train(
            folder, model, identity, data, held, settings, options, place, None if start is None else start.text
        )
    if place.first:
        _print(outcome, start, skipped, args.json)
    return EXIT_OK


def _looked_at(
    data: Dataset, held: Dataset | None, options: Namespace, skipped: Problems | None
) -> tuple[Dataset, Dataset | None]:
    """Both sets once their images were looked at; what is in them, and what is left out, goes to stderr."""
    from ssdconv.commands.output import following
    from ssdconv.commands.train_setup import looked_at
    from ssdconv.data.survey import alike_classes
    from ssdconv.train.distributed import place_from_environment

    with following() as progress:
        data, lines = looked_at(data, options, skipped, progress)
        if held is not None:
            held, more = looked_at(held, options, skipped, progress)
            lines += more
    lines += [f"warning: {finding.text}" for finding in alike_classes(data.classes)]
    if skipped is not None and len(skipped):
        lines += [f"left out: {line}" for line in skipped.lines()]
    if place_from_environment().first:
        print("\n".join(lines), file=sys.stderr, flush=True)
    return data, held


def _stored(folder: RunFolder, args: Namespace) -> tuple[Identity | None, dict[str, Any]]:
    """The run that stands in the folder, where it is to be resumed."""
    if args.preview or not args.out:
        return None, {}
    if folder.begun and not args.resume:
        raise UsageError(
            "a run stands here already", where=args.out, hint="go on with it by --resume, or name another folder"
        )
    if not folder.begun:
        if args.resume and not (args.network or args.config or args.finetune):
            folder.read()  # says that there is none
        return None, {}
    return folder.read()


def _settings(options: Namespace, place: Rank) -> Settings:
    from ssdconv.commands.arguments import check_device
    from ssdconv.train.loop import Settings

    for name in ("eval_every", "keep", "save_every", "log_every"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1", got=getattr(options, name))
    device = f"cuda:{place.local}" if options.device == "cuda" and place.world > 1 else options.device
    return Settings(
        seed=options.seed,
        amp=options.amp,
        device=check_device(device),
        workers=options.workers,
        eval_every=options.eval_every,
        keep=options.keep,
        save_every=options.save_every,
        log_every=options.log_every,
        tensorboard=options.tensorboard,
    )


def _train(
    folder: RunFolder,
    model: Any,
    identity: Identity,
    data: Dataset,
    held: Dataset | None,
    settings: Settings,
    options: Namespace,
    place: Rank,
    start: str | None,
) -> Any:
    from ssdconv.commands.train_setup import watching
    from ssdconv.parity.accuracy.run import Evaluation
    from ssdconv.train.loader import TrainingSet
    from ssdconv.train.loop import Training

    samples = TrainingSet(
        data, identity.config, identity.recipe, identity.seed, mode=options.augment, cache=bool(options.cache_images)
    )
    evaluate = None
    if held is not None:
        batch = 8 if settings.device.startswith("cuda") else 1
        evaluate = Evaluation(held, folder.path / "evaluation.tmp", batch, max(settings.workers, 1), options.convention)
    about = {"data": data.name, "images": len(data)}
    with watching(place.first) as listener:
        training = Training(
            folder, model, samples, identity.recipe, settings, listener, place, evaluate=evaluate, about=about
        )
        if start is None:
            step = training.resume()
            if place.first:
                listener.note(f"going on after step {step} of {training.total}")
                folder.note_resumption(sys.argv, step)
        elif place.first:
            listener.note(start)
        return training.run()


def _preview(args: Namespace, identity: Identity, data: Dataset) -> int:
    from pathlib import Path

    from ssdconv.train.augment.preview import preview
    from ssdconv.train.loader import Mode, TrainingSet

    mode: Mode = "fast" if identity.augment == "fast" else "faithful"
    count = preview(TrainingSet(data, identity.config, identity.recipe, identity.seed, mode), args.preview)
    if args.json:
        print_json({"preview": str(Path(args.preview)), "samples": count, "recipe": identity.recipe.name})
    else:
        print(f"wrote {args.preview}: {count} samples as the recipe {identity.recipe.name} makes them")
    return EXIT_OK


def _print(outcome: Any, start: Any, skipped: Problems | None, as_json: bool) -> None:
    if as_json:
        left_out = {} if skipped is None else {"left_out": skipped.to_json()}
        print_json({**outcome.to_json(), "start": None if start is None else start.to_json(), **left_out})
        return
    if skipped is not None and len(skipped):
        print(f"left out: {', '.join(f'{n} x {code}' for code, n in skipped.counts.items())}")
    loss = "" if outcome.loss is None else f", mean loss {outcome.loss:.4f}"
    print(f"{outcome.steps} updates, {outcome.epochs} epochs{loss}")
    if outcome.images_per_s:
        print(f"{outcome.images_per_s:.1f} images/s, {outcome.waiting:.0%} of the time waiting for images")
    if outcome.best is not None:
        print(f"best {outcome.metric} {100 * outcome.best:.2f} after epoch {outcome.best_epoch}: {outcome.best_path}")
    print(f"last: {outcome.last}")


def _list_recipes(as_json: bool) -> int:
    import json

    from ssdconv.train.recipes import RECIPES

    if as_json:
        print_json([json.loads(recipe.to_json()) for recipe in RECIPES.values()])
        return EXIT_OK
    rows = []
    for r in RECIPES.values():
        s, o = r.schedule, r.optimizer
        drops = s.mode if s.mode == "cos" else "/".join(str(m) for m in s.milestones) or "–"
        warm = f"{s.warmup} {s.warmup_unit or s.unit}" if s.warmup else "–"
        rows.append(
            (
                r.name,
                r.batch_size,
                f"{o.kind} {o.lr:g}",
                f"{o.weight_decay:g}",
                f"{s.length} {s.unit}",
                drops,
                warm,
                r.title,
            )
        )
    print(table(rows, ("recipe", "batch", "rate", "decay", "length", "drops at", "warm-up", "what"), right=(1,)))
    return EXIT_OK
