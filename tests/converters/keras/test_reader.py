"""Every flavour of file, built by hand, gives the same layers; files that lead elsewhere are refused before they are followed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from ssdconv.converters.convert import convert
from ssdconv.converters.keras.files import read_keras, snake_case
from ssdconv.converters.registry import recognise
from ssdconv.errors import FormatError, MappingError, MissingError, UnsafeFileError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.config import SSDConfig


def check(path: Path, config: SSDConfig, tensors: dict[str, np.ndarray], drops: int = 0) -> None:
    """The file converts to exactly these tensors."""
    assert recognise(path).name == "keras"
    report = convert(path, path.with_suffix(".pth"))
    assert report.config == config
    assert len(report.drops) == drops
    state = checkpoint.read(path.with_suffix(".pth")).state_dict
    assert set(state) == set(tensors)
    for name, tensor in state.items():
        assert tensor.numpy().tobytes() == tensors[name].tobytes(), name


@pytest.mark.parametrize(
    "inner",
    [
        "{layer}/{kind}:0",  # Keras 2
        "{layer}/{kind}",  # Keras 3
        "{layer}_1/{kind}:0",  # a model that was built twice
        "{layer}_{kind}:0",  # Keras 1
        "a/b/{layer}/{kind}:0",  # within name scopes
    ],
)
def test_save_weights(packing: SimpleNamespace, tmp_path: Path, inner: str) -> None:
    for config in (packing.vgg, packing.seven):
        layers, tensors = packing.layers(config)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            packing.save_weights(file, layers, inner=inner)
        check(tmp_path / "x.h5", config, tensors)


def test_names_of_the_l2_scale_do_not_matter(packing: SimpleNamespace, tmp_path: Path) -> None:
    layers, tensors = packing.layers(packing.vgg)
    for name in ("conv4_3_norm_gamma", "weights_0", "gamma"):
        layers["conv4_3_norm"] = {name: next(iter(layers["conv4_3_norm"].values()))}
        with h5py.File(tmp_path / "x.h5", "w") as file:
            packing.save_weights(file, layers)
        check(tmp_path / "x.h5", packing.vgg, tensors)


def test_layer_names_with_a_suffix(packing: SimpleNamespace, tmp_path: Path) -> None:
    for config in (packing.vgg, packing.seven):
        layers, tensors = packing.layers(config)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            packing.save_weights(file, {f"{name}_3": weights for name, weights in layers.items()})
        check(tmp_path / "x.h5", config, tensors)


def test_whole_model_with_optimizer(packing: SimpleNamespace, tmp_path: Path) -> None:
    layers, tensors = packing.layers(packing.vgg)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        packing.save_weights(file.create_group("model_weights"), layers)
        file.attrs["model_config"] = "x" * 70_000  # more than an attribute's usual room
        file.create_dataset("optimizer_weights/SGD/conv1_1/kernel/momentum:0", data=np.zeros((3, 3, 3, 2), "f4"))
        file.create_dataset("optimizer_weights/SGD/iter:0", data=np.int64(9))
    check(tmp_path / "x.h5", packing.vgg, tensors, drops=2)


def test_keras_3(packing: SimpleNamespace, tmp_path: Path) -> None:
    for config in (packing.vgg, packing.seven):
        layers, tensors = packing.layers(config)
        with h5py.File(tmp_path / "x.weights.h5", "w") as file:
            packing.save_v3(file, layers)
        check(tmp_path / "x.weights.h5", config, tensors, drops=1)
        for names in (False, True):
            packing.save_keras(tmp_path / "x.keras", layers, names=names)
            check(tmp_path / "x.keras", config, tensors, drops=1)


def test_names_that_contradict_are_refused(packing: SimpleNamespace, tmp_path: Path) -> None:
    layers, _ = packing.layers(packing.seven)
    packing.save_keras(tmp_path / "x.keras", layers, names=True)
    held = zipfile.ZipFile(tmp_path / "x.keras")
    config = held.read("config.json").replace(b'"conv2"', b'"conv9"')
    with zipfile.ZipFile(tmp_path / "y.keras", "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", held.read("model.weights.h5"))
    with pytest.raises(FormatError, match="two names of one layer"):
        read_keras(tmp_path / "y.keras")


def test_snake_case() -> None:
    """As Keras' own names of groups: conv2d, max_pooling2d, batch_normalization."""
    for name, key in (("Conv2D", "conv2d"), ("BatchNormalization", "batch_normalization"), ("ELU", "elu")):
        assert snake_case(name) == key
    assert snake_case("MaxPooling2D") == "max_pooling2d" and snake_case("InputLayer") == "input_layer"


def test_theano_kernels_are_refused(packing: SimpleNamespace, tmp_path: Path) -> None:
    layers, _ = packing.layers(packing.vgg)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        packing.save_weights(file, layers, backend="theano")
    with pytest.raises(MappingError, match=r"Theano, whose kernels are mirrored"):
        convert(tmp_path / "x.h5", tmp_path / "out.pth")


