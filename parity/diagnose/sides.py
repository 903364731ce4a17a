"""The two sides of a diagnosis: weight files of any format as networks, and the side that is believed, with its answers to some images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssdconv.converters.convert import Opened, open_source, recalled, request_of
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import located
from ssdconv.errors import FormatError, MappingError, MissingError, SsdconvError, UsageError
from ssdconv.parity.diagnose.hypothesis import Net, writable
from ssdconv.parity.layers.activations import Probe, derived, outputs_of
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.inputs import Image, named_images
from ssdconv.parity.layers.tolerance import Array
from ssdconv.parity.oracles.base import OracleRun, Outputs, require
from ssdconv.parity.source_side import PIXELS_UNTOLD, column_of, told_warnings
from ssdconv.ssd_ref.checkpoint import Checkpoint, read
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.files import CHECKPOINTS
from ssdconv.ssd_ref.layers import ExtraStages, SamePad
from ssdconv.ssd_ref.model import SSD, reference_shapes
from ssdconv.ssd_ref.preprocess import prepare
from ssdconv.ssd_ref.priors import Priors

PREFIXES = ("module.", "model.", "ssd.", "state_dict.")
ONLY_TENSORS = "the file holds tensors alone: layers, pixels, priors and detection rule are taken from the other side"
FALLBACK = "ssd_pytorch_ssd300_voc"
PRIORS = "prior boxes"


@dataclass(frozen=True)
class WeightFile:
    """A network from a file.

    Attributes:
        path: the file.
        net: its config and tensors.
        pixels_told: the file tells, or its network's name, how pixels are prepared.
        notes: what a reader should know.
    """

    path: Path
    net: Net
    pixels_told: bool = True
    notes: tuple[str, ...] = ()


def load(
    path: Path, like: SSDConfig | None = None, prototxt: Path | None = None, asked: Request | None = None
) -> WeightFile:
    """Open a weight file of any format.

    Args:
        path: our checkpoint, a file of a source, or a .pth or .safetensors with tensors alone.
        like: the network that it should be, for files that do not tell.
        prototxt: network definition of a Caffe file.
        asked: how a source file is to be planned; wins over ``prototxt``.

    Raises:
        MissingError, FormatError, UnsafeFileError: the file is missing, damaged or refused.
        MappingError: its tensors are not those of ``like``, or of no known network.
    """
    path = located(Path(path))
    if not path.is_file():
        raise MissingError("no such file", where=str(path))
    if path.suffix in CHECKPOINTS:
        held = own(path)
        return _foreign(path, like) if held is None else WeightFile(path, Net.of(held))
    return _of_source(path, like, asked or Request(prototxt=prototxt))


def own(path: Path) -> Checkpoint | None:
    """The checkpoint of ssdconv in a file; None where it is something else, or damaged, which ``load`` reports.

    Raises:
        MissingError, UnsafeFileError: the file is missing or refused.
    """
    with suppress(FormatError):
        return read(path)
    return None


def pair(a: Path, b: Path, prototxt: Path | None = None) -> tuple[WeightFile, WeightFile]:
    """Two files under the same tensor names, as far as they are of one network: ``a`` as ``b``'s network, else the reverse.

    Raises:
        as ``load``.
    """
    held = next(
        (c for p in (b, a) if Path(p).suffix in CHECKPOINTS and Path(p).is_file() and (c := own(Path(p)))), None
    )
    memory = held.provenance if held is not None else {}
    with recalled(memory, prototxt, Path(a)) as (definition, _):
        asked = request_of(
            memory, definition, held.config if held else None
        )  # a source file beside a checkpoint is planned as the checkpoint was
        right = load(b, None, definition, asked)
        left = load(a, right.net.config, definition, asked)
        if not set(left.net.tensors) & set(
            right.net.tensors
        ):  # a layer graph and a named network: the name is the guide
            with suppress(SsdconvError):
                right = load(b, left.net.config, definition, asked)
        return left, right


def _of_source(path: Path, like: SSDConfig | None, request: Request) -> WeightFile:
    opened = open_source(path, None, request)
    with opened.table:
        config = opened.plan.config
        if like is not None and set(reference_shapes(like)) != {e.target for e in opened.plan.mapping}:
            with suppress(SsdconvError):
                opened, config = column_of(opened.source.name).adopt(opened, like), _staged_like(like, config)
        told = column_of(opened.source.name).tells_pixels(opened)
        return WeightFile(path, Net(config, tensors_of(opened)), pixels_told=told, notes=told_warnings(opened))


def _staged_like(like: SSDConfig, config: SSDConfig) -> SSDConfig:
    """``like``'s layers with what the file itself tells about pixels, priors and detections."""
    priors = config.priors if len(config.priors) == len(like.priors) else like.priors
    return replace(like, pixels=config.pixels, priors=priors, detect=config.detect)


