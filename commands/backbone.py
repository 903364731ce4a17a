"""``ssdconv gluon2pt --backbone NAME``: a classification network's weights as a backbone file for training."""

from __future__ import annotations

from argparse import Namespace

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import print_json, print_tail, working
from ssdconv.errors import EXIT_OK, UsageError


def run_backbone(args: Namespace) -> int:
    """Convert ``args.src``, the .params file of backbone ``args.backbone``, and print the report.

    Raises:
        UsageError: options of detectors were given, too.
    """
    if args.network or args.num_classes:
        raise UsageError("--backbone is for classification networks, --network and --num-classes are for detectors")
    from ssdconv.ssd_ref.networks.gluon import backbone

    backbone(args.backbone)
    src = existing(args.src)
    from ssdconv.converters.gluon.backbone import convert_backbone

    with working(f"converting {src.name}"):
        report = convert_backbone(src, args.backbone, args.dst, format=args.format)
    if args.json:
        print_json(report.to_json())
        return EXIT_OK
    print(f"{report.source}: backbone {report.name} of gluon, {len(report.rows)} tensors")
    print_tail(report)
    return EXIT_OK
