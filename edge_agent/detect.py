"""Frame -> Faces. Two detectors: the classic Haar cascade, and any ONNX file in YuNet's format."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edge_agent.scene import Box, Face, Frame, Image
from protocol.errors import DeviceError, Reason, Rejected

Detector = Callable[[Frame], tuple[Face, ...]]

YUNET_STRIDE = 32
"""Both sides of a YuNet input are multiples of its largest stride."""


class HaarDetector:
    """OpenCV's `haarcascade_frontalface_default` (Viola and Jones, 2001). Slow, and blind to most masked faces: a reference."""

    def __init__(self, width_px: int, smallest_face_px: int) -> None:
        """Pictures wider than `width_px` are scaled down to it; faces under `smallest_face_px` of the picture are not looked for."""
        self._cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))
        if self._cascade.empty():
            raise DeviceError("OpenCV's cascade file is missing; install opencv-python-headless below version 5")
        self._width_px = width_px
        self._smallest_face_px = smallest_face_px

    def __call__(self, frame: Frame) -> tuple[Face, ...]:
        """The faces, each with a score of 1: the cascade gives none."""
        small, scale = _shrink(frame.image_HWC, self._width_px)
        smallest = max(20, round(self._smallest_face_px * scale))
        boxes = self._cascade.detectMultiScale(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), 1.1, 4, minSize=(smallest, smallest))
        return tuple(Face(Box(x / scale, y / scale, w / scale, h / scale), 1.0) for x, y, w, h in np.asarray(boxes, float).reshape(-1, 4).tolist())


class YuNetDetector:
    """A network in YuNet's format (Wu, Peng and Yu, 2023); OpenCV decodes its outputs and merges overlapping boxes."""

    def __init__(self, model: Path, width_px: int, smallest_face_px: int, score: float) -> None:
        """Raises Rejected when there is no such file or it is no such network."""
        if not model.is_file():
            raise Rejected(Reason.BAD_SETTING, f"detector {model}: no such file")
        self._model = model
        self._width_px = width_px
        self._smallest_face_px = smallest_face_px
        try:
            self._network = cv2.FaceDetectorYN.create(str(model), "", (YUNET_STRIDE, YUNET_STRIDE), score_threshold=score)
            self._network.detect(np.zeros((YUNET_STRIDE, YUNET_STRIDE, 3), np.uint8))
        except cv2.error as error:
            raise Rejected(Reason.BAD_INPUT, f"detector {model}: not a network in YuNet's format ({_first_line(error)})") from None

    def __call__(self, frame: Frame) -> tuple[Face, ...]:
        """The faces, best first; raises DeviceError when the network fails."""
        small, scale = _shrink(frame.image_HWC, self._width_px)
        height, width = small.shape[:2]
        # Filled up to whole strides at the right and below, so that no face is stretched.
        filled = cv2.copyMakeBorder(small, 0, -height % YUNET_STRIDE, 0, -width % YUNET_STRIDE, cv2.BORDER_CONSTANT)
        try:
            self._network.setInputSize((filled.shape[1], filled.shape[0]))
            _, rows = self._network.detect(filled)
        except cv2.error as error:
            raise DeviceError(f"detector {self._model} failed: {_first_line(error)}") from None
        if rows is None:
            return ()
        faces = (Face(Box(x / scale, y / scale, w / scale, h / scale), s) for x, y, w, h, s in rows[:, [0, 1, 2, 3, 14]].tolist())
        return tuple(face for face in faces if face.box.size >= self._smallest_face_px)


def _shrink(image: Image, width_px: int) -> tuple[Image, float]:
    """The picture, at most `width_px` wide, and its scale."""
    height, width = image.shape[:2]
    if width <= width_px:
        return image, 1.0
    scale = width_px / width
    return cv2.resize(image, (width_px, max(1, round(height * scale))), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False), scale


def _first_line(error: cv2.error) -> str:
    return str(error.err).splitlines()[0] if error.err else "OpenCV error"
