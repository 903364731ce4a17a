"""How well a network detects: VOC and COCO metrics, running a data set, comparing two networks, published numbers."""
