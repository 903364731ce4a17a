"""A network under diagnosis: a config with its tensors, and the roles that its tensors and layers play."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ssdconv.ssd_ref.checkpoint import Checkpoint, build
from ssdconv.ssd_ref.config import Pixels, SSDConfig, Staged
from ssdconv.ssd_ref.model import SSD

Array = npt.NDArray[Any]
Role = Literal[
    "input", "first", "conv", "bias", "pool", "norm", "l2norm", "act", "loc", "conf", "priors", "scores", "detections"
]


@dataclass(frozen=True)
class Net:
    """One state of a network; changes make new ones that share the arrays.

    Attributes:
        config: the network.
        tensors: reference name -> array, as stored.
    """

    config: SSDConfig
    tensors: Mapping[str, Array]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Net:
        """The network of a checkpoint; half precision becomes float32, which loses nothing."""
        held = {
            n: t.float() if t.is_floating_point() and t.element_size() < 4 else t
            for n, t in checkpoint.state_dict.items()
        }
        return cls(checkpoint.config, {n: writable(t.numpy()) for n, t in held.items()})

    def model(self) -> SSD:
        """The network in float32 and eval mode, on the CPU.

        Raises:
            FormatError: the tensors are not the ones that the config describes.
        """
        state = {n: torch.from_numpy(a) for n, a in self.tensors.items()}
        return build(Checkpoint(self.config, state), heads=False)

    def with_tensors(self, changed: Mapping[str, Array]) -> Net:
        """With some tensors replaced."""
        return replace(self, tensors={**self.tensors, **{n: writable(a) for n, a in changed.items()}})

    def with_pixels(self, pixels: Pixels) -> Net:
        """With other pixels."""
        return replace(self, config=replace(self.config, pixels=pixels))

    def with_staged(self, change: Callable[[Staged], Staged]) -> Net:
        """With other layers; a layer graph stays as it is."""
        if self.config.staged is None:
            return self
        return replace(self, config=replace(self.config, staged=change(self.config.staged)))


def writable(array: Array) -> Array:
    """The array in memory that torch accepts: C order, writable, native bytes."""
    if array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative:
        return array
    return np.array(array, array.dtype.newbyteorder("="), order="C")


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, from its name and shape.

    Attributes:
        name, shape: of the reference tensor.
        role: ``first`` for the kernel that reads the image, ``conv``, ``bias``, ``norm``, ``l2norm``, ``loc``, ``conf``.
        blob: last part of the name ("weight", "running_var").
        values: of a head: channels per anchor (4, or the class count), else 0.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    blob: str
    values: int = 0

    @property
    def layer(self) -> str:
        """Path of the module that holds the tensor."""
        return self.name.rpartition(".")[0]


def tensor_specs(net: Net) -> dict[str, TensorSpec]:
    """The spec of every tensor, in order of execution."""
    specs: dict[str, TensorSpec] = {}
    seen_first = False
    for name, array in net.tensors.items():
        role = _role(name, array.ndim)
        if role == "conv" and not seen_first and array.shape[1] == 3:
            role, seen_first = "first", True
        values = {"loc": 4, "conf": net.config.num_classes}.get(role, 0)
        if values and (array.shape[0] % values or not array.shape[0]):
            role, values = ("conv" if array.ndim == 4 else "bias"), 0
        specs[name] = TensorSpec(name, tuple(array.shape), role, name.rpartition(".")[2], values)
    return specs


def _role(name: str, axes: int) -> Role:
    blob = name.rpartition(".")[2]
    in_head = name.startswith("heads.")
    if name.startswith("heads.l2norm."):
        return "l2norm"
    if blob in ("running_mean", "running_var", "mean", "variance", "factor") or ".norm" in name or ".dw." in name:
        return "norm" if axes == 1 else "conv"
    if (in_head and ".loc." in name) or (not in_head and name.startswith("graph.") and "_loc" in name):
        return "loc"
    if (in_head and ".conf." in name) or (not in_head and name.startswith("graph.") and "_conf" in name):
        return "conf"
    if axes == 4:
        return "conv"
    if blob == "bias":
        return "bias"
    return "l2norm" if "norm" in name and name.startswith("graph.") else "norm"
