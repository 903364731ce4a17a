from __future__ import annotations

import subprocess
import sys

import pytest

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.network import GraphLayer
from ssdconv.ssd_ref.graph.operation import Operation, operation, operations, supported


def test_every_type_of_caffe_has_a_formula_and_a_shape_rule() -> None:
    for name in supported():
        kind = operations()[name]
        assert kind.shapes is not Operation.shapes, name
        assert callable(getattr(kind, "run", None)), name


def test_messages_stand_under_one_number_each() -> None:
    messages = []
    for kind in operations().values():
        if kind.message and kind.message not in messages:
            messages.append(kind.message)
    assert len({m.name for m in messages}) == len({m.number for m in messages}) == len(messages)


def test_a_second_operation_for_a_type_is_refused() -> None:
    operations()
    with pytest.raises(ValueError, match="ReLU is registered twice"):
        operation("ReLU")(type("Other", (Operation,), {}))


def test_unknown_type_names_the_layer_and_near_types() -> None:
    with pytest.raises(FormatError) as caught:
        GraphLayer(LayerSpec("c1", "Convolutoin", ("x",), ("y",)))
    assert "c1" in str(caught.value)
    assert "Convolution" in (caught.value.hint or "")


def test_wrong_number_of_blobs_is_refused() -> None:
    with pytest.raises(FormatError, match="number of learned tensors"):
        GraphLayer(LayerSpec("bn", "BatchNorm", ("x",), ("y",), {}, ((3,), (3,))))


def test_all_operations_load_without_torch() -> None:
    code = "import sys; from ssdconv.ssd_ref.graph.operation import operations; operations(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
