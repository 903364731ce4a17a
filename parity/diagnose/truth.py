"""The side that is right: the source framework running the original file, or another converted network.

It is asked once per input; what it answers is kept, so that every trial is held against the same recording.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssdconv.converters.convert import Opened
from ssdconv.errors import MappingError
from ssdconv.parity.diagnose.net import Array, Net, writable
from ssdconv.parity.layers.activations import Probe
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.inputs import Image, noise_image, synthetic_picture
from ssdconv.parity.oracles.base import OracleRun, Outputs, require
from ssdconv.parity.verify import PIXELS_UNTOLD, column_of, derived
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import PIXELS_ASSUMED, code_of
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.layers import ExtraStages, SamePad
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.preprocess import prepare
from ssdconv.ssd_ref.priors import Priors

PRIORS = "prior boxes"


@dataclass(frozen=True)
class View:
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
class Truth:
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

    def view(self, index: int) -> View:
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
        return View(name, image, pixels, outputs, answer.detections)


def inputs(config: SSDConfig, photos: Sequence[Path], seed: int) -> tuple[tuple[str, Image], ...]:
    """Photos, or a generated picture, then noise of the network's size."""
    named = [(Path(p).name, read_image(p)) for p in photos]
    named = named or [(f"synthetic picture, seed {seed}", synthetic_picture(seed))]
    return (*named, (f"noise, seed {seed}", noise_image(config.pixels.size, seed)))


def of_source(
    opened: Opened, suspect: Net, prototxt: Path | None, photos: Sequence[Path], seed: int, oracle: str = "opencv"
) -> Truth:
    """The source framework on an opened source file (whose mapping is paired to the suspect's tensors).

    Raises:
        MissingError: the oracle cannot run here.
    """
    column = column_of(opened.source.name)
    prepared = column.prepare(opened, prototxt, oracle)
    require(prepared.oracle)
    config, notes = opened.plan.config, tuple(opened.plan.warnings)
    if not column.tells_pixels(opened):
        config = replace(config, pixels=suspect.config.pixels)
        notes = (*(w for w in notes if code_of(w) != PIXELS_ASSUMED), PIXELS_UNTOLD)
    tensors = {e.target: writable(np.asarray(a, order="C")) for e, a in opened.plan.mapping.forward(opened.table)}
    probes = prepared.probes
    if config.priors and suspect.config.priors and all(p.reference != "@priors" for p in probes):
        probes = (*probes, Probe(PRIORS, "@priors"))
    images = inputs(config, photos, seed)
    return Truth(prepared.oracle.name, config, tensors, probes, images, prepared.oracle.run, notes)


def of_network(net: Net, suspect: Net, name: str, photos: Sequence[Path] = (), seed: int = 0) -> Truth:
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
    return Truth(name, net.config, net.tensors, probes, inputs(net.config, photos, seed), partial(_run, model, paths))


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
    seen: dict[str, Array] = {}
    modules = dict(model.named_modules())

    def hook(path: str, _: nn.Module, __: Any, output: Any) -> None:
        seen[path] = (output[0] if isinstance(output, tuple | list) else output).detach().numpy()

    handles = [modules[path].register_forward_hook(partial(hook, path)) for path in paths]
    try:
        with torch.inference_mode():
            loc, conf = model(torch.as_tensor(pixels))
            seen |= {name: value.numpy() for name, value in derived(model, loc, conf).items()}
            rows = None
            if model.config.priors:
                found = model.postprocess(loc, conf)[0].numpy()
                rows = (Rows(found["labels"], found["scores"], found["boxes"]),)
    finally:
        for handle in handles:
            handle.remove()
    return OracleRun(Outputs(seen), rows)
