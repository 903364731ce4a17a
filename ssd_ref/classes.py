"""Class names of PASCAL VOC (20) and COCO (80, in ascending category id), background first where it counts."""

from __future__ import annotations

BACKGROUND = "background"

VOC = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)

COCO = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,"
    "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,"
    "snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,"
    "dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,"
    "vase,scissors,teddy bear,hair drier,toothbrush".split(",")
)

COCO_IDS = tuple(
    i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
)
"""COCO category id of each name in ``COCO``."""


def names_for(num_classes: int) -> tuple[str, ...]:
    """Conf channel names for 21 (VOC) or 81 (COCO) classes with background; empty for any other count."""
    return {21: (BACKGROUND, *VOC), 81: (BACKGROUND, *COCO)}.get(num_classes, ())
