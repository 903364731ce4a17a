"""Files that Keras itself wrote, read bit for bit; every Keras network against Keras layer by layer, batch statistics random.

The networks are built with Keras 2.15 in the worker; the two projects' own code runs on no Keras of today.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.keras.files import KerasFile, read_keras
from ssdconv.parity.oracles.keras import KerasOracle
from ssdconv.parity.oracles.worker import Worker
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.networks.keras import NETWORKS
from ssdconv.ssd_ref.preprocess import prepare

MAKER = Worker("tensorflow", str(Path(__file__).parent / "workers" / "keras_maker"))

pytestmark = pytest.mark.oracle

BUILT = {
    "jedol_ssd300_vgg16_voc": (4, 5, ["weights", "v3", "keras", "model"]),
    "jedol_ssd300_resnet50_voc": (8, 5, ["weights"]),
    "ssd_keras_ssd300_voc": (4, 21, ["weights"]),
    "ssd_keras_ssd512_coco": (2, 81, ["weights"]),
    "ssd7": (8, 6, ["weights", "v3", "keras", "model"]),
}
"""Network -> width, classes, flavours."""


def job(name: str, folder: Path, width: int, classes: int, flavours: list[str]) -> dict:
    first = 1.0 if name == "ssd7" else 85.0
    job = {"do": "build", "network": name, "width": width, "classes": classes, "flavours": flavours}
    return {**job, "folder": str(folder), "seed": 5, "first": first}


@pytest.fixture(scope="module")
def written(tensorflow: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    """Narrow networks with random weights in the flavours that Keras writes."""
    folder = tmp_path_factory.mktemp("keras")
    answer = MAKER.ask([job(name, folder, *how) for name, how in BUILT.items()])
    found = {}
    for index, name in enumerate(BUILT):
        head = f"{index}/"
        values = dict(answer.arrays.under(head))
        paths = {k: Path(v) for k, v in answer.jobs[index]["paths"].items()}
        found[name] = SimpleNamespace(paths=paths, values=values)
    return found


@pytest.mark.parametrize(("name", "flavour"), [(n, f) for n, how in BUILT.items() for f in how[2] if f != "v3"])
def test_every_weight_is_read_bit_for_bit(written: dict, name: str, flavour: str, tmp_path: Path) -> None:
    case = written[name]
    with read_keras(case.paths[flavour]) as table:
        layers = table.found(KerasFile).layers
        count = 0
        for layer, names in layers.items():
            held = sorted(table[n].load().tobytes() for n in names)
            theirs = [a for key, a in case.values.items() if key.rsplit("/", 1)[0] == layer]
            assert held == sorted(a.tobytes() for a in theirs), layer
            count += len(names)
        assert count == len(case.values)
    report = convert(case.paths[flavour], tmp_path / "out.pth")
    width, classes, _ = BUILT[name]
    assert report.config == replace(NETWORKS[name](name, classes, width=width), class_names=())  # a count names none
    assert bool(report.drops) == (flavour == "model")
    state = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
    assert len(state) == len(case.values)


@pytest.mark.parametrize("name", ["jedol_ssd300_vgg16_voc", "ssd7"])
def test_weights_without_layer_names_are_told_by_order(written: dict, name: str, tmp_path: Path) -> None:
    case = written[name]
    convert(case.paths["v3"], tmp_path / "out.pth", network=name)
    convert(case.paths["weights"], tmp_path / "named.pth")
    ours, theirs = (torch.load(tmp_path / f, weights_only=True)["state_dict"] for f in ("out.pth", "named.pth"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", BUILT)
def test_every_layer_heads_and_detections(written: dict, name: str, tmp_path: Path) -> None:
    flavour = {"jedol_ssd300_vgg16_voc": "model", "ssd7": "keras"}.get(name, "weights")
    path = written[name].paths[flavour]
    convert(path, tmp_path / "out.pth")
    report = verify(tmp_path / "out.pth", path)
    assert report.passed, report
    inside = [n for n in report.not_compared if not n.startswith(("activation", "add"))]
    assert all("mbox" in n or n.startswith(("classes", "boxes")) for n in inside)
    for one in report.inputs:
        assert one.detections is not None and one.detections.matched > 100
        count = {"ssd7": 6 + 24, "jedol_ssd300_resnet50_voc": 154, "ssd_keras_ssd512_coco": 34}
        assert len(one.probes) == count.get(name, 32)


def test_a_changed_statistic_is_found(written: dict, tmp_path: Path) -> None:
    path = written["jedol_ssd300_resnet50_voc"].paths["weights"]
    convert(path, tmp_path / "out.pth")
    held = torch.load(tmp_path / "out.pth", weights_only=True)
    held["state_dict"]["backbone.res4c.branch2b.norm.running_var"] *= 1.001
    torch.save(held, tmp_path / "bad.pth")
    report = verify(tmp_path / "bad.pth", path)
    failed = [r.source for one in report.inputs for r in one.probes if not r]
    assert not report.passed and failed[0] == "bn4c_branch2b"


def test_keras_reads_what_we_write(written: dict, tmp_path: Path) -> None:
    jobs = []
    for name, case in written.items():
        convert(case.paths["weights"], tmp_path / "out.pth")
        reverse(tmp_path / "out.pth", tmp_path / f"{name}.h5", "keras")
        width, classes, _ = BUILT[name]
        config = NETWORKS[name](name, classes, width=width)
        jobs.append(KerasOracle(tmp_path / f"{name}.h5", config).job("read"))
    answer = MAKER.ask(jobs)
    for index, case in enumerate(written.values()):
        for key, array in case.values.items():
            assert answer.arrays[f"{index}/{key}"].tobytes() == array.tobytes(), key


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_full_size(tensorflow: str, name: str, tmp_path: Path) -> None:
    config = replace(NETWORKS[name](name, None), class_names=())
    width = 32 if name == "ssd7" else 64
    answer = MAKER.ask([job(name, tmp_path, width, config.num_classes, ["weights"])])
    path = Path(answer.jobs[0]["paths"]["weights"])
    assert convert(path, tmp_path / "out.pth").config == config
    report = verify(tmp_path / "out.pth", path)
    assert report.passed, report


@pytest.mark.shared
def test_pixels(tensorflow: str, shared: Path) -> None:
    """Means and channel orders as Keras applies them to real photos; all projects resize with OpenCV."""
    photos = sorted((shared / "data" / "images").glob("*.jpg"))[:8]
    images = {path.name: cv2.imread(str(path)) for path in photos}
    given = {}
    for name, image in images.items():
        given[f"0/{name}"] = cv2.resize(image, (300, 300))[..., ::-1]
        given[f"0/{name}/wide"] = cv2.resize(image, (480, 300))[..., ::-1]
    answer = MAKER.ask([{"do": "pixels"}], given)

    def ours(network: str, image: np.ndarray) -> np.ndarray:
        return prepare([image], NETWORKS[network](network, None).pixels)[0].numpy().transpose(1, 2, 0)

    for name, image in images.items():
        imagenet, ssd_keras = (answer.arrays[f"0/{name}/{how}"] for how in ("imagenet", "ssd_keras"))
        assert np.abs(ours("jedol_ssd300_vgg16_voc", image) - imagenet).max() <= 1.6e-5
        assert np.array_equal(ours("ssd_keras_ssd300_voc", image), ssd_keras)
        assert np.array_equal(ours("jedol_ssd300_resnet50_voc", image), given[f"0/{name}"][..., ::-1].astype("f4"))
        assert np.abs(ours("ssd7", image) - answer.arrays[f"0/{name}/wide/ssd7"]).max() <= 1.2e-7
