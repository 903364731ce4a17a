"""The pickle machine against Python's own unpickler on plain data, and that hostile streams end in FormatError."""

from __future__ import annotations

import pickle
import struct
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdconv.converters.pytorch.machine import Global, Machine, PickledCall
from ssdconv.errors import FormatError

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.binary() | st.text()
)
KEYS = st.text(max_size=5) | st.integers(-(2**31), 2**31) | st.binary(max_size=3)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(DATA, st.integers(2, 5))
def test_plain_data_equals_what_python_reads(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    result = Machine(data).run()
    # Protocol 2 has no bytes: they come as a call of _codecs.encode, which this machine does not make.
    if protocol > 2 or not result.globals:
        assert result.value == pickle.loads(data)
        assert result.globals == ()
    assert result.end == len(data)


@pytest.mark.parametrize("value", [[1, 2.5, None], {"a": (1, 2), "b": [True, False]}, "plain", ((((), 1), 2), 3, 4)])
@pytest.mark.parametrize("protocol", [0, 1])
def test_the_text_protocols(value: Any, protocol: int) -> None:
    assert Machine(pickle.dumps(value, protocol)).run().value == value


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"(ios\nsystem\n.",
        b"(cos\nsystem\nVx\no.",
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94000h\x00h\x01\x93.".replace(b"000", b"00"),
        b"cos\nsystem\n0N.",
        b"cos\nsystem\np0\n0N.",
    ],
    ids=["global", "stack", "inst", "obj", "memo", "popped", "memoised"],
)
def test_every_way_of_naming_something_is_seen(stream: bytes) -> None:
    assert Global("os", "system") in Machine(stream).run().globals


def test_extension_codes_and_odd_names_are_seen() -> None:
    assert str(Machine(b"\x82\x07.").run().globals[0]) == "copyreg.extension 7"
    assert str(Machine(b"\x80\x04K\x01K\x02\x93.").run().globals[0]) == "<int>.<int>"
    (name,) = Machine(b"\x80\x04\x8c\x0bos.path.joi\x8c\x03a.b\x93.").run().globals
    assert name == Global("os.path.joi", "a.b")


def test_calls_stay_calls() -> None:
    value = Machine(b"cos\nsystem\n(Vrm -rf /\ntR.").run().value
    assert isinstance(value, PickledCall) and value.target == Global("os", "system") and value.args == ("rm -rf /",)


HOSTILE = {
    "empty": b"",
    "no_stop": b"\x80\x02N",
    "unknown_opcode": b"\x80\x02\xff.",
    "nothing_to_pop": b"\x80\x02R.",
    "no_mark": b"\x80\x02t.",
    "memo_missing": b"\x80\x02h\x05.",
    "odd_items": b"\x80\x02}(Nu.",
    "append_to_none": b"\x80\x02NNa.",
    "text_too_long": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "bytes_too_long": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "negative_length": b"\x80\x02T\xff\xff\xff\xffabc.",
    "not_utf8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
    "long_number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "long_number_that_is_there": b"\x80\x02\x8b\xe9\x03\x00\x00" + b"\x01" * 1001 + b".",
    "many_digits": b"I" + b"9" * 5000 + b"\n.",
    "no_line_end": b"V" + b"x" * 200_000,
    "no_number": b"Iabc\n.",
    "unquoted": b"Sabc\n.",
    "deep_stack": b"N" * 20_000 + b".",
    "marks": b"(" * 20_000 + b".",
    "build_on_none": b"\x80\x02NNb.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_streams(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        Machine(HOSTILE[name], where="bad.pth").run()
    assert "bad.pth, offset" in str(caught.value)


def test_nesting_without_bound_is_harmless() -> None:
    # A tuple in a tuple … 100,000 times; as a dict's key its hash would recurse in C until the stack ends.
    deep = b")" + b"\x85" * 100_000
    result = Machine(b"}" + deep + b"Ns.").run()
    assert list(result.value) == ["<tuple>"]
    Machine(b"\x8f(" + deep + b"\x90.").run()
    Machine(b"(" + deep + b"\x91.").run()


def test_keys_chosen_to_collide_cost_nothing() -> None:
    keys = [number * (2**61 - 1) for number in range(1, 50_001)]  # all of hash 0
    items = [pickle.dumps(key, 2)[2:-1] + b"N" for key in keys]
    groups = [b"(" + b"".join(items[at : at + 1000]) + b"u" for at in range(0, len(items), 1000)]
    stream = b"\x80\x02}" + b"".join(groups) + b"."
    before = time.process_time()
    value = Machine(stream).run().value
    assert len(value) == len(keys)
    assert time.process_time() - before < 20  # as integers they take minutes


def test_endless_streams_end_soon() -> None:
    with pytest.raises(FormatError, match="more steps"):
        Machine(b"N0" * 400_000 + b"N.").run()
