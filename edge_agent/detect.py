"""Frame -> Faces: what a detector is, how wide it looks, and the classic one. Networks are in yunet.py."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edge_agent.scene import Box, Face, Frame, Image
from protocol.errors import DeviceError

Detector = Callable[[Frame], tuple[Face, ...]]

RESOLVED_PX = 24
"""A face of this size in the network's input is found nearly as surely as a larger one: docs/detectors.md."""
NARROWEST_PX = 480
"""Below this width there is little time to gain and much to miss."""
MOST_PX = 3840 * 2160
"""No more pixels are looked at, whatever the picture has: a network's maps take fifty times their bytes."""


def input_width(height: int, width: int, smallest_face_px: int) -> int:
    """The width to look at in a picture, in pixels: as small as the smallest face that must be seen allows."""
    needed = round(width * RESOLVED_PX / smallest_face_px)
    return max(1, min(width, max(NARROWEST_PX, needed), math.isqrt(MOST_PX * width // height)))


class HaarDetector:
    """OpenCV's `haarcascade_frontalface_default` (Viola and Jones, 2001). Slow, and blind to most masked faces: a reference."""

    def __init__(self, smallest_face_px: int) -> None:
        """Pictures are looked at no larger than a face of `smallest_face_px` needs."""
        self._cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))
        if self._cascade.empty():
            raise DeviceError("OpenCV's cascade file is missing; install opencv-python-headless below version 5")
        self._smallest_face_px = smallest_face_px

    def __call__(self, frame: Frame) -> tuple[Face, ...]:
        """The faces, each with a score of 1: the cascade gives none."""
        height, width = frame.image_HWC.shape[:2]
        small, scale = _shrink(frame.image_HWC, input_width(height, width, self._smallest_face_px))
        boxes = self._cascade.detectMultiScale(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), 1.1, 4, minSize=(RESOLVED_PX, RESOLVED_PX))
        return tuple(Face(Box(x / scale, y / scale, w / scale, h / scale), 1.0) for x, y, w, h in np.asarray(boxes, float).reshape(-1, 4).tolist())


def _shrink(image: Image, width_px: int) -> tuple[Image, float]:
    """The picture, at most `width_px` wide, and its scale."""
    height, width = image.shape[:2]
    if width <= width_px:
        return image, 1.0
    scale = width_px / width
    return cv2.resize(image, (width_px, max(1, round(height * scale))), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False), scale