def hostile(path: Path, what: str) -> None:
    """An h5 file whose conv1_1 kernel is not plainly in it."""
    secret = path.with_name("secret.h5")
    with h5py.File(secret, "w") as other:
        other["kernel:0"] = np.full((3, 3, 3, 2), 42, "f4")
    with h5py.File(path, "w") as file:
        group = file.create_group("conv1_1/conv1_1")
        shape = (3, 3, 3, 2)
        if what == "soft":
            file["elsewhere"] = np.zeros(shape, "f4")
            group["kernel:0"] = h5py.SoftLink("/elsewhere")
        elif what == "external link":
            group["kernel:0"] = h5py.ExternalLink("secret.h5", "/kernel:0")
        elif what == "external group":
            file["conv1_2"] = h5py.ExternalLink("secret.h5", "/")
        elif what == "external storage":
            group.create_dataset("kernel:0", shape, "f4", external=[(str(secret), 0, 216)])
        elif what == "virtual":
            layout = h5py.VirtualLayout(shape, "f4")
            layout[:] = h5py.VirtualSource(str(secret), "kernel:0", shape)
            group.create_virtual_dataset("kernel:0", layout)
        elif what == "gzip":
            group.create_dataset("kernel:0", data=np.zeros((2_000, 2_000), "f4"), compression="gzip")
        elif what == "loop":
            group["again"] = file["conv1_1"]
        elif what == "type":
            file["conv1_1/type"] = np.dtype("f4")
        elif what == "chunk":
            group.create_dataset("kernel:0", (1,), "f4", maxshape=(None,), chunks=(1 << 24,))


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        ("soft", UnsafeFileError, "/conv1_1/conv1_1/kernel:0: this is a soft link"),
        ("external link", UnsafeFileError, "/conv1_1/conv1_1/kernel:0: this is a link into another file"),
        ("external group", UnsafeFileError, "/conv1_2: this is a link into another file"),
        ("external storage", UnsafeFileError, "/conv1_1/conv1_1/kernel:0: the dataset's bytes lie in another file"),
        ("virtual", UnsafeFileError, "/conv1_1/conv1_1/kernel:0: a virtual dataset"),
        ("gzip", FormatError, "/conv1_1/conv1_1/kernel:0: the dataset is compressed"),
        ("loop", FormatError, "nested too deeply"),
        ("type", FormatError, "/conv1_1/type: neither a group nor a dataset"),
        ("chunk", FormatError, "chunks are larger than itself"),
    ],
)
def test_what_leads_elsewhere_is_refused(tmp_path: Path, what: str, error: type[Exception], text: str) -> None:
    hostile(tmp_path / "x.h5", what)
    with pytest.raises(error, match=text):
        read_keras(tmp_path / "x.h5")


def test_a_shape_bomb_is_an_error_of_the_mapping(packing: SimpleNamespace, tmp_path: Path) -> None:
    """1 TiB declared in a small file: the shape is compared with the network's before a byte is made room for."""
    layers, _ = packing.layers(packing.vgg)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        packing.save_weights(file, layers)
        del file["fc7/fc7/kernel:0"]
        file.create_dataset("fc7/fc7/kernel:0", (1 << 20, 1 << 10, 16, 16), "f4", chunks=(1, 1 << 10, 16, 16))
    with pytest.raises(MappingError, match=r"'fc7/fc7/kernel:0' has another shape"):
        convert(tmp_path / "x.h5", tmp_path / "out.pth")


def test_text_in_place_of_numbers(packing: SimpleNamespace, tmp_path: Path) -> None:
    layers, _ = packing.layers(packing.seven)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        packing.save_weights(file, layers)
        del file["bn1/bn1/gamma:0"]
        file.create_dataset("bn1/bn1/gamma:0", data=np.array([b"a", b"b", b"c", b"d"]))
    with pytest.raises(MappingError, match="not floating point"):
        convert(tmp_path / "x.h5", tmp_path / "out.pth")


def test_damage(packing: SimpleNamespace, tmp_path: Path) -> None:
    layers, _ = packing.layers(packing.seven)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        packing.save_weights(file, layers)
    whole = (tmp_path / "x.h5").read_bytes()
    for length in (1, 8, 100, 5_000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            read_keras(tmp_path / "cut.h5")
    with pytest.raises(MissingError):
        read_keras(tmp_path / "none.h5")
    (tmp_path / "not.h5").write_bytes(b"no such thing")
    with pytest.raises(FormatError, match="no HDF5 file"):
        read_keras(tmp_path / "not.h5")


def test_damaged_archives(packing: SimpleNamespace, tmp_path: Path) -> None:
    layers, _ = packing.layers(packing.seven)
    packing.save_keras(tmp_path / "x.keras", layers, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="compressed"):
        read_keras(tmp_path / "x.keras")
    with zipfile.ZipFile(tmp_path / "y.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(FormatError, match=r"without model\.weights\.h5"):
        read_keras(tmp_path / "y.keras")
    packing.save_keras(tmp_path / "z.keras", layers)
    raw = bytearray((tmp_path / "z.keras").read_bytes())
    raw[raw.index(b"\x89HDF") + 3_000] ^= 1
    (tmp_path / "z.keras").write_bytes(raw)
    with pytest.raises(FormatError, match="CRC-32"):
        read_keras(tmp_path / "z.keras")


def test_a_heap_that_would_hang_the_library(packing: SimpleNamespace, tmp_path: Path) -> None:
    """Free space of size 0 in the heap of variable-length texts: HDF5 1.14 never comes back from it."""
    layers, _ = packing.layers(packing.seven)
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        packing.save_v3(file, layers)
    raw = bytearray((tmp_path / "x.weights.h5").read_bytes())
    heap = raw.index(b"GCOL")
    size = int.from_bytes(raw[heap + 8 : heap + 16], "little")
    at = heap + 16
    while raw[at] or raw[at + 1]:  # to the free space, which has index 0
        at += 16 + -(-int.from_bytes(raw[at + 8 : at + 16], "little") // 8) * 8
        assert at < heap + size
    raw[at + 8 : at + 16] = bytes(8)
    (tmp_path / "x.weights.h5").write_bytes(raw)
    with pytest.raises(FormatError, match="heap of texts is damaged"):
        read_keras(tmp_path / "x.weights.h5")
