"""The blocks of Keras' classic ResNet50 as jedol/SSD-Keras_Tensorflow extends it. Imports no torch.

Blocks are called as in Keras: ``res2a`` … ``res5c``, then ``res6a``, ``res7a``, ``res8a`` in place of SSD's extra stages. The stride
is in a block's first 1x1 convolution and its shortcut. Stage 5 has stride 1; in 5b and 5c, not in 5a, the 3x3 convolution is dilated by 2.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockSpec:
    """One bottleneck block.

    Attributes:
        name: ``res3a``.
        inner, out: channels of its first two convolutions, and of its output.
        stride: of the block.
        dilation: of its 3x3 convolution.
        shortcut: it has a convolution in its shortcut (``branch1``).
    """

    name: str
    inner: int
    out: int
    stride: int
    dilation: int
    shortcut: bool


STAGES = ((2, 3, 64, 256, 1), (3, 4, 128, 512, 2), (4, 6, 256, 1024, 2), (5, 3, 512, 2048, 1))
"""Stage, blocks, inner and output channels, stride."""


def blocks(width: int = 64) -> tuple[BlockSpec, ...]:
    """All blocks in order; ``width`` 64 is the published network, others scale the channels."""
    found = []
    for stage, count, inner, out, stride in STAGES:
        for index in range(count):
            dilation = 2 if stage == 5 and index else 1
            found.append(
                BlockSpec(
                    f"res{stage}{'abcdef'[index]}",
                    inner * width // 64,
                    out * width // 64,
                    1 if index else stride,
                    dilation,
                    not index,
                )
            )
    more = (BlockSpec(f"res{stage}a", 128 * width // 64, 512 * width // 64, 2, 1, True) for stage in (6, 7, 8))
    return (*found, *more)
