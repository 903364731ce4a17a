"""Numbered layers without names: told where order and shapes leave no doubt, refused with the reason elsewhere."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.keras.files import KerasFile
from ssdconv.converters.keras.rows import in_model_order, layers_in_order, rows_of
from ssdconv.converters.plan import Request
from ssdconv.converters.tensors import LazyTensor, TensorTable
from ssdconv.errors import FormatError, MappingError
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.keras import NETWORKS

NARROW = {
    "jedol_ssd300_vgg16_voc": (2, 21, "normalize2d"),
    "ssd_keras_ssd300_voc": (2, 21, "l2_normalization"),
    "ssd_keras_ssd300_coco": (2, 81, "l2_normalization"),
    "ssd_keras_ssd512_voc": (2, 7, "l2_normalization"),
    "ssd7": (8, 6, ""),
}
Change = Callable[[h5py.File], None]


def config_of(name: str) -> SSDConfig:
    width, classes, _ = NARROW[name]
    return NETWORKS[name](name, classes, width=width)


def write(packing: SimpleNamespace, config: SSDConfig, path: Path, scale: str = "", *, loc_first: bool = False) -> Any:
    """A file without names, chain first, then heads; returns the reference's tensors."""
    layers, tensors = packing.layers(config)
    words = ("_loc", "boxes"), ("_conf", "_logit", "classes")
    box, score = ([n for n in layers if any(word in n for word in words[k])] for k in (0, 1))
    chain = [n for n in layers if n not in (*box, *score)]
    order = [*chain, *(box + score if loc_first else score + box)]
    with h5py.File(path, "w") as file:
        packing.save_v3(file, {name: layers[name] for name in order}, names=False)
        if scale and scale != "normalize2d":
            file.move("layers/normalize2d", f"layers/{scale}")
    return tensors


def check(path: Path, tensors: Any, config: SSDConfig, tmp_path: Path, **wishes: Any) -> None:
    report = convert(path, tmp_path / "out.pth", **wishes)
    assert replace(report.config, class_names=config.class_names) == config and any(
        "no layer names" in w for w in report.warnings
    )
    state = read(tmp_path / "out.pth").state_dict
    assert all(np.array_equal(state[name].numpy(), array) for name, array in tensors.items())


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("loc_first", [False, True])
def test_layers_are_told_by_order(name: str, loc_first: bool, packing: SimpleNamespace, tmp_path: Path) -> None:
    config = config_of(name)
    tensors = write(packing, config, tmp_path / "x.weights.h5", NARROW[name][2], loc_first=loc_first)
    check(tmp_path / "x.weights.h5", tensors, config, tmp_path)


def test_projects_of_one_shape_need_a_name(packing: SimpleNamespace, tmp_path: Path) -> None:
    path, config = tmp_path / "x.weights.h5", config_of("ssd_keras_ssd300_voc")
    tensors = write(packing, config, path, "my_norm")
    with pytest.raises(MappingError, match=r"jedol_ssd300_vgg16_voc, ssd_keras_ssd300_voc[^~]*--network"):
        convert(path, tmp_path / "out.pth")
    check(path, tensors, config, tmp_path, network="ssd_keras_ssd300_voc")


def test_heads_of_one_shape_are_refused(packing: SimpleNamespace, tmp_path: Path) -> None:
    write(packing, packing.seven, tmp_path / "x.weights.h5")
    with pytest.raises(MappingError, match="may be classes4 or boxes4"):
        convert(tmp_path / "x.weights.h5", tmp_path / "out.pth")


def swap(file: h5py.File, one: str, other: str) -> None:
    file.move(f"layers/{one}", "layers/between")
    file.move(f"layers/{other}", f"layers/{one}")
    file.move("layers/between", f"layers/{other}")


def extra_convolution(file: h5py.File) -> None:
    file.create_dataset("layers/conv2d_99/vars/0", data=np.zeros((1, 1, 2, 2), np.float32))


def extra_norm(file: h5py.File) -> None:
    file.create_dataset("layers/batch_normalization_9/vars/0", data=np.zeros(4, np.float32))


def other_norm(file: h5py.File) -> None:
    del file["layers/batch_normalization_2/vars/0"]
    file.create_dataset("layers/batch_normalization_2/vars/0", data=np.zeros(5, np.float32))


