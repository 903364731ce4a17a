"""The bijection check: each way of not being one is an error that names the tensor."""

from __future__ import annotations

import numpy as np
import pytest

from ssdconv.converters.tensors import Drop, LazyTensor, MappedTensor, TensorMapping, Transpose
from ssdconv.errors import MappingError


def lazy(name: str, *shape: int, dtype: str = "float32") -> LazyTensor:
    def load() -> np.ndarray:
        raise AssertionError("bytes were read before the check")

    return LazyTensor(name, shape, np.dtype(dtype), load)


ENTRIES = (
    MappedTensor("conv1/kernel", "conv1.weight", (3, 3, 2, 4), (Transpose((3, 2, 0, 1)),)),
    MappedTensor("b", "conv1.bias", (4,)),
)
SOURCE = {"conv1/kernel": lazy("conv1/kernel", 3, 3, 2, 4), "b": lazy("b", 4), "step": lazy("step", 1)}
TARGET = {"conv1.weight": (4, 2, 3, 3), "conv1.bias": (4,)}
MAPPING = TensorMapping(ENTRIES, (Drop("step", "training counter"),))


def test_a_bijection_passes_without_reading_bytes() -> None:
    MAPPING.check(SOURCE, TARGET)


def test_missing_source_tensor_names_its_neighbour() -> None:
    source = {**SOURCE, "conv1/kernle": SOURCE["conv1/kernel"]}
    del source["conv1/kernel"]
    with pytest.raises(MappingError, match=r"no tensor 'conv1/kernel'[\s\S]*nearest name: 'conv1/kernle'"):
        MAPPING.check(source, TARGET)


def test_left_over_source_tensor() -> None:
    with pytest.raises(MappingError, match=r"'conv2' .* has no place"):
        MAPPING.check({**SOURCE, "conv2": lazy("conv2", 1)}, TARGET)


def test_wrong_shape_names_both() -> None:
    with pytest.raises(MappingError, match=r"expected \(4,\) for 'conv1.bias', got \(5,\)"):
        MAPPING.check({**SOURCE, "b": lazy("b", 5)}, TARGET)


def test_as_many_elements_in_another_shape_do_not_fit() -> None:
    mapping, table = TensorMapping((MappedTensor("w", "w", (3, 4)),)), {"w": lazy("w", 4, 3)}
    with pytest.raises(MappingError, match=r"expected \(3, 4\) for 'w', got \(4, 3\)"):
        mapping.check(table, {"w": (3, 4)})


def test_wrong_kind() -> None:
    with pytest.raises(MappingError, match="not floating point"):
        MAPPING.check({**SOURCE, "b": lazy("b", 4, dtype="int32")}, TARGET)


def test_unfilled_reference_tensor() -> None:
    with pytest.raises(MappingError, match="'extra' is filled by nothing"):
        MAPPING.check(SOURCE, {**TARGET, "extra": (1,)})


def test_reference_of_another_shape() -> None:
    with pytest.raises(MappingError, match=r"does not fit 'conv1\.weight'"):
        MAPPING.check(SOURCE, {**TARGET, "conv1.weight": (3, 3, 2, 4)})


@pytest.mark.parametrize("twice", [ENTRIES[1], MappedTensor("other", "conv1.bias", (4,))])
def test_double_use(twice: MappedTensor) -> None:
    mapping = TensorMapping((*ENTRIES, twice), MAPPING.drops)
    with pytest.raises(MappingError, match="twice"):
        mapping.check({**SOURCE, "other": lazy("other", 4)}, TARGET)


def test_there_and_back_is_bit_identical() -> None:
    rng = np.random.default_rng(1)
    arrays = {name: rng.normal(size=t.shape).astype(np.float32) for name, t in SOURCE.items()}
    table = {n: LazyTensor(n, a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()}
    reference = {e.target: a for e, a in MAPPING.forward(table)}
    assert {k: v.shape for k, v in reference.items()} == TARGET
    for entry, array in MAPPING.backward(reference):
        assert array.tobytes() == arrays[entry.source].tobytes()
