"""Frame -> Faces. Two detectors: the classic Haar cascade, and any ONNX file in YuNet's format."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.scene import Box, Face, Frame, Image
from protocol.errors import DeviceError, Reason, Rejected

Detector = Callable[[Frame], tuple[Face, ...]]

YUNET_STRIDE = 32
"""Both sides of a YuNet input are multiples of its largest stride."""
SMALLEST_SIDE_PX = 64
"""OpenCV 4.14 computes depthwise convolutions wrongly on maps that are one place wide."""
YUNET_SCORE = 0.6
"""For a network that comes without a manifest."""
RESOLVED_PX = 24
"""A face of this size in the network's input is found nearly as surely as a larger one: docs/detectors.md."""
NARROWEST_PX = 480
"""Below this width there is little time to gain and much to miss."""


def input_width(picture_width: int, smallest_face_px: int) -> int:
    """The width to look at, in pixels: as small as the smallest face that must be seen allows."""
    needed = round(picture_width * RESOLVED_PX / smallest_face_px)
    return min(picture_width, max(NARROWEST_PX, needed))


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
        small, scale = _shrink(frame.image_HWC, input_width(frame.image_HWC.shape[1], self._smallest_face_px))
        boxes = self._cascade.detectMultiScale(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), 1.1, 4, minSize=(RESOLVED_PX, RESOLVED_PX))
        return tuple(Face(Box(x / scale, y / scale, w / scale, h / scale), 1.0) for x, y, w, h in np.asarray(boxes, float).reshape(-1, 4).tolist())


class YuNetDetector:
    """A network in YuNet's format (Wu, Peng and Yu, 2023); OpenCV decodes its outputs and merges overlapping boxes."""

    def __init__(self, model: bytes, smallest_face_px: int, score: float) -> None:
        """`model` is an ONNX file; raises Rejected when it is no such network."""
        self._smallest_face_px = smallest_face_px
        try:
            self._network = cv2.FaceDetectorYN.create(
                "onnx", np.frombuffer(model, np.uint8), np.empty(0, np.uint8), (SMALLEST_SIDE_PX, SMALLEST_SIDE_PX), score_threshold=score
            )
            self._network.detect(np.zeros((SMALLEST_SIDE_PX, SMALLEST_SIDE_PX, 3), np.uint8))
        except cv2.error as error:
            raise Rejected(Reason.BAD_INPUT, f"not a network in YuNet's format ({_first_line(error)})") from None

    def __call__(self, frame: Frame) -> tuple[Face, ...]:
        """The faces, best first; raises DeviceError when the network fails."""
        small, scale = _shrink(frame.image_HWC, input_width(frame.image_HWC.shape[1], self._smallest_face_px))
        height, width = small.shape[:2]
        # Filled up to whole strides at the right and below, so that no face is stretched.
        below, right = (max(SMALLEST_SIDE_PX - side, -side % YUNET_STRIDE) for side in (height, width))
        filled = cv2.copyMakeBorder(small, 0, below, 0, right, cv2.BORDER_CONSTANT)
        try:
            self._network.setInputSize((filled.shape[1], filled.shape[0]))
            _, rows = self._network.detect(filled)
        except cv2.error as error:
            raise DeviceError(f"the detector failed: {_first_line(error)}") from None
        if rows is None:
            return ()
        return tuple(Face(Box(x / scale, y / scale, w / scale, h / scale), s) for x, y, w, h, s in rows[:, [0, 1, 2, 3, 14]].tolist())


class RawNetwork:
    """The same network without the decoding, for its golden test."""

    def __init__(self, model: bytes) -> None:
        """Raises DeviceError when OpenCV cannot load the model."""
        try:
            self._network = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
        except cv2.error as error:
            raise DeviceError(f"the model cannot be loaded: {_first_line(error)}") from None
        self.outputs = list(self._network.getUnconnectedOutLayersNames())

    def run(self, image_1CHW: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """The outputs, in the order of `outputs`; raises DeviceError when the model does not take such a picture."""
        try:
            self._network.setInput(image_1CHW.astype(np.float32))
            return [np.asarray(answer, np.float32) for answer in self._network.forward(self.outputs)]
        except cv2.error as error:
            raise DeviceError(f"the model failed: {_first_line(error)}") from None


def _shrink(image: Image, width_px: int) -> tuple[Image, float]:
    """The picture, at most `width_px` wide, and its scale."""
    height, width = image.shape[:2]
    if width <= width_px:
        return image, 1.0
    scale = width_px / width
    return cv2.resize(image, (width_px, max(1, round(height * scale))), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False), scale


def _first_line(error: cv2.error) -> str:
    return str(error.err).splitlines()[0] if error.err else "OpenCV error"
