"""What the teacher says at every place of any picture, looked at twice.

Enlarged twofold, a picture shows it small faces as large ones, which it sees better, though there is nothing more to see. A place of
the student is one of the enlarged picture at twice the stride, with the same box in units of that stride.
"""

from functools import reduce
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

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
    return _where(is_small_HW & (enlarged[0] > plain[0]), enlarged, plain)


def _halved(level: Level) -> Level:
    """The surest of each two by two places, as the place between them at twice the stride would say it."""
    first, *others = (_quarter(level, right, down) for down in (0, 1) for right in (0, 1))
    return reduce(lambda surest, other: _where(other[0] > surest[0], other, surest), others, first)


def _quarter(level: Level, right: int, down: int) -> Level:
    """One of each two by two places, its box in units of twice the stride, from the place at the top left."""
    score_HW, bbox_HW4 = (part[down::2, right::2] for part in level)
    middle_HW2 = (bbox_HW4[..., :2] + np.array((right, down), np.float32)) / 2
    return score_HW, np.concatenate([middle_HW2, bbox_HW4[..., 2:] - np.float32(np.log(2))], -1)


def _where(is_first_HW: NDArray[np.bool_], first: Level, second: Level) -> Level:
    return np.where(is_first_HW, first[0], second[0]), np.where(is_first_HW[..., None], first[1], second[1])
