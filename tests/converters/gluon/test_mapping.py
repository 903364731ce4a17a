"""GluonCV files by name: whole, shuffled, damaged, of another network; against the names and shapes that GluonCV gave."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.gluon.mapping import anchor_names, anchors, rows_of, without_counters
from ssdconv.converters.gluon.recognise import fit, reference_shapes
from ssdconv.converters.gluon.source import plan
from ssdconv.converters.plan import Request
from ssdconv.converters.tensors import LazyTensor, TensorTable
from ssdconv.errors import MappingError, SsdconvError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.gluon import DESIGNS, gluon

pytestmark = pytest.mark.shared
Change = Callable[[dict[str, np.ndarray]], None]


def manifest_of(manifests: dict[str, Any], network: str) -> list[dict[str, Any]]:
    return manifests[network if network in manifests else f"{network}_nonpreset"]["params"]


def table_of(manifests: dict[str, Any], network: str, change: Change | None = None, key: str = "name") -> TensorTable:
    """A file of the network as GluonCV's manifest describes it; its tensors take no memory, its anchors are real."""
    config = gluon(network)
    real = dict(zip([n.structural for n in anchor_names(config)], anchors(config), strict=True))
    tensors: dict[str, np.ndarray] = {}
    for index, row in enumerate(manifest_of(manifests, network)):
        tensors[row[key]] = real.get(row["name"], np.broadcast_to(np.float32(index), row["shape"]))
    if change:
        change(tensors)
    lazy = {n: LazyTensor(n, a.shape, a.dtype, lambda a=a: a, "") for n, a in tensors.items()}
    return TensorTable(Path("x.params"), "params", lazy)


def checked(table: TensorTable, network: str | None = None, num_classes: int | None = None) -> dict[str, str]:
    """Reference tensor -> name in the file, after the whole check."""
    made = plan(table, Request(network, num_classes))
    made.mapping.check(table, reference_shapes(made.config), where="x.params")
    return {entry.target: entry.source for entry in made.mapping}


@pytest.mark.parametrize("network", sorted(DESIGNS))
def test_names_and_shapes_are_gluoncvs(manifests: dict[str, Any], network: str) -> None:
    """Both names of every tensor, its shape, and nothing else."""
    config = gluon(network)
    shapes = reference_shapes(config)
    rows = {row.target: row.name for row in rows_of(config) if row.target in shapes}
    ours = {(n.structural, n.legacy) for n in (*rows.values(), *anchor_names(config))}
    manifest = manifest_of(manifests, network)
    assert ours == {(p["name"], p["legacy_name"]) for p in manifest}
    assert set(rows) == set(shapes)
    theirs = {p["name"]: tuple(p["shape"]) for p in manifest}
    for target, name in rows.items():
        shape = (1, *shapes[target], 1, 1) if "l2norm" in target else shapes[target]
        assert theirs[name.structural] == shape
    for name, array in zip(anchor_names(config), anchors(config), strict=True):
        assert theirs[name.structural] == array.shape


@pytest.mark.parametrize("network", sorted(DESIGNS))
@pytest.mark.parametrize("key", ["name", "legacy_name"])
def test_recognised_whatever_the_order(manifests: dict[str, Any], network: str, key: str) -> None:
    def shuffle(tensors: dict[str, np.ndarray]) -> None:
        order = random.Random(4).sample(list(tensors.items()), len(tensors))
        tensors.clear()
        tensors.update(order)

    table = table_of(manifests, network, shuffle, key)
    made = plan(table, Request())
    assert made.config == gluon(network)
    names = dict(
        zip((p["name"] for p in manifest_of(manifests, network)), table_names(manifests, network, key), strict=True)
    )
    rows = {row.target: row.name.structural for row in rows_of(gluon(network))}
    for entry in made.mapping:
        assert entry.source == names[rows[entry.target]]
    assert len(made.mapping.drops) == len(gluon(network).priors)
    made.mapping.check(table, reference_shapes(made.config))


def table_names(manifests: dict[str, Any], network: str, key: str) -> list[str]:
    return [p[key] for p in manifest_of(manifests, network)]


RESNET50 = "ssd_512_resnet50_v1_voc"
GAMMA = "features.resnetv10_stage3_batchnorm7_gamma"


def drop(name: str) -> Change:
    return lambda tensors: tensors.__delitem__(name)


def rename(name: str, to: str) -> Change:
    return lambda tensors: tensors.update({to: tensors.pop(name)})


