"""The heads of dense prediction by name, and how they differ from the official ones. Needs no torch.

"Official" is mmsegmentation and mmdetection as BiFormer runs them (0.30.0 and 2.25.3). A record of a
detector carries :func:`differences`, so that a figure is never taken for one of mmdetection's.
"""

from collections.abc import Mapping
from typing import Any

SEGMENTERS = {"sem_fpn": "Semantic FPN", "upernet": "UPerNet"}
DETECTORS = {"retinanet": "RetinaNet", "mask_rcnn": "Mask R-CNN"}
HEADS = {**SEGMENTERS, **DETECTORS}
"""Titles by name."""

TASK_OF = {**dict.fromkeys(SEGMENTERS, "semantic"), **dict.fromkeys(DETECTORS, "detection")}

_OF_ALL = (
    "images are resized by torch's bilinear on uint8 with antialiasing off, not by OpenCV",
    "random draws are torch's and numpy's, a function of seed, epoch and index",
)
_OF_SEGMENTERS = ("photometric distortion works in torchvision's HSV, not OpenCV's 8-bit one",)
_OF_DETECTORS = (
    "crowd regions are left out of training; mmdetection ignores anchors there",
    "anchors in the padding of a batch are background; mmdetection leaves them out",
    "stages whose map a head does not read have no norm of their own",
)
_OF_MASK_RCNN = ("proposals narrower than 0.001 px are dropped; mmdetection drops those of no area",)

OVERRIDDEN = (
    "RetinaNet head without norm, L1 loss of boxes",
    "RetinaNet's losses: summed over the batch, divided by its positives",
    "best anchors: an object claims them, also from another",
    "P6 from C5, P7 without ReLU between",
    "pyramid: Xavier-uniform",
    "anchors: exact sizes, fixed strides",
    "candidates before NMS: 1,000 anchors a level by their best class",
    "100 detections an image",
    "80 classes for RetinaNet, 81 with background for Mask R-CNN",
    "deltas clamped on both sides",
    "L1 loss of boxes in proposals and RoI heads",
    "1,000 proposals after NMS in training too",
    "RoIAlign: aligned, adaptive sampling, fixed strides",
    "RoI matching with low quality",
    "targets of masks cut at one half",
    "box head: Xavier-uniform, then normal of 0.01 and 0.001",
    "resizing in the data set, padding to 32 alone in the model",
)
"""What torchvision's detectors are brought to mmdetection's form in."""


def differences(head: str) -> list[str]:
    """What still differs from the official form, one phrase each."""
    found = list(_OF_ALL)
    found += _OF_DETECTORS if head in DETECTORS else _OF_SEGMENTERS
    return found + list(_OF_MASK_RCNN if head == "mask_rcnn" else ())


RECIPES = {
    "sem_fpn": "sem_fpn_80k",
    "upernet": "upernet_160k",
    "retinanet": "retinanet_1x",
    "mask_rcnn": "mask_rcnn_1x",
}
"""The recipe whose settings of mechanisms a head is counted and timed with."""

SHORT_SIDES = {"sem_fpn": 512, "upernet": 512, "retinanet": 800, "mask_rcnn": 800}
_RATIOS = {"sem_fpn": 4.0, "upernet": 4.0, "retinanet": 1.6, "mask_rcnn": 1.6}


def paper_size(head: str, short: int) -> tuple[int, int]:
    """Height and width of the image a paper counts a head on: 512 × 2048 or 800 × 1280, or of that shape.

    Both are rounded up to multiples of 32, to which detectors pad.
    """
    return -(-short // 32) * 32, -(-int(short * _RATIOS[head]) // 32) * 32


DRAWN = "drawn at random"
"""What a record says of a backbone's weights that nobody gave."""


def pretrained(details: Mapping[str, Any]) -> bool:
    """Whether the backbone of a recorded training began with weights of another one."""
    return details.get("weights", DRAWN) != DRAWN
