"""Every GluonCV network against GluonCV itself on MXNet: all layers, heads, scores, decoded boxes and detections.

Weights are random with a fixed seed, gammas that MXNet must ignore included. The networks for 512 pixels run on smaller
pictures, which GluonCV allows: anchors are cropped to the feature maps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.converters.convert import Opened, convert, open_source
from ssdconv.converters.gluon.params import ParamsFile
from ssdconv.converters.gluon.source import probes
from ssdconv.parity.layers.activations import compare, derived
from ssdconv.parity.layers.detections import compare_detections
from ssdconv.parity.oracles.gluon import COLUMN, INPUT, GluonOracle, class_names
from ssdconv.parity.oracles.worker import Worker
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.gluon import DESIGNS, gluon

MAKER = Worker("gluon", str(Path(__file__).parent / "workers" / "gluon_maker"))

pytestmark = pytest.mark.oracle

ONE_OF_A_KIND = (
    "ssd_300_vgg16_atrous_voc",
    "ssd_512_resnet50_v1_coco",
    "ssd_512_resnet101_v2_voc",
    "ssd_300_mobilenet1.0_lite_coco",
    "ssd_300_resnet34_v1b_voc",
)
"""One network per family; the others are in the slow tests. ``ssd_300_mobilenet0.25_voc`` is compared in a test of its own
below, with classes of its own, and the layers of ResNet50 v1s in ``test_gluon_backbones``."""


def input_size(name: str) -> int:
    """The smallest picture that the network's layers allow."""
    if "_300_" in name:
        return 300
    return 272 if "vgg" in name else 128


def at_size(config: SSDConfig, size: int) -> SSDConfig:
    """The network on pictures of another size, with priors on the feature maps that this gives."""
    config = dataclasses.replace(config, pixels=dataclasses.replace(config.pixels, size=(size, size)))
    with torch.device("meta"):
        features = SSD(config).eval().features(torch.zeros(1, 3, size, size, device="meta"))
    maps = zip(config.priors, features, strict=True)
    return dataclasses.replace(config, priors=tuple(dataclasses.replace(p, grid=tuple(f.shape[2:])) for p, f in maps))


def build(folder: Path, name: str, dialects: tuple[str, ...] = ("structural",), **options: Any) -> dict[str, Path]:
    """Random weights of a network, written by MXNet: dialect -> file."""
    config = options.pop("config", gluon(name))
    job = {"do": "build", "network": name, "classes": class_names(config), "seed": 7, "size": input_size(name)}
    job |= {"folder": str(folder), "stem": "net", "dialects": list(dialects), **options}
    answer = MAKER.ask([job])
    return {dialect: Path(path) for dialect, path in answer.jobs[0]["paths"].items()}


def reference(opened: Opened, config: SSDConfig) -> SSD:
    model = SSD(config)
    model.load_state_dict({e.target: torch.from_numpy(a.copy()) for e, a in opened.plan.mapping.forward(opened.table)})
    return model.eval()


def check(opened: Opened, seed: int = 0) -> None:
    """Compare everything for one noise picture."""
    size = input_size(opened.plan.config.name)
    config = at_size(opened.plan.config, size)
    prepared = COLUMN.prepare(opened)
    assert isinstance(prepared.oracle, GluonOracle)
    oracle = replace(prepared.oracle, config=config)
    pixels = np.random.default_rng(seed).uniform(-2.1, 2.6, (1, 3, size, size)).astype("f4")
    run = oracle.run(pixels)
    run.outputs.add(INPUT, pixels)
    model = reference(opened, config)

    def values(output: Any) -> dict[str, torch.Tensor]:
        return derived(model.config, output)

    with torch.inference_mode():
        results, heads64, heads32 = compare(run.outputs, model, pixels, prepared.probes, derive=values)
    assert len(results) == len(prepared.probes) and not run.outputs.left
    failed = [f"{r.source}: {r.reason}" for r in results if not r]
    assert not failed, failed[0]
    found = compare_detections(model.config, run.detections, heads64, heads32)
    assert found is not None and found, found
    assert found.matched >= 95 and found.oracle == found.reference == 100


def check_named(name: str, tmp_path: Path) -> None:
    path = build(tmp_path, name)["structural"]
    opened = open_source(path, "gluon")
    # VOC and COCO versions of a design differ by class count and priors; ResNet50 v1s is known to us under this name.
    assert replace(opened.plan.config, class_names=()) == replace(gluon(name), class_names=())
    with opened.table:
        check(opened)
    path.unlink()


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_network(mxnet: str, tmp_path: Path, name: str) -> None:
    check_named(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(DESIGNS) - set(ONE_OF_A_KIND)))
def test_other_network(mxnet: str, tmp_path: Path, name: str) -> None:
    check_named(name, tmp_path)


@pytest.fixture(scope="module")
def graphs(mxnet: str) -> dict[str, Any]:
    """Network -> what MXNet's graph says."""
    answer = MAKER.ask([{"do": "graph", "network": name} for name in DESIGNS])
    return dict(zip(DESIGNS, answer.jobs, strict=True))


def test_probes_cover_every_layer(graphs: dict[str, Any]) -> None:
    """Each convolution, normalisation, activation and pooling node of every graph is a probe, and every probe a node."""
    for name, graph in graphs.items():
        probed = {source for source, _ in probes(gluon(name))}
        words = ("conv", "batchnorm", "_bn", "relu", "activation", "pool")
        computing = {node for node in graph["nodes"] if any(word in node for word in words)}
        assert len(computing) > 50 and computing <= probed <= set(graph["nodes"]), name