def _foreign(path: Path, like: SSDConfig | None) -> WeightFile:
    """Tensors without our config: under the reference's own names, or under those of a known project."""
    arrays = _safetensors(path) if path.suffix == ".safetensors" else None
    if like is not None:
        held = arrays if arrays is not None else _state_dict(path)
        named = _under_own_names(held, like)
        if named is not None:
            return WeightFile(path, Net(like, named), notes=(f"{path.name}: {ONLY_TENSORS}",))
    if arrays is not None:
        raise MappingError(
            "these weights carry no ssdconv config, and their names are not the reference's",
            where=str(path),
            got=", ".join(list(arrays)[:3]) + ", …",
            hint="compare it with a checkpoint of ssdconv whose tensor names it has",
        )
    order = like.pixels.order if like is not None else "BGR"
    try:
        opened = open_source(path, "pytorch", Request(channel_order=order))
    except UsageError:
        opened = open_source(path, "pytorch", Request(FALLBACK, channel_order=order))
    with opened.table:
        config, tensors = opened.plan.config, tensors_of(opened)
    if like is None:
        return WeightFile(path, Net(config, tensors), notes=(f"{path.name}: its channel order is taken for {order}",))
    same = {n: tuple(a.shape) for n, a in tensors.items()} == reference_shapes(like)
    config = like if same else _staged_like(config, like)
    return WeightFile(path, Net(config, tensors), notes=(f"{path.name}: {ONLY_TENSORS}",))


def _under_own_names(held: Mapping[str, Array], like: SSDConfig) -> dict[str, Array] | None:
    wanted = reference_shapes(like)
    for prefix in ("", *PREFIXES):
        found = {n.removeprefix(prefix): a for n, a in held.items() if n.startswith(prefix)}
        if set(wanted) <= set(found):
            return {n: found[n] for n in wanted}
    return None


def _safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise FormatError(f"damaged safetensors file: {error}", where=str(path)) from None
    return {n: _single(a) for n, a in arrays.items()}


def _state_dict(path: Path) -> dict[str, Array]:
    from ssdconv.converters.pytorch.reader import read_pth

    with read_pth(path) as table:
        small = {n: t for n, t in table.items() if t.dtype.kind == "f" and t.nbytes < 1 << 31}
        return {n: _single(np.asarray(t.load(), order="C")) for n, t in small.items()}


def tensors_of(opened: Opened) -> dict[str, Array]:
    """All tensors of an opened file through its mapping; half precision becomes float32."""
    return {e.target: _single(np.asarray(a, order="C")) for e, a in opened.plan.mapping.forward(opened.table)}


def _single(array: Array) -> Array:
    return writable(array.astype(np.float32) if array.dtype == np.float16 else array)


@dataclass(frozen=True)
class ExpectedRun:
    """The truth's answer to one input.

    Attributes:
        name: what was fed.
        image: (H, W, 3) uint8, BGR.
        pixels: (1, 3, H, W) float32, as the truth prepares it.
        outputs: probe name -> array.
        detections: final detections per image, None where the truth gives none.
    """

    name: str
    image: Image
    pixels: Array
    outputs: Mapping[str, Array]
    detections: tuple[Rows, ...] | None


@dataclass(frozen=True)
class BelievedSide:
    """One side of a diagnosis, believed.

    Attributes:
        name: for reports.
        config: the network as the truth tells it: a guide for what to try first.
        tensors: reference name -> array.
        probes: what can be compared.
        images: (name, image) of every input.
        run: the network on prepared pixels.
        notes: for reports.
    """

    name: str
    config: SSDConfig
    tensors: Mapping[str, Array]
    probes: tuple[Probe, ...]
    images: tuple[tuple[str, Image], ...]
    run: Callable[[Array], OracleRun]
    notes: tuple[str, ...] = ()

    def view(self, index: int) -> ExpectedRun:
        """Run the truth on an input.

        Raises:
            MissingError: an oracle cannot run.
        """
        name, image = self.images[index]
        pixels = prepare([image], self.config.pixels).numpy()
        answer = self.run(pixels)
        wanted = {p.source for p in self.probes}
        outputs = {n: np.asarray(answer.outputs.take(n)) for n in answer.outputs.left if n in wanted}
        for probe in self.probes:
            if probe.reference == "@input":
                outputs.setdefault(probe.source, pixels)
            elif probe.source == PRIORS:
                outputs[PRIORS] = Priors.of(self.config.priors, self.config.pixels.size).rows().numpy()
        return ExpectedRun(name, image, pixels, outputs, answer.detections)


