"""Field numbers that other Caffes gave to the layers of SSD nets, told apart by the layer's type.

Before SSD settled on 200 to 207, and in copies of its layers elsewhere, the same messages were written under numbers
that mean something else today (Permute under 144, now ``crop_param``). A layer has only its own type's message, so the
type says what the number means. Numbers: history of the SSD branch, and public forks that list theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssdconv.converters.protobuf_wire import LEN, Field, encode_varint

# layer type: (message field, its number in our schema, its numbers elsewhere)
ALIASES: dict[str, tuple[str, int, frozenset[int]]] = {
    "AnnotatedData": ("annotated_data_param", 200, frozenset({141, 142, 143, 144})),
    "MultiBoxLoss": ("multibox_loss_param", 201, frozenset({141, 143, 144, 145})),
    "Permute": ("permute_param", 202, frozenset({144, 145, 146})),
    "PriorBox": ("prior_box_param", 203, frozenset({140, 142, 146, 147})),
    "DetectionOutput": ("detection_output_param", 204, frozenset({147, 148})),
    "Normalize": ("norm_param", 206, frozenset({149, 150})),
    "Clip": ("clip_param", 148, frozenset({100027})),
    "Interp": ("interp_param", 2143, frozenset({143})),
    "Upsample": ("upsample_param", 149, frozenset({150, 160})),
    "ReLU6": ("relu6_param", 100000, frozenset({2060})),
}


def renumbered(kind: str, fields: Sequence[Field]) -> tuple[Field, bytes, str] | None:
    """The field of a V2 layer that holds its type's message under another Caffe's number.

    Args:
        kind: the layer's type.
        fields: the layer's fields.

    Returns:
        The field, the tag bytes to put in place of its own, and a remark; None where nothing needs renumbering.
    """
    if kind not in ALIASES:
        return None
    name, home, elsewhere = ALIASES[kind]
    if any(f.number == home for f in fields):
        return None
    strays = [f for f in fields if f.number in elsewhere and f.wire == LEN]
    if len(strays) != 1:
        return None
    stray = strays[0]
    return stray, encode_varint(home << 3 | LEN), f"field {stray.number} read as {name}"
