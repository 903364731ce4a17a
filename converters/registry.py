"""The sources that weights come from. Adding a source adds one row here; the rest follows (verbs, recognition, help)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.gate import open_input

if TYPE_CHECKING:  # numpy comes with it, and `ssdconv --help` reads this table
    from ssdconv.converters.plan import SourceModule


@dataclass(frozen=True)
class Source:
    """One system that weights come from.

    Attributes:
        name: its word in this project; ``converters/<name>/source.py`` holds its reader, mapping and writer.
        title: what people call it.
        verb, reverse: command-line verbs to and from the reference.
        suffixes: usual file endings, the one to write first.
        sniff: whether the first 512 bytes and the path look like a file of this source.
        example: an example command for ``--help``.
        options: further options (``plan.Request``) that this source understands, offered as ``--options`` of its verb.
        reverse_options: the same for its reverse verb.
        by_name: its verb also takes a network's name alone and looks the file up.
    """

    name: str
    title: str
    verb: str
    reverse: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes, Path], bool]
    example: str
    options: tuple[str, ...] = ()
    reverse_options: tuple[str, ...] = ()
    by_name: bool = False

    @property
    def module(self) -> SourceModule:
        """The source's reader, mapping and writer."""
        return cast("SourceModule", import_module(f"ssdconv.converters.{self.name}.source"))


def _caffe(head: bytes, path: Path) -> bool:
    from ssdconv.converters.caffe.sniff import HDF5_MAGIC, is_state

    if path.suffix in (".caffemodel", ".solverstate") or path.name.endswith((".caffemodel.h5", ".solverstate.h5")):
        return True
    if head[:8] == HDF5_MAGIC:
        from ssdconv.converters.caffe.hdf5 import kind_of

        return kind_of(path) != ""
    message = head[:1] in (b"\x0a", b"\x12", b"\xa2") and not _gluon(head, path) and not _graphdef(head, path)
    return message or is_state(head)


def _gluon(head: bytes, path: Path) -> bool:
    return head[:8] == b"\x12\x01\0\0\0\0\0\0"


def _chainer(head: bytes, path: Path) -> bool:
    return head[:4] == b"PK\x03\x04" and (path.suffix == ".npz" or b".npy" in head[30:256])


def _pytorch(head: bytes, path: Path) -> bool:
    if head[:4] == b"PK\x03\x04":
        return b"data.pkl" in head[30:256] or path.suffix in (".pth", ".pt")
    return head[:1] == b"\x80" or (head[257:262] == b"ustar" and path.suffix in (".pth", ".pt", ".tar"))


def _keras(head: bytes, path: Path) -> bool:
    return head[:8] == b"\x89HDF\r\n\x1a\n" or (head[:4] == b"PK\x03\x04" and path.suffix == ".keras")


def _graphdef(head: bytes, path: Path) -> bool:
    saved = head[:2] == b"\x08\x01" and path.name == "saved_model.pb"
    return saved or (head[:1] == b"\x0a" and (path.suffix == ".pb" or b"\x12\x0bPlaceholder" in head))


def _tensorflow(head: bytes, path: Path) -> bool:
    if _graphdef(head, path):
        return True
    try:
        with path.open("rb") as stream:
            stream.seek(-8, 2)
            return stream.read() == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
    except OSError:
        return False


SOURCES: dict[str, Source] = {
    s.name: s
    for s in (
        Source(
            "caffe",
            "Caffe SSD (.caffemodel, .caffemodel.h5)",
            "caffe2pt",
            "pt2caffe",
            (".caffemodel",),
            _caffe,
            "ssdconv caffe2pt VGG_VOC0712_SSD_300x300_iter_120000.caffemodel ssd300.pth",
            ("prototxt",),
        ),
        Source(
            "chainer",
            "ChainerCV SSD (.npz)",
            "chainer2pt",
            "pt2chainer",
            (".npz",),
            _chainer,
            "ssdconv chainer2pt ssd300_voc0712_converted_2017_06_06.npz ssd300.pth",
            ("preset",),
        ),
        Source(
            "pytorch",
            "PyTorch SSD of other projects (.pth)",
            "torch2pt",
            "pt2torch",
            (".pth",),
            _pytorch,
            "ssdconv torch2pt ssd300_mAP_77.43_v2.pth ssd300.pth --channel-order RGB",
            ("channel_order", "like"),
            ("style", "channel_order"),
        ),
        Source(
            "gluon",
            "GluonCV SSD (.params of MXNet)",
            "gluon2pt",
            "pt2gluon",
            (".params",),
            _gluon,
            "ssdconv gluon2pt --network ssd_512_resnet50_v1_voc ssd512.pth",
            ("backbone", "symbol"),
            by_name=True,
        ),
        Source(
            "keras",
            "Keras SSDs (.h5, .weights.h5, .keras)",
            "keras2pt",
            "pt2keras",
            (".h5", ".hdf5", ".keras"),
            _keras,
            "ssdconv keras2pt VGG_VOC0712_SSD_300x300_iter_120000.h5 ssd300.pth",
        ),
        Source(
            "tensorflow",
            "SSD.TensorFlow (checkpoint or frozen graph of TensorFlow)",
            "tf2pt",
            "pt2tf",
            (".ckpt", ".index", ".pb"),
            _tensorflow,
            "ssdconv tf2pt model.ckpt-120000.index ssd300.pth",
        ),
    )
}


def source(name: str) -> Source:
    """The source of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in SOURCES:
        raise UsageError(f"no source {name!r}", expected=f"one of {', '.join(SOURCES)}")
    return SOURCES[name]


def located(path: Path) -> Path:
    """The file that stands for a path: a checkpoint's index for its prefix, ``.meta`` or ``.data`` file, else the path."""
    from ssdconv.converters.tensorflow.reader import index_of

    return index_of(path)


def head_of(path: Path) -> bytes:
    """First 512 bytes of a file.

    Raises:
        MissingError: no such file.
        FormatError: a folder, an empty file, or unreadable.
    """
    try:
        with open_input(path, "weights") as stream:
            head = stream.read(512)
    except OSError as error:
        raise FormatError(f"cannot read: {error.strerror}", where=str(path)) from None
    if not head:
        raise FormatError("the file is empty", where=str(path))
    if head.lstrip()[:1] == b"<" and b"html" in head.lower():
        raise FormatError(
            "this is a web page, not a weight file",
            where=str(path),
            hint="the download link answered with a page (quota, log-in or error); fetch the file again",
        )
    return head


def recognise(path: Path) -> Source:
    """The source that a weight file comes from, by its content and ending.

    Raises:
        FormatError: no source knows it.
    """
    head = head_of(path)
    for candidate in SOURCES.values():
        if candidate.sniff(head, path):
            return candidate
    raise FormatError(
        "not a weight file of any known source",
        where=str(path),
        got=f"first bytes {head[:8].hex(' ')}",
        hint="name the source with the verb itself, e.g. `ssdconv caffe2pt`",
    )
