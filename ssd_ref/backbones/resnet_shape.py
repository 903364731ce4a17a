"""Depths of the ResNet family (arXiv:1512.03385, table 1). Imports no torch."""

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Depth -> blocks per stage; from 50 layers on the blocks are bottlenecks."""
