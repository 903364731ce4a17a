"""Caffe's other files: HDF5 weights, states of training runs, means, and blobs in the shapes of old files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.source import read
from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.inspect import inspect
from ssdconv.converters.registry import recognise
from ssdconv.errors import FormatError, MappingError, SsdconvError, UnsafeFileError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.config import Graph

NET = """
name: "small"
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "stem/c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "n" type: "Normalize" bottom: "c" top: "n" norm_param { across_spatial: false } }
layer { name: "a" type: "Convolution" bottom: "n" top: "a" param { name: "w" } param { name: "b" }
        convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "l" type: "Convolution" bottom: "a" top: "l" param { name: "w" } param { name: "b" }
        convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "lp" type: "Permute" bottom: "l" top: "lp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "lf" type: "Flatten" bottom: "lp" top: "lf" }
layer { name: "k" type: "Convolution" bottom: "c" top: "k" convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "kp" type: "Permute" bottom: "k" top: "kp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "kf" type: "Flatten" bottom: "kp" top: "kf" }
layer { name: "p" type: "PriorBox" bottom: "c" bottom: "data" top: "p" prior_box_param { min_size: 4 } }
layer { name: "o" type: "DetectionOutput" bottom: "lf" bottom: "kf" bottom: "p" top: "o"
        detection_output_param { num_classes: 3 } }
"""
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def files(caffe_file: Callable[..., Files], tmp_path_factory: pytest.TempPathFactory) -> Files:
    return caffe_file(NET, tmp_path_factory.mktemp("small"))


def as_hdf5(weights: Path, target: Path) -> Path:
    """As Caffe's ``Net::ToHDF5`` writes it: a group for every layer, the blobs of those that own them."""
    with read_caffemodel(weights) as table, h5py.File(target, "w") as file:
        data = file.create_group("data")
        for layer in table.found(CaffeNet).layers:
            group = data.require_group(layer.name)
            for index in range(len(layer.blobs) if layer.name != "l" else 0):
                group[str(index)] = table[f"{layer.name}/{index}"].load()
    return target


@pytest.mark.parametrize("name", ["x.caffemodel.h5", "x.h5"])
def test_hdf5_weights_give_the_same_checkpoint(files: Files, name: str, tmp_path: Path) -> None:
    path = as_hdf5(files[0], tmp_path / name)
    assert recognise(path).name == "caffe"
    report = convert(path, tmp_path / "x.pth", prototxt=files[1])
    convert(files[0], tmp_path / "y.pth", prototxt=files[1])
    assert report.source_format == "caffemodel.h5"
    assert not [w for w in report.warnings if "other parameters" in w]
    ours, theirs = (checkpoint.read(tmp_path / f"{n}.pth") for n in "xy")
    assert isinstance(ours.config.layers, Graph) and isinstance(theirs.config.layers, Graph)
    assert ours.config.layers.layers == theirs.config.layers.layers
    assert ours.state_dict.keys() == theirs.state_dict.keys()
    assert all(t.numpy().tobytes() == theirs.state_dict[n].numpy().tobytes() for n, t in ours.state_dict.items())
    summary = inspect(path)
    assert (summary.format, summary.source) == ("caffemodel.h5", "caffe")
    assert "--prototxt" in summary.why_not
    assert ("n/0", ()) in [(t.name, t.shape) for t in summary.tensors]


def test_hdf5_weights_need_a_definition(files: Files, tmp_path: Path) -> None:
    path = as_hdf5(files[0], tmp_path / "x.caffemodel.h5")
    with pytest.raises(FormatError, match="hold no network definition") as caught:
        convert(path, tmp_path / "x.pth")
    assert caught.value.hint and "--prototxt" in caught.value.hint


def test_other_hdf5_files_are_not_caffes(files: Files, tmp_path: Path) -> None:
    for name, change in {
        "nothing": lambda f: f.create_group("data"),
        "no number": lambda f: f.__setitem__("data/conv/weight", np.ones(2)),
        "text": lambda f: f.__setitem__("data/conv/0", "text"),
        "no layer": lambda f: f.__setitem__("data/0", np.ones(2)),
    }.items():
        with h5py.File(tmp_path / f"{name}.caffemodel.h5", "w") as file:
            change(file)
        with pytest.raises(SsdconvError), read(tmp_path / f"{name}.caffemodel.h5") as table:
            table["conv/0"].load()
    with h5py.File(tmp_path / "link.caffemodel.h5", "w") as file:
        file["data/conv/0"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(UnsafeFileError, match="another file"):
        read(tmp_path / "link.caffemodel.h5")
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        file["model_weights/conv/kernel"] = np.ones(2)
    assert recognise(tmp_path / "keras.h5").name == "keras"
    with pytest.raises(FormatError, match="HDF5 file without Caffe's"):
        read(tmp_path / "keras.h5")


def test_a_state_of_training_is_refused_by_name(emit, tmp_path: Path) -> None:
    path = tmp_path / "vgg_iter_120000.solverstate"
    name = b"/models/vgg_iter_120000.caffemodel"
    path.write_bytes(emit.int(1, 120000) + emit.sub(2, name) + emit.sub(3, emit.shape(2) + emit.floats(1, 2)))
    with h5py.File(tmp_path / "vgg.solverstate.h5", "w") as file:
        file["iter"], file["learned_net"], file["history/0"] = 7, "vgg.caffemodel.h5", np.ones(2)
    for given in (path, path.rename(tmp_path / "renamed.bin"), tmp_path / "vgg.solverstate.h5"):
        if not given.exists():
            given = tmp_path / "renamed.bin"
        assert recognise(given).name == "caffe"
        with pytest.raises(FormatError, match=r"state of a training run \(\.solverstate\)") as caught:
            convert(given, tmp_path / "x.pth")
        assert caught.value.hint and ".caffemodel" in caught.value.hint and "/models" not in caught.value.hint
    with pytest.raises(FormatError) as caught:
        read(tmp_path / "renamed.bin")
    assert caught.value.hint == "the weights of that moment are in vgg_iter_120000.caffemodel"


def test_a_mean_is_no_model(emit, save) -> None:
    with pytest.raises(FormatError, match="mean"):
        read(save(emit.legacy(1, 3, 2, 2) + emit.floats(*range(12)), "mean.binaryproto"))


def test_blobs_of_old_files_come_back_in_their_own_shapes(emit, files: Files, tmp_path: Path) -> None:
    with read_caffemodel(files[0]) as table:
        arrays = {name: tensor.load() for name, tensor in table.items()}
        layers = []
        for layer in table.found(CaffeNet).layers:
            blobs = tuple(
                emit.legacy(*(1,) * (4 - len(shape)), *shape) + emit.floats(*arrays[f"{layer.name}/{i}"].ravel())
                for i, shape in enumerate(layer.blobs)
            )
            layers.append(emit.layer(layer.name, layer.type, blobs=blobs))
    old = tmp_path / "old.caffemodel"
    old.write_bytes(b"".join(layers))
    convert(old, tmp_path / "x.pth", prototxt=files[1])
    reverse(tmp_path / "x.pth", tmp_path / "back.caffemodel", "caffe")
    with read_caffemodel(old) as was, read_caffemodel(tmp_path / "back.caffemodel") as now:
        assert now["stem/c/1"].shape == (1, 1, 1, 4) and now["n/0"].shape == (1, 1, 1, 1)
        for name, tensor in was.items():
            assert now[name].shape == tensor.shape and now[name].load().tobytes() == tensor.load().tobytes()
    # Caffe takes (1, 1, 1, 4) for (4,) in the four old fields only.
    assert emit.legacy(1, 1, 1, 4) + emit.tag(5, 2) in (tmp_path / "back.caffemodel").read_bytes()
    convert(tmp_path / "back.caffemodel", tmp_path / "y.pth")
    first, again = checkpoint.read(tmp_path / "x.pth"), checkpoint.read(tmp_path / "y.pth")
    assert all(t.numpy().tobytes() == again.state_dict[n].numpy().tobytes() for n, t in first.state_dict.items())


def test_remembered_shapes_that_do_not_fit_are_refused(files: Files, tmp_path: Path) -> None:
    convert(files[0], tmp_path / "x.pth", prototxt=files[1])
    held = checkpoint.read(tmp_path / "x.pth")
    for shapes, kind in (({"k/1": [1, 2]}, MappingError), ({"k/1": "text"}, FormatError), ([3], FormatError)):
        checkpoint.save(tmp_path / "y.pth", held.config, held.state_dict, {"stored_shapes": shapes})
        with pytest.raises(kind):
            reverse(tmp_path / "y.pth", tmp_path / "back.caffemodel", "caffe")
