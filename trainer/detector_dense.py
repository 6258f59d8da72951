"""What the teacher says at every place of any picture, looked at twice.

Enlarged twofold, a picture shows it small faces as large ones, which it sees better, though there is nothing more to see. A place of
the student is one of the enlarged picture at twice the stride, with the same box in units of that stride.
"""

from pathlib import Path

import cv2
import numpy as np

from protocol.errors import DeviceError
from trainer.detector_net import OUTPUTS, STRIDES
from trainer.frames import Floats, Image

CLASSES, OBJECTS, BOXES = (tuple(name for name in OUTPUTS if name.startswith(head)) for head in ("cls", "obj", "bbox"))
ASKED = (*CLASSES, *OBJECTS, *BOXES)
ENLARGED_PX = 48
"""What is larger than this in the picture is not looked for in the enlarged one, where the teacher finds more that is no face, and misses faces."""

Level = tuple[Floats, Floats]
"""At one stride: the root of class x objectness, [H, W], and raw boxes, [H, W, 4]."""


class DenseTeacher:
    """A network in YuNet's format, asked what it says at every place instead of what it finds."""

    def __init__(self, path: Path) -> None:
        """Raises DeviceError when OpenCV cannot load the file, or it is no such network."""
        self._path = path
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
            self._levels(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise DeviceError(f"{path}: not a face detector that OpenCV can load ({str(error).splitlines()[0][:120]})") from None

    def __reduce__(self) -> tuple[type["DenseTeacher"], tuple[Path]]:
        """A network of OpenCV cannot be handed to another process; its file can be read again there."""
        return DenseTeacher, (self._path,)

    def look(self, image_HWC: Image) -> tuple[Floats, Floats]:
        """The root of class x objectness, [P], and the raw boxes, [P, 4], of a BGR picture whose sides are multiples of 32.

        P as in `DetectorNet.forward`. At each place the surer answer: of the picture as it is, or enlarged.
        """
        fine, middle, coarse = self._levels(image_HWC)
        finest, *enlarged = self._levels(np.asarray(cv2.resize(image_HWC, None, fx=2, fy=2), np.uint8))
        levels = (_surer(_surer(fine, enlarged[0], 8), _halved(finest), 8), _surer(middle, enlarged[1], 16), coarse)
        return np.concatenate([score_HW.ravel() for score_HW, _ in levels]), np.concatenate([bbox_HW4.reshape(-1, 4) for _, bbox_HW4 in levels])

    def _levels(self, image_HWC: Image) -> list[Level]:
        self._network.setInput(cv2.dnn.blobFromImage(image_HWC))
        answers = dict(zip(ASKED, self._network.forward(ASKED), strict=True))
        height, width = image_HWC.shape[:2]
        return [
            (
                np.asarray(np.sqrt(np.clip(answers[cls] * answers[obj], 0, 1)), np.float32).reshape(height // stride, width // stride),
                np.asarray(answers[bbox], np.float32).reshape(height // stride, width // stride, 4),
            )
            for cls, obj, bbox, stride in zip(CLASSES, OBJECTS, BOXES, STRIDES, strict=True)
        ]


def _surer(plain: Level, enlarged: Level, stride: int) -> Level:
    """At each place what is surer; of the enlarged picture, small boxes alone."""
    is_small_HW = np.exp(enlarged[1][..., 2:].max(-1)) * stride < ENLARGED_PX
    is_surer_HW = is_small_HW & (enlarged[0] > plain[0])
    return np.where(is_surer_HW, enlarged[0], plain[0]), np.where(is_surer_HW[..., None], enlarged[1], plain[1])


def _halved(level: Level) -> Level:
    """The surest of each two by two places, as the place between them at twice the stride would say it."""
    score_HW, bbox_HW4 = level
    bbox_HW4 = bbox_HW4.copy()
    bbox_HW4[:, 1::2, 0] += 1
    bbox_HW4[1::2, :, 1] += 1
    bbox_HW4[..., :2] /= 2
    bbox_HW4[..., 2:] -= np.log(2)
    height, width = score_HW.shape[0] // 2, score_HW.shape[1] // 2
    four_HWQ = score_HW.reshape(height, 2, width, 2).transpose(0, 2, 1, 3).reshape(height, width, 4)
    boxes_HWQ4 = bbox_HW4.reshape(height, 2, width, 2, 4).transpose(0, 2, 1, 3, 4).reshape(height, width, 4, 4)
    surest_HW1 = four_HWQ.argmax(-1)[..., None]
    return np.take_along_axis(four_HWQ, surest_HW1, -1)[..., 0], np.take_along_axis(boxes_HWQ4, surest_HW1[..., None], -2)[..., 0, :]