def of_source(
    opened: Opened, suspect: Net, prototxt: Path | None, photos: Sequence[Path], seed: int, oracle: str = "opencv"
) -> BelievedSide:
    """The source framework on an opened source file (whose mapping is paired to the suspect's tensors).

    Raises:
        MissingError: the oracle cannot run here.
    """
    column = column_of(opened.source.name)
    prepared = column.prepare(opened, prototxt, oracle)
    require(prepared.oracle)
    config, notes = opened.plan.config, told_warnings(opened)
    if not column.tells_pixels(opened):
        config, notes = replace(config, pixels=suspect.config.pixels), (*notes, PIXELS_UNTOLD)
    tensors = {e.target: writable(np.asarray(a, order="C")) for e, a in opened.plan.mapping.forward(opened.table)}
    probes = prepared.probes
    if config.priors and suspect.config.priors and all(p.reference != "@priors" for p in probes):
        probes = (*probes, Probe(PRIORS, "@priors"))
    images = named_images(config.pixels.size, photos, seed)
    return BelievedSide(prepared.oracle.name, config, tensors, probes, images, prepared.oracle.run, notes)


def of_network(net: Net, suspect: Net, name: str, photos: Sequence[Path] = (), seed: int = 0) -> BelievedSide:
    """Another network in the reference, which is believed; layers that both have are compared.

    Raises:
        MappingError: the two do not have the same tensors.
        FormatError: the tensors are not what the config describes.
    """
    same_tensors(net, suspect, name)
    model = net.model()
    with torch.device("meta"):
        mine = SSD(suspect.config)
    paths = compared_layers(model, mine)
    values = ["@loc", "@conf", "@scores", *(["@priors"] if net.config.priors and suspect.config.priors else [])]
    probes = tuple(Probe(p, p) for p in ("@input", *paths, *values))
    return BelievedSide(
        name,
        net.config,
        net.tensors,
        probes,
        named_images(net.config.pixels.size, photos, seed),
        partial(_run, model, paths),
    )


def same_tensors(truth: Net, suspect: Net, name: str) -> None:
    """Raise unless both networks have tensors of the same names and shapes."""
    wanted = {n: tuple(a.shape) for n, a in truth.tensors.items()}
    held = {n: tuple(a.shape) for n, a in suspect.tensors.items()}
    different = [n for n in (*wanted, *held) if wanted.get(n) != held.get(n)]
    if different:
        first = different[0]
        raise MappingError(
            "these are different networks: their tensors do not pair",
            where=first,
            expected=f"{wanted.get(first, 'no such tensor')} in {name}",
            got=held.get(first, "no such tensor"),
            hint="`ssdconv inspect FILE` shows which network a file holds",
        )


def compared_layers(model: nn.Module, other: nn.Module) -> list[str]:
    """Paths of the layers that two models share: what has no children in one of them, but for mere padding."""
    theirs = dict(other.named_modules())
    found: list[str] = []
    for path, module in model.named_modules():
        twin = theirs.get(path)
        if path and twin is not None and not isinstance(module, SamePad | nn.Dropout | nn.Identity | ExtraStages):
            leaf = not any(True for _ in module.children()) or not any(True for _ in twin.children())
            if leaf and not isinstance(module, nn.ModuleDict | nn.ModuleList):
                found.append(path)
    return found


def _run(model: SSD, paths: Sequence[str], pixels: Array) -> OracleRun:
    held = outputs_of(model, pixels, ["", *paths])
    config = model.config
    loc, conf = map(torch.from_numpy, held.pop(""))
    seen = {path: values[0] for path, values in held.items()}
    seen |= {name: value.numpy() for name, value in derived(config, (loc, conf)).items()}
    rows = None
    if config.priors:
        found = model.postprocess(loc, conf)[0].numpy()
        rows = (Rows(found["labels"], found["scores"], found["boxes"]),)
    return OracleRun(Outputs(seen), rows)