def two_kernels(file: h5py.File) -> None:
    file.create_dataset("layers/conv2d_3/vars/2", data=np.zeros((1, 1, 2, 2), np.float32))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: swap(f, "conv2d_1", "conv2d_2"), "conv2d_1 is"),
        (lambda f: swap(f, "conv2d_7", "conv2d_10"), "is no head in its place"),
        (extra_convolution, "16 convolutions, not 15"),
        (extra_norm, "8 groups where 7 have a gamma"),
        (other_norm, "batch_normalization_2 is"),
        (two_kernels, "without exactly one kernel"),
    ],
)
def test_what_does_not_fit_is_told(change: Change, reason: str, packing: SimpleNamespace, tmp_path: Path) -> None:
    write(packing, config_of("ssd7"), tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5", "r+") as file:
        change(file)
    with pytest.raises(MappingError, match=reason) as caught:
        convert(tmp_path / "x.weights.h5", tmp_path / "out.pth", network="ssd7")
    assert "as .keras" in str(caught.value) and not (tmp_path / "out.pth").exists()


def test_resnet_is_no_chain(packing: SimpleNamespace, tmp_path: Path) -> None:
    write(packing, config_of("ssd7"), tmp_path / "x.weights.h5")
    with pytest.raises(MappingError, match="equal shapes and depths"):
        convert(tmp_path / "x.weights.h5", tmp_path / "out.pth", network="jedol_ssd300_resnet50_voc")


def test_names_for_some_layers_only_are_refused(packing: SimpleNamespace, tmp_path: Path) -> None:
    write(packing, config_of("ssd7"), tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5", "r+") as file:
        file["layers/conv2d/vars"].attrs["name"] = "conv1"
    with pytest.raises(FormatError, match="some of its layers only"):
        convert(tmp_path / "x.weights.h5", tmp_path / "out.pth")


@pytest.mark.parametrize("name", NARROW)
def test_numbered_files_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    save(tmp_path / "a.pth", config, seeded_tensors(config))
    for path in ("x.weights.h5", "y.weights.h5"):
        reverse(tmp_path / "a.pth", tmp_path / path, "keras")
    assert (tmp_path / "x.weights.h5").read_bytes() == (tmp_path / "y.weights.h5").read_bytes()
    convert(tmp_path / "x.weights.h5", tmp_path / "b.pth")
    a, b = read(tmp_path / "a.pth"), read(tmp_path / "b.pth")
    assert replace(a.config, class_names=()) == replace(b.config, class_names=()) and all(
        torch.equal(a.state_dict[n], b.state_dict[n]) for n in a.state_dict
    )
    with h5py.File(tmp_path / "x.weights.h5", "r+") as file:
        for group in file["layers"].values():
            del group["vars"].attrs["name"]
    convert(tmp_path / "x.weights.h5", tmp_path / "c.pth", network=name)
    c = read(tmp_path / "c.pth")
    assert all(torch.equal(a.state_dict[n], c.state_dict[n]) for n in a.state_dict)


def test_class_heads_are_written_first() -> None:
    """As both projects' models number them: jedol's outputs are ``[mbox_logit, mbox_loc]``, ssd_keras' class heads lie deeper."""
    for name, word in (("jedol_ssd300_vgg16_voc", "_mbox_logit"), ("ssd_keras_ssd300_voc", "_mbox_conf")):
        heads = [layer for _, layer in in_model_order(config_of(name)) if "_mbox_" in layer]
        assert all(layer.endswith(word) for layer in heads[:6]) and all(
            layer.endswith("_mbox_loc") for layer in heads[6:]
        )


def test_uncertain_positions_are_not_written() -> None:
    with pytest.raises(MappingError, match="not certain"):
        in_model_order(NETWORKS["jedol_ssd300_resnet50_voc"]("jedol_ssd300_resnet50_voc", 21, width=2))
    with pytest.raises(MappingError, match="one shape"):
        in_model_order(NETWORKS["ssd7"]("ssd7", 4, width=8))


@pytest.mark.parametrize(("edits", "seed"), [(1_500, 1), pytest.param(100_000, 2, marks=pytest.mark.slow)])
def test_no_shapes_confuse_it(edits: int, seed: int) -> None:
    """Random edits of groups and shapes: MappingError, or every layer told once and with its own shape."""
    rng, taken = random.Random(seed), 0
    plain: dict[str, dict[str, list[tuple[int, ...]]]] = {}
    for name in ("ssd7", "ssd_keras_ssd300_voc"):
        layers: dict[str, list[tuple[int, ...]]] = {}
        for row in rows_of(config_of(name)):
            layers.setdefault(row.layer, []).append(row.shape)
        plain[name] = {}
        for word, layer in in_model_order(config_of(name)):
            number = sum(re.fullmatch(rf"{word}(_\d+)?", group) is not None for group in plain[name])
            plain[name][f"{word}_{number}" if number else word] = layers[layer]
    for _ in range(edits):
        groups = dict(plain[rng.choice(list(plain))])
        for _ in range(rng.randint(0, 2)):
            one, other = rng.choice(list(groups)), rng.choice(list(groups))
            kind = rng.randrange(5)
            if kind == 0:
                groups[one], groups[other] = groups[other], groups[one]
            elif kind == 1:
                groups.pop(one)
            elif kind == 2:
                groups[f"{one}_{rng.randrange(99)}"] = groups[other]
            elif kind == 3:
                groups[one] = [tuple(side + rng.randrange(-1, 2) for side in shape) for shape in groups[one]]
            else:
                groups[one] = [shape[: rng.randrange(5)] for shape in groups[one]][: rng.randrange(4)]
        tensors = {
            f"{group}/{k}": LazyTensor(f"{group}/{k}", shape, np.dtype("f4"), lambda: np.zeros(0))
            for group, shapes in groups.items()
            for k, shape in enumerate(shapes)
        }
        layers = {g: [f"{g}/{k}" for k in range(len(s))] for g, s in groups.items()}
        table = TensorTable(Path("x"), "h5", tensors, found=KerasFile("v3", layers, named=False))
        try:
            found = layers_in_order(table, Request())
        except MappingError:
            continue
        taken += 1
        assert sorted(n for names in found.values() for n in names) == sorted(tensors)
    assert 0.1 * edits < taken < 0.9 * edits