def test_batch_norms_are_as_the_graphs_say(graphs: dict[str, Any]) -> None:
    """eps and fix_gamma of every BatchNorm node; where the graph is silent, MXNet's defaults are 1e-3 and true."""
    for name, graph in graphs.items():
        with torch.device("meta"):
            modules = dict(SSD(gluon(name)).named_modules())
        paths = dict(probes(gluon(name)))
        for node, attributes in graph["batch_norms"].items():
            ours = modules[paths[node]]
            assert ours.eps == float(attributes.get("eps", 1e-3)), node
            assert ours.fix_gamma == (attributes.get("fix_gamma", "True") == "True"), node


def test_custom_classes_dialects_and_reverse(mxnet: str, tmp_path: Path) -> None:
    """A fine-tuned network with 4 object classes, in four dialects, converted and written back bit for bit."""
    config = gluon("ssd_300_mobilenet0.25_voc", 5)
    dialects = ("structural", "legacy", "stripped", "export")
    paths = build(tmp_path, config.name, dialects, config=config, prefix="finetuned3_")
    first = None
    for dialect, path in paths.items():
        opened = open_source(path, "gluon")
        with opened.table:
            assert opened.plan.config.num_classes == 5
            assert opened.table.found(ParamsFile).dialect == ("legacy" if dialect == "stripped" else dialect)
            tensors = {e.target: a.tobytes() for e, a in opened.plan.mapping.forward(opened.table)}
        first = first or tensors
        assert tensors == first, dialect
    from ssdconv.converters.convert import reverse

    convert(paths["structural"], tmp_path / "out.pth")
    reverse(tmp_path / "out.pth", tmp_path / "back.params", "gluon")
    jobs = [{"do": "load", "path": str(p)} for p in (paths["structural"], tmp_path / "back.params")]
    jobs.append({**GluonOracle(tmp_path / "back.params", config).job(), "nodes": ["ssd0_softmax0"]})
    answer = MAKER.ask(jobs, {"2/input": np.zeros((1, 3, 300, 300), "f4")})
    names, back = (answer.jobs[i]["names"] for i in (0, 1))
    assert sorted(names) == sorted(back)
    for index, name in enumerate(names):
        theirs = answer.arrays[f"1/{back.index(name)}"]
        assert answer.arrays[f"0/{index}"].tobytes() == theirs.tobytes(), name
    with open_source(paths["structural"], "gluon").table:
        check(open_source(paths["structural"], "gluon"))


def test_verify_finds_a_changed_weight(mxnet: str, tmp_path: Path) -> None:
    """``verify`` passes on a true checkpoint, and names the layer after one element was changed."""
    path = build(tmp_path, "ssd_300_mobilenet0.25_voc")["structural"]
    convert(path, tmp_path / "out.pth")
    report = verify(tmp_path / "out.pth", path)
    assert report.passed, report
    held = torch.load(tmp_path / "out.pth", weights_only=True)
    held["state_dict"]["backbone.conv3.conv.weight"][0, 0] *= 1.01
    torch.save(held, tmp_path / "bad.pth")
    report = verify(tmp_path / "bad.pth", path)
    assert not report.passed
    failed = [r.source for one in report.inputs for r in one.probes if not r]
    assert failed[0] == "ssd0_mobilenet0_conv6_fwd"


@pytest.mark.shared
def test_pixels(mxnet: str, shared: Path) -> None:
    """Input tensors equal GluonCV's SSDDefaultValTransform on real photos that shrink, grow, and do one of each.

    Bit for bit where the picture shrinks (area) or grows on one side (linear); where both grow (cubic), MXNet's OpenCV 3.4.2
    and today's differ by one level in a few bytes of a million.
    """
    import cv2

    from ssdconv.ssd_ref.preprocess import prepare as prepared

    photos = sorted((shared / "data" / "images").glob("*.jpg"))[:6]
    photos += sorted((shared / "data" / "coco_val2017_subset").rglob("*.jpg"))[:6]
    arrays = {path.name: cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in photos}
    first = next(iter(arrays.values()))
    arrays |= {"tiny.jpg": first[:150, :200], "tall.jpg": first[:, :120], "half.jpg": first[:187, :250]}
    seen = {"area": 0, "linear": 0, "cubic": 0}
    for size in (300, 512):
        answer = MAKER.ask([{"do": "preprocess", "size": size}], {f"0/{name}": array for name, array in arrays.items()})
        pixels = gluon(f"ssd_{size}_vgg16_atrous_voc").pixels
        level = np.array(pixels.std)[:, None, None] * 255
        for name, array in arrays.items():
            ours = prepared([array], pixels, array_order="RGB")[0].numpy()
            theirs = answer.arrays[f"0/{name}"]
            grows = [size > side for side in array.shape[:2]]
            kind = "cubic" if all(grows) else "linear" if any(grows) else "area"
            seen[kind] += 1
            if kind == "cubic":
                off = np.abs(ours - theirs) * level
                assert (off > 0).sum() <= 2e-5 * off.size and off.max() < 1.01, (size, name, array.shape)
            else:
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{size} {name} {array.shape}")
    assert min(seen.values()) >= 3, seen
