"""Detection metrics: PASCAL VOC (our own evaluator) and COCO (pycocotools as referee, a fast equal by default)."""
