"""Data sets as people have them on disk: PASCAL VOC and COCO, read lazily and without torch."""

from __future__ import annotations

from ssdconv.data.catalog import DATASETS, open_dataset
from ssdconv.data.coco import CocoDataset, open_coco
from ssdconv.data.records import Dataset, Problems, Record
from ssdconv.data.voc import VOC_CLASSES, VocDataset, open_voc

__all__ = [
    "DATASETS",
    "VOC_CLASSES",
    "CocoDataset",
    "Dataset",
    "Problems",
    "Record",
    "VocDataset",
    "open_coco",
    "open_dataset",
    "open_voc",
]