def add(name: str, like: str) -> Change:
    return lambda tensors: tensors.update({name: tensors[like]})


def reshape(name: str, shape: tuple[int, ...], dtype: str = "f4") -> Change:
    return lambda tensors: tensors.update({name: np.zeros(shape, dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(GAMMA), f"no tensor '{GAMMA}'"),
        (rename(GAMMA, GAMMA + "s"), f"no tensor '{GAMMA}'.*\n.*nearest name: '{GAMMA}s'"),
        (add(GAMMA + "_copy", GAMMA), f"'{GAMMA}_copy' .* has no place in the network"),
        (add("arg:ssd9_resnetv12_stage3_batchnorm7_gamma", GAMMA), f"'{GAMMA}' and 'arg:ssd9_.*' are both"),
        (reshape(GAMMA, (255,)), rf"'{GAMMA}' has another shape .*expected \(256,\).*got \(255,\)"),
        (reshape(GAMMA, (256,), "i4"), f"'{GAMMA}' is not floating point"),
        (reshape("anchor_generators.0.anchors", (1, 1, 64, 64, 16)), r"anchors of map 0 are no even grid"),
    ],
)
def test_one_tensor_wrong(manifests: dict[str, Any], change: Change, message: str) -> None:
    """The error names the tensor, both shapes and the nearest name, with the network named and without."""
    with pytest.raises(MappingError, match=message):
        checked(table_of(manifests, RESNET50, change), RESNET50)
    with pytest.raises(MappingError):
        checked(table_of(manifests, RESNET50, change))


def test_anchor_off_by_one_bit(manifests: dict[str, Any]) -> None:
    def nudge(tensors: dict[str, np.ndarray]) -> None:
        array = tensors["anchor_generators.3.anchors"].copy()
        array[0, 0, 5, 7, 2] = np.nextafter(array[0, 0, 5, 7, 2], np.float32(0))
        tensors["anchor_generators.3.anchors"] = array

    with pytest.raises(
        MappingError, match=r"anchors 'anchor_generators.3.anchors' are not those of .*\(0, 0, 5, 7, 2\)"
    ):
        checked(table_of(manifests, RESNET50, nudge), RESNET50)
    with pytest.raises(MappingError, match=r"are not those of .*\(0, 0, 5, 7, 2\)"):
        checked(table_of(manifests, RESNET50, nudge))


def test_voc_and_coco_sizes_are_told_by_the_anchors(manifests: dict[str, Any]) -> None:
    """A fine-tune with 4 object classes keeps the priors that it was made with."""

    def four(tensors: dict[str, np.ndarray]) -> None:
        for index, cells in enumerate((4, 6, 6, 6, 4, 4)):
            for kind in ("weight", "bias"):
                name = f"class_predictors.{index}.predictor.{kind}"
                tensors[name] = np.broadcast_to(np.float32(0), (cells * 5, *tensors[name].shape[1:]))

    for network in (RESNET50, "ssd_512_resnet50_v1_coco"):
        made = plan(table_of(manifests, network, four), Request())
        assert (made.config.name, made.config.num_classes, made.config.class_names) == (network, 5, ())
        assert made.config.priors == gluon(network).priors
        assert "5 classes" in made.warnings[0]
    with pytest.raises(MappingError, match="another shape"):
        checked(table_of(manifests, RESNET50, four), RESNET50, 21)
    assert len(checked(table_of(manifests, RESNET50, four), RESNET50)) == len(reference_shapes(gluon(RESNET50)))


