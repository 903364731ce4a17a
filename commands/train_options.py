"""The options of ``ssdconv train``, and what a resumed run takes from its folder."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

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
