"""``ssdconv detect``: boxes, labels and scores of images, and pictures with the boxes drawn."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.arguments import add_device, add_network_options, check_device, existing, fraction, zoo_weights
from ssdconv.commands.output import counting, print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, OutputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssdconv.ssd_ref.model import SSD
    from ssdconv.ssd_ref.postprocess import Detections

NAME = "detect"

GROUP: Group = "use"

HELP = "detect objects in images with converted weights"

EXAMPLES: tuple[str, ...] = (
    "ssdconv detect photo.jpg --weights out.pth",
    "ssdconv detect *.jpg --weights out.pth --threshold 0.3 --out drawn --device cuda",
    "ssdconv detect photo.jpg --weights out.pth --json",
    "ssdconv detect photo.jpg --network res10_300x300_ssd",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMG", help="image files that OpenCV reads (JPEG, PNG, …)")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--weights", metavar="FILE", help="a checkpoint that ssdconv wrote")
    which.add_argument("--network", metavar="NAME", help="weights of the zoo, downloaded and converted at first use")
    parser.add_argument("--zoo", metavar="FILE", help="a zoo file of your own, beside the built-in one")
    add_network_options(parser)
    parser.add_argument("--out", metavar="DIR", help="write every image with its boxes drawn to DIR, as PNG")
    parser.add_argument(
        "--threshold", type=fraction, default=0.5, metavar="SCORE", help="report scores above this (default: 0.5)"
    )
    add_device(parser)


def run(args: Namespace) -> int:
    images = [existing(image) for image in args.images]
    targets = _targets(images, args.out)
    weights = existing(args.weights) if args.weights else zoo_weights(args)
    device = check_device(args.device)
    from ssdconv.ssd_ref.checkpoint import build, read

    checkpoint = read(weights)
    model = build(checkpoint, where=str(weights)).to(device)
    _say_assumed(checkpoint.provenance)
    results = []
    with counting("detecting", len(images)) as step:
        for image, target in zip(images, targets, strict=True):
            results.append(_detect_one(model, image, target, args.threshold))
            step()
            if not args.json:
                _print_one(results[-1])
    if args.json:
        print_json({"weights": str(weights), "network": model.config.name, "images": results})
    return EXIT_OK


def _say_assumed(provenance: Mapping[str, Any]) -> None:
    """What boxes rest on that nobody stated, to stderr."""
    from ssdconv.ssd_ref.evidence import from_plain

    claims = from_plain(provenance.get("evidence") or ())
    links = dict.fromkeys(
        c.link for c in claims if c.basis == "assumed" and c.link in ("pixels", "priors", "detection rule")
    )
    if links:
        print(
            f"note: assumed, since the source file does not say: {', '.join(links)} (`ssdconv inspect` says what was taken; "
            "convert with --spec FILE to state them)",
            file=sys.stderr,
        )


def _targets(images: Sequence[Path], out: str | None) -> list[Path | None]:
    """Where each drawn picture goes; images of equal name get the name of their folder in front."""
    if out is None:
        return [None] * len(images)
    stems = [image.stem for image in images]
    names = [i.stem if stems.count(i.stem) == 1 else f"{i.resolve().parent.name}_{i.name}" for i in images]
    if len(set(names)) < len(names):
        raise UsageError("two images would be drawn to the same file", hint="draw them into different folders")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder: {error.strerror}", where=out) from error
    return [folder / f"{name}.png" for name in names]


def _detect_one(model: SSD, image: Path, target: Path | None, threshold: float) -> dict[str, Any]:
    from ssdconv.ssd_ref.image_file import read_image

    pixels = read_image(image)
    found = model.detect([pixels], threshold=threshold)[0]
    names = model.config.class_names
    if target is not None:
        write_drawn(target, pixels, found, names)
    return {
        "image": str(image),
        "width": int(pixels.shape[1]),
        "height": int(pixels.shape[0]),
        "detections": found.to_json(names),
        "drawn": None if target is None else str(target),
    }


def _print_one(result: dict[str, Any]) -> None:
    rows = result["detections"]
    drawn = f", drawn to {result['drawn']}" if result["drawn"] else ""
    print(f"{result['image']}: {len(rows)} detection{'' if len(rows) == 1 else 's'}{drawn}")
    for row in rows:
        x1, y1, x2, y2 = row["box"]
        print(f"  {row.get('name', row['label'])!s:<14} {row['score']:.4f}  ({x1:.1f}, {y1:.1f})–({x2:.1f}, {y2:.1f})")


def write_drawn(path: Path, image: npt.NDArray[np.uint8], found: Detections, class_names: Sequence[str]) -> Path:
    """Write ``image`` with its detections drawn as a PNG.

    Args:
        path: file to make or replace.
        image: (H, W, 3) uint8, BGR.
        found: boxes in pixels of this image.
        class_names: names by label; may be empty.

    Raises:
        OutputError: the file cannot be written.
    """
    import cv2

    from ssdconv.ssd_ref.draw import draw
    from ssdconv.ssd_ref.files import atomic_path

    # The temporary name has no .png ending for OpenCV to go by, so the picture is encoded in memory.
    encoded: Any = cv2.imencode(".png", draw(image, found, class_names))[1]
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
    return path
