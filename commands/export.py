"""``ssdconv export``: converted weights as an ONNX model, or as a folder for a model hub."""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import print_json, working
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, ParityError, UsageError

if TYPE_CHECKING:
    from ssdconv.ssd_ref.checkpoint import Checkpoint

NAME = "export"
GROUP: Group = "use"
HELP = "write converted weights as an ONNX model, checked by ONNX Runtime, or as a folder for a model hub"
EXAMPLES: tuple[str, ...] = (
    "ssdconv export out.pth --onnx ssd300.onnx",
    "ssdconv export out.pth --onnx ssd300.onnx --with-nms --batch 1 --image a.jpg b.jpg",
    "ssdconv export out.pth --hub ssd300 --parity parity.json --license mit --dataset pascal-voc",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", help="a checkpoint that ssdconv wrote")
    onnx = parser.add_argument_group("ONNX")
    onnx.add_argument("--onnx", metavar="FILE", help="write an ONNX model: pixels in, raw loc and conf out")
    onnx.add_argument(
        "--with-nms", action="store_true", help="detections out: decoding and the network's own rule inside the model"
    )
    onnx.add_argument("--opset", type=int, metavar="N", help="version of ONNX' operator set, 18 to 23 (default: 18)")
    onnx.add_argument(
        "--batch", type=_batch, default="dynamic", metavar="N", help="images per run, or dynamic (default: dynamic)"
    )
    onnx.add_argument("--no-check", action="store_true", help="do not run the model in ONNX Runtime beside the network")
    onnx.add_argument(
        "--image", nargs="+", default=[], metavar="IMG", help="check on these images besides seeded noise"
    )
    hub = parser.add_argument_group("model hub")
    hub.add_argument("--hub", metavar="DIR", help="write config.json, model.safetensors and a model card")
    hub.add_argument("--parity", metavar="FILE", help="figures for the card: what `ssdconv verify --json` printed")
    hub.add_argument("--license", default="unknown", metavar="ID", help="license of the weights (default: unknown)")
    hub.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="ID",
        help="data set of the training, for the card; repeatable",
    )
    hub.add_argument("--overwrite", action="store_true", help="replace a model in DIR")


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdigit() or not 0 < int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is neither `dynamic` nor a number of images")
    return int(text)


def run(args: Namespace) -> int:
    if not args.onnx and not args.hub:
        raise UsageError("export needs something to write", hint="--onnx FILE, --hub DIR, or both")
    for option, needs in (("with_nms", "onnx"), ("opset", "onnx"), ("image", "onnx"), ("parity", "hub")):
        if getattr(args, option) and not getattr(args, needs):
            raise UsageError(f"--{option.replace('_', '-')} is for --{needs}")
    weights = existing(args.weights)
    parity = existing(args.parity) if args.parity else None
    images = [existing(image) for image in args.image]
    from ssdconv.ssd_ref.checkpoint import read

    checkpoint = read(weights)
    told: dict[str, Any] = {"weights": str(weights), "network": checkpoint.config.name}
    if args.onnx:
        told["onnx"] = _onnx(args, checkpoint, images)
    if args.hub:
        told["hub"] = _hub(args, checkpoint, weights, parity)
    if args.json:
        print_json(told)
    return EXIT_OK


def _onnx(args: Namespace, checkpoint: Checkpoint, images: list[Path]) -> dict[str, Any]:
    from ssdconv.export.onnx_detect import differences
    from ssdconv.export.onnx_file import DEFAULT_OPSET, checked_path, need_onnx, onnx_model, write_onnx
    from ssdconv.ssd_ref.checkpoint import build

    need_onnx()
    target = checked_path(args.onnx)
    model = build(checkpoint, where=args.weights)
    opset = DEFAULT_OPSET if args.opset is None else args.opset
    with working(f"exporting {checkpoint.config.name}"):
        proto = onnx_model(model, nms=args.with_nms, opset=opset, batch=args.batch, provenance=checkpoint.provenance)
    check, unchecked = None, "--no-check was given"
    if not args.no_check:
        from ssdconv.parity.onnx_check import check_onnx, runtime_missing

        unchecked = runtime_missing()
        if not unchecked:
            with working("checking it in ONNX Runtime"):
                check = check_onnx(proto, model, images)
            if not check:
                raise ParityError(
                    f"the exported model does not compute what the network computes: {check.reason}",
                    where=str(target),
                    hint="nothing was written; --no-check writes it nevertheless",
                )
    write_onnx(proto, target)
    gaps = differences(checkpoint.config) if args.with_nms else ()
    for gap in gaps:
        print(f"warning: {gap}", file=sys.stderr)
    if not args.json:
        _print_check(check, unchecked)
        print(f"wrote {target}")
    return {
        "file": str(target),
        "outputs": [output.name for output in proto.graph.output],
        "opset": proto.opset_import[0].version,
        "check": None if check is None else check.to_json(),
        "not_checked": unchecked if check is None else None,
        "differences": list(gaps),
    }


def _print_check(check: Any, unchecked: str) -> None:
    if check is None:
        print(f"warning: the ONNX model was not checked: {unchecked}", file=sys.stderr)
        return
    worst, counts = check.worst, check.counts()
    print(f"{check.runtime}, {len(check.inputs)} inputs: worst {worst.ratio:.3g} x the rounding floor ({worst.source})")
    if any(i.detections is not None for i in check.inputs):
        print(
            f"detections: {counts['runtime']} in the model, {counts['reference']} in the network, "
            f"{counts['matched']} the same, {counts['boundary']} at a threshold within rounding"
        )
    for note in check.notes:
        print(f"note: {note}", file=sys.stderr)


def _hub(args: Namespace, checkpoint: Checkpoint, weights: Path, report: Path | None) -> dict[str, Any]:
    from ssdconv.export.hub import CardFacts, write_hub

    parity = None if report is None else _figures(report, weights)
    facts = CardFacts(args.license, tuple(args.dataset))
    written = write_hub(checkpoint, args.hub, facts=facts, parity=parity, overwrite=args.overwrite)
    if not args.json:
        print("\n".join(f"wrote {path}" for path in written.files))
    return {"files": [str(path) for path in written.files], "sha256": written.sha256}


def _figures(path: Path, weights: Path) -> dict[str, Any]:
    """The figures of a parity report that belongs to these weights.

    Raises:
        FormatError: no parity report.
        UsageError: of other weights.
    """
    from ssdconv.converters.tensors import sha256_file
    from ssdconv.parity.report.layers import load

    report = load(path)
    digest = sha256_file(weights)
    if report.weights_sha256 != digest:
        raise UsageError(
            "the parity report is about other weights",
            where=str(path),
            expected=digest,
            got=report.weights_sha256,
            hint=f"ssdconv verify {weights} --source ORIGINAL --json > {path}",
        )
    found = [i.detections for i in report.inputs if i.detections is not None]
    return {
        "passed": report.passed,
        "headline": report.headline,
        **{f"{row.link}, who says so": row.says for row in report.links},
        "oracle": report.oracle,
        "inputs": len(report.inputs),
        "probes": report.probes,
        "worst_ratio": None if report.worst is None else report.worst.ratio,
        "worst_probe": None if report.worst is None else report.worst.source,
        "tensors_compared": None if report.tensors is None else report.tensors.compared,
        "tensors_different": None if report.tensors is None else len(report.tensors.different),
        "detections_matched": sum(d.matched for d in found),
        "detections_at_a_threshold": sum(d.boundary for d in found),
        "detections_unexplained": sum(d.unexplained for d in found),
    }