def other_anchors(config: SSDConfig, dtype: str = "f4") -> Change:
    """A file's anchors replaced by those of another config, and all tensors cast."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        for name, array in zip(anchor_names(config), anchors(config), strict=True):
            tensors[name.structural] = array
        for name, array in tensors.items():
            tensors[name] = (
                array.astype(dtype) if "anchors" in name else np.broadcast_to(np.zeros((), dtype), array.shape)
            )

    return change


@pytest.mark.parametrize("network", [None, RESNET50])
def test_stored_anchors_decide_the_geometry(manifests: dict[str, Any], network: str | None) -> None:
    """``get_ssd`` with sizes and steps of its own: sides and input are read from the file, with the network named or not."""
    usual = gluon(RESNET50)
    half = tuple(
        replace(m, grid=tuple(-(-n // 2) for n in m.grid), step=(m.step[0] / 2, m.step[1] / 2),
                box_sizes=tuple((w * 0.4, h * 0.4) for w, h in m.box_sizes))
        for m in usual.priors
    )  # fmt: skip
    table = table_of(manifests, RESNET50, other_anchors(replace(usual, priors=half)))
    made = plan(table, Request(network))
    assert made.config.pixels.size == (256, 256)
    assert [m.grid for m in made.config.priors] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    for mine, theirs in zip(made.config.priors, half, strict=True):
        assert mine.step == theirs.step and np.allclose(mine.box_sizes, theirs.box_sizes, rtol=1e-6)
    said = {claim.link: claim for claim in made.evidence}
    assert said["priors"].basis == said["pixels"].basis == "stated" and len(made.mapping.drops) == 6
    larger = plan(table, Request(network, settings={"input.size": "320x256"}))
    assert larger.config.pixels.size == (256, 320) and larger.config.priors[0].grid == (16, 20)
    plain = plan(table_of(manifests, RESNET50), Request(network))
    assert plain.config.priors == usual.priors and plain.config.pixels == usual.pixels


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_other_floating_types_keep_theirs(manifests: dict[str, Any], dtype: str) -> None:
    usual = gluon(RESNET50)
    made = plan(table_of(manifests, RESNET50, other_anchors(usual, dtype)), Request())
    assert made.config.priors == usual.priors and made.config.name == RESNET50
    assert any(np.dtype(dtype).name in claim.text for claim in made.evidence if claim.link == "tensors")


def test_synchronised_batch_normalisation_is_batch_normalisation() -> None:
    assert without_counters("ssd3_resnetv10_syncbatchnorm0_gamma") == without_counters(
        "ssd0_resnetv10_batchnorm0_gamma"
    )


def test_file_without_anchors(manifests: dict[str, Any]) -> None:
    def none(tensors: dict[str, np.ndarray]) -> None:
        for index in range(6):
            del tensors[f"anchor_generators.{index}.anchors"]

    made = plan(table_of(manifests, RESNET50, none), Request())
    assert made.config == gluon(RESNET50) and made.mapping.drops == ()
    assert any("no anchors" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    ("network", "asked"),
    [
        (RESNET50, "ssd_512_resnet18_v1_voc"),
        ("ssd_300_vgg16_atrous_voc", "ssd_512_vgg16_atrous_voc"),
        ("ssd_300_mobilenet1.0_lite_coco", "ssd_512_mobilenet1.0_coco"),
        ("ssd_512_resnet152_v2_voc", "ssd_512_resnet101_v2_voc"),
    ],
)
def test_wrong_network_named(manifests: dict[str, Any], network: str, asked: str) -> None:
    with pytest.raises(MappingError, match=f"the file fits network {network} "):
        checked(table_of(manifests, network), asked)


def test_backbone_file_is_not_an_ssd(manifests: dict[str, Any]) -> None:
    rows = manifests["resnet50_v1"]["params"]
    lazy = {p["name"]: LazyTensor(p["name"], tuple(p["shape"]), np.dtype("f4"), lambda: np.zeros(1)) for p in rows}
    with pytest.raises(MappingError, match="not a network of GluonCV"):
        plan(TensorTable(Path("x.params"), "params", lazy), Request())


def test_fit_counts(manifests: dict[str, Any]) -> None:
    found = fit(table_of(manifests, RESNET50, drop(GAMMA)), RESNET50)
    assert (found.wanted - found.found, found.left, found.whole) == (1, 0, False)
    whole = table_of(manifests, RESNET50)
    assert fit(whole, RESNET50).whole and fit(whole, RESNET50).anchors
    coco = fit(whole, "ssd_512_resnet50_v1_coco")
    assert coco.whole and not coco.anchors


def test_network_with_a_prefix_of_its_own(manifests: dict[str, Any]) -> None:
    def rename_all(tensors: dict[str, np.ndarray]) -> None:
        renamed = {f"arg:{name.replace('ssd0_', 'faces_', 1)}": array for name, array in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    made = plan(table_of(manifests, RESNET50, rename_all, "legacy_name"), Request())
    assert made.config == gluon(RESNET50)


def test_unnamed_list_is_refused(manifests: dict[str, Any]) -> None:
    lazy = {str(i): LazyTensor(str(i), (2,), np.dtype("f4"), lambda: np.zeros(2, "f4")) for i in range(4)}
    with pytest.raises(SsdconvError, match="never paired by position"):
        plan(TensorTable(Path("x.params"), "params", lazy), Request())
