"""What the Lambda layers of an SSD do to pixels, from their names and closures; byte code is never executed.

``config.function`` is ``[marshalled byte code, defaults, closure]``. ssd_keras' Lambdas keep the mean, the deviation and the order of
channels in their closures, so these are stated in the file. What stands in the byte code alone (``z[..., ::-1]``, ``z / 127.5 - 1``) is
taken by the layer's name and the constants found in the code's bytes, and said to be assumed. A Lambda that is none of these is an error
until the user says what it does (``--set lambda.NAME=…``).
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ssdconv.converters.keras.model_config import Call
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.evidence import Basis, Claim

Do = Literal["identity", "subtract", "divide", "take"]
IDENTITIES = ("identity_layer", "idendity_layer", "identity")
NAMED: dict[str, tuple[Do, bytes]] = {
    "input_mean_normalization": ("subtract", b"subtract_mean"),
    "input_stddev_normalization": ("divide", b"divide_by_stddev"),
    "input_channel_swap": ("take", b"swap_channels"),
}
"""Layer name -> what it does, and the name of the variable that its byte code reads from the closure."""
GRAMMAR = ("identity", "reverse", "take:2,1,0", "subtract:123,117,104", "divide:127.5")


@dataclass(frozen=True)
class Step:
    """One step of preparing pixels: ``x - values``, ``x / values`` or channels in the order ``values``."""

    do: Do
    values: tuple[float, ...] = ()

    def per_channel(self, channels: int = 3) -> tuple[float, ...]:
        """The values, one per channel."""
        return self.values * channels if len(self.values) == 1 else self.values

    def __str__(self) -> str:
        return self.do + (":" + ",".join(f"{v:g}" for v in self.values) if self.values else "")


def steps_of(call: Call, settings: Mapping[str, str]) -> tuple[tuple[Step, ...], Claim]:
    """What a Lambda does, and who says so.

    Raises:
        FormatError: nothing tells what it does.
        UsageError: a setting that is no step.
    """
    key = f"lambda.{call.name}"
    if key in settings:
        steps = tuple(_given(key, part) for part in settings[key].split("+"))
        return steps, _claim(call, "user", steps, "")
    code, closure = _code(call), _closure(call)
    if call.name in IDENTITIES and not closure:
        return (Step("identity"),), _claim(call, "assumed", (Step("identity"),), "an identity by its name")
    for name, (do, variable) in NAMED.items():
        if call.name == name or variable in code:
            if len(closure) == 1 and closure[0] and (do != "take" or _is_order(closure[0])):
                step = Step(do, closure[0])
                return (step,), _claim(call, "stated", (step,), "the numbers stand in its closure")
            if do == "take" and not closure:
                step = Step(do, (2.0, 1.0, 0.0))
                return (step,), _claim(
                    call, "assumed", (step,), "its byte code alone says which; the project's was [::-1]"
                )
    if call.name == "lambda1" and not closure and all(struct.pack("<d", v) in code for v in (127.5, 1.0)):
        steps = (Step("divide", (127.5,)), Step("subtract", (1.0,)))
        return steps, _claim(call, "assumed", steps, "its byte code holds 127.5 and 1; the project's was x / 127.5 - 1")
    raise call.fail(
        "nothing but byte code, which is never run, says what this Lambda does",
        expected=f"a Lambda of ssd_keras ({', '.join((*IDENTITIES[:2], *NAMED))}) with its numbers in the closure",
        got=f"closure {call.config.get('function', [None, None, None])[2:] or None}",
        hint=f"say it: --set {key}={' or '.join(GRAMMAR)} (several joined by +)",
    )


def wrote(call: Call) -> int:
    """The Python (2 or 3) that marshalled a Lambda's byte code, 0 where it cannot be told: code objects carry a flag in Python 3."""
    code = _code(call)
    return {b"c": 2, b"\xe3": 3}.get(code[:1], 0)


def _claim(call: Call, basis: Basis, steps: Sequence[Step], why: str) -> Claim:
    said = " + ".join(map(str, steps))
    text = f"layer {call.name!r} does {said} on RGB pixels" + (f" ({why})" if why else "")
    return Claim("pixels", basis, text, f"lambda.{call.name}", said, () if basis == "stated" else GRAMMAR)


def _given(key: str, text: str) -> Step:
    word, _, numbers = text.strip().partition(":")
    try:
        values = tuple(float(v) for v in numbers.split(",")) if numbers else ()
    except ValueError:
        values = (float("nan"),)
    if word == "identity" and not numbers:
        return Step("identity")
    if word == "reverse" and not numbers:
        return Step("take", (2.0, 1.0, 0.0))
    sound = len(values) in (1, 3) and all(abs(v) < 1e6 for v in values)
    if word == "subtract" and sound:
        return Step("subtract", values)
    if word == "divide" and sound and all(values):
        return Step("divide", values)
    if word == "take" and _is_order(values):
        return Step("take", values)
    raise UsageError(f"--set {key}={text}: no step of preparing pixels", expected=" or ".join(GRAMMAR))


def _is_order(values: Sequence[float]) -> bool:
    return sorted(values) == [0, 1, 2]


def _code(call: Call) -> bytes:
    """The byte code's bytes, for looking at only: base64 since Keras 2.1, raw text before."""
    function = call.config.get("function")
    if isinstance(function, Mapping):  # Keras 2.13 and 3
        function = function.get("config", function)
        function = [function.get("code", "")] if isinstance(function, Mapping) else function
    text = function[0] if isinstance(function, list) and function else ""
    if not isinstance(text, str):
        return b""
    try:
        return base64.b64decode(text.encode("ascii"), validate=False) if text[:1] != "c" else text.encode("latin-1")
    except (binascii.Error, UnicodeError):
        return text.encode("latin-1", "replace")


def _closure(call: Call) -> list[tuple[float, ...]]:
    """The closure's values as tuples of numbers; an empty tuple for one that is none."""
    function: Any = call.config.get("function")
    if isinstance(function, Mapping):
        function = function.get("config", function)
        values = function.get("closure") if isinstance(function, Mapping) else None
    else:
        values = function[2] if isinstance(function, list) and len(function) > 2 else None
    return [_numbers(v) for v in values] if isinstance(values, list) else []


def _numbers(value: Any) -> tuple[float, ...]:
    if isinstance(value, Mapping):
        value = value.get("value", value.get("config"))
    listed = value if isinstance(value, list) else [value]
    if len(listed) not in (1, 3) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in listed):
        return ()
    return tuple(float(v) for v in listed) if all(abs(v) < 1e6 for v in listed) else ()
