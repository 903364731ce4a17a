"""``ssdconv data check``: a data set looked at as a whole before hours of training."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ssdconv.commands.output import following, print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_INPUT, EXIT_OK, UsageError

if TYPE_CHECKING:
    from ssdconv.data.records import Dataset, Problems
    from ssdconv.data.survey import Survey

NAME = "data"
GROUP: Group = "train"
HELP = "check a data set: every annotation read, every image decoded, and how to mend what is found"
EXAMPLES: tuple[str, ...] = (
    "ssdconv data check path/to/folder",
    "ssdconv data check my.yaml --split train --json",
    "ssdconv data check voc0712 --data-root VOCdevkit --workers 8",
    "ssdconv data check --annotations mine.json --images photos",
)
_SHOWN = 10


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=("check",), metavar="check", help="look at everything; changes nothing")
    parser.add_argument("dataset", nargs="?", metavar="NAME", help="voc0712, …, a .yaml, or a VOC or COCO folder")
    parser.add_argument(
        "--data-root", metavar="DIR", help="VOCdevkit, or the folder with COCO's annotations/ and images"
    )
    parser.add_argument("--annotations", metavar="FILE", help="a COCO-form annotation file instead")
    parser.add_argument("--images", metavar="DIR", help="the images of --annotations")
    parser.add_argument("--split", metavar="NAME", help="only this part of a set of your own (default: all parts)")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="threads that decode (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help=f"print every finding, not {_SHOWN} of each kind")


def run(args: Namespace) -> int:
    if not args.dataset and not args.annotations:
        raise UsageError("check which data set?", hint="ssdconv data check FOLDER, or a name with --data-root")
    from ssdconv.data.records import Problems
    from ssdconv.data.survey import survey

    problems = Problems()
    parts = _parts(args, problems)
    with following() as progress:
        found = survey(parts, problems, args.workers, progress)
    if args.json:
        print_json({"dataset": args.dataset or args.annotations, **found.to_json()})
    else:
        _print(found, args.all)
    return EXIT_OK if found.sound else EXIT_INPUT


def _parts(args: Namespace, problems: Problems) -> dict[str, Dataset]:
    from ssdconv.data.catalog import DATASETS, open_dataset
    from ssdconv.data.custom import split_names

    own = args.dataset and args.dataset not in DATASETS and not args.annotations
    names: tuple[str | None, ...] = (args.split,)
    if own and args.split is None:
        from ssdconv.data.custom import is_path

        names = split_names(args.dataset) if is_path(args.dataset) else (None,)
    opened: dict[str, Dataset] = {}
    for name in names:
        dataset = open_dataset(
            args.dataset,
            args.data_root,
            annotations=args.annotations,
            images=args.images,
            split=name or None,
            keep_going=problems,
        )
        opened[name or dataset.name] = dataset
    return opened


def _print(found: Survey, everything: bool) -> None:
    for name, part in found.parts.items():
        print(f"{name}: {part.text}")
    kinds: dict[str, int] = {}
    for finding in found.findings:
        kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
        if kinds[finding.kind] <= _SHOWN or everything:
            print(f"{'fault' if finding.grave else 'note'}: {finding.where}: {finding.text} [{finding.kind}]")
            if finding.repair and kinds[finding.kind] == 1:
                print(f"  repair: {finding.repair}")
    for kind, number in kinds.items():
        if number > _SHOWN and not everything:
            print(f"… and {number - _SHOWN} more of {kind} (--all shows them)")
    grave = sum(f.grave for f in found.findings)
    notes = len(found.findings) - grave
    print(
        f"{found.decoded:,} images decoded: "
        + (f"{grave} faults" if grave else "no fault")
        + (f", {notes} notes" if notes else "")
    )
