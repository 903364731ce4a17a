"""Naming dialects against the names that GluonCV itself gave 20 networks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ssdconv.converters.gluon.mapping import ParamName, dialect_of, prefix_counts, resolve, without_counters
from ssdconv.errors import MappingError

ALL = [
    *(f"ssd_300_{b}_{d}" for b in ("vgg16_atrous", "resnet34_v1b", "mobilenet0.25") for d in ("voc", "coco")),
    *(
        f"ssd_512_{b}_{d}"
        for b in ("vgg16_atrous", "resnet18_v1", "resnet50_v1", "mobilenet1.0")
        for d in ("voc", "coco")
    ),
    "ssd_300_mobilenet1.0_lite_coco",
    "ssd_512_resnet101_v2_voc",
    "ssd_512_resnet152_v2_voc",
    "ssd_512_resnet50_v1s_voc_nonpreset",
    "resnet50_v1",
    "resnet50_v1s",
]


def pairs(manifest: dict[str, Any]) -> list[ParamName]:
    return [ParamName(p["name"], p["legacy_name"]) for p in manifest["params"]]


def counters(name: str, number: int) -> str:
    """The same legacy name in a process that had built other networks before."""
    for word in ("ssd", "resnetv1", "resnetv2", "mobilenet", "vggatrousextractor", "resnetv1bssd"):
        name = name.replace(f"_{word}0_", f"_{word}{number}_")
        if name.startswith(f"{word}0_"):
            name = f"{word}{number}_" + name[len(word) + 2 :]
    return name


def test_all_manifests_are_listed(manifests: dict[str, Any]) -> None:
    assert sorted(ALL) == sorted(manifests)


@pytest.mark.shared
@pytest.mark.parametrize("network", ALL)
@pytest.mark.parametrize("number", [0, 3, 14])
def test_every_dialect_resolves(manifests: dict[str, Any], network: str, number: int) -> None:
    params = manifests[network]["params"]
    wanted = pairs(manifests[network])
    legacy = [counters(p["legacy_name"], number) for p in params]
    assert number == 0 or "ssd0_" not in " ".join(legacy)
    dialects = {
        "structural": [p["name"] for p in params],
        "legacy": legacy,
        "stripped": [name.removeprefix(f"ssd{number}_") for name in legacy],
        "renamed": [name.replace(f"ssd{number}_", "my_net_", 1) for name in legacy],
        "export": [("aux:" if "running_" in n or "moving_" in n else "arg:") + n for n in legacy],
    }
    if not network.startswith("ssd"):
        del dialects["renamed"]
    for dialect, names in dialects.items():
        expected = dict(zip((p["name"] for p in params), names, strict=True))
        shuffled = random.Random(number).sample(names, len(names))
        assert resolve(shuffled, wanted) == expected, dialect
        assert dialect_of(names) == {"stripped": "legacy", "renamed": "legacy"}.get(dialect, dialect)


@pytest.mark.shared
def test_missing_tensor_is_named_in_the_files_own_dialect(manifests: dict[str, Any]) -> None:
    manifest = manifests["ssd_512_resnet50_v1_voc"]
    wanted = pairs(manifest)
    gone = "features.resnetv10_stage2_batchnorm1_running_var"
    for prefix, lost in (("aux:", "aux:ssd7_resnetv10_stage2_batchnorm1_running_var"), ("", None)):
        names = [
            (("aux:" if "running" in p["legacy_name"] else "arg:") if prefix else "")
            + p["legacy_name"].replace("ssd0_", "ssd7_")
            for p in manifest["params"]
            if p["name"] != gone
        ]
        assert resolve(names, wanted)[gone] == (lost or "ssd7_resnetv10_stage2_batchnorm1_running_var")
    assert resolve([w.structural for w in wanted if w.structural != gone], wanted)[gone] == gone


@pytest.mark.shared
def test_one_tensor_under_two_names(manifests: dict[str, Any]) -> None:
    wanted = pairs(manifests["ssd_300_vgg16_atrous_voc"])
    names = [w.structural for w in wanted]
    with pytest.raises(
        MappingError, match=r"'features\.stages\.0\.0\.weight' and 'arg:ssd3_vggatrousextractor3_conv0_weight'"
    ):
        resolve([*names, "arg:ssd3_vggatrousextractor3_conv0_weight"], wanted)


def test_list_without_names_is_refused() -> None:
    with pytest.raises(MappingError, match="never paired by position"):
        resolve(["0", "1", "2"], [ParamName("a.weight", "a_weight")], where="x.params")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("ssd14_resnetv10_conv0_weight", "resnetv10_conv0_weight"),
        ("ssd3_ssd3_convpredictor4_conv0_weight", "convpredictor4_conv0_weight"),
        ("arg:ssd2_resnetv13_stage1_conv0_weight", "resnetv10_stage1_conv0_weight"),
        ("features.resnetv27_batchnorm0_gamma", "features.resnetv20_batchnorm0_gamma"),
        ("ssd1_ssdanchorgenerator11_anchor_5", "ssdanchorgenerator5_anchor_5"),
        ("ssd1_convpredictor10_conv0_bias", "convpredictor10_conv0_bias"),
        ("vggatrousextractor2_normalize2_normalize_scale", "vggatrousextractor0_normalize0_normalize_scale"),
        ("resnetv1b_layers2_conv3_weight", "resnetv1b_layers2_conv3_weight"),
    ],
)
def test_counters(name: str, plain: str) -> None:
    assert without_counters(name) == plain


def test_dialects_and_prefixes() -> None:
    assert dialect_of([]) == "unnamed"
    assert dialect_of(["features.0.weight"]) == "structural"
    assert dialect_of(["conv0_weight"]) == "legacy"
    assert dialect_of(["aux:bn_moving_mean", "arg:conv0_weight"]) == "export"
    assert prefix_counts(["arg:a", "aux:b", "arg:c", "d"]) == {"arg": 2, "aux": 1, "": 1}
