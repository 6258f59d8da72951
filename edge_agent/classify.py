"""Frame, Faces -> Readings: all faces of a frame in one batch."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.runtime import Session
from edge_agent.scene import Box, Face, Frame, Image, Label, Reading

MAX_BATCH = 32
"""More faces than this are read in several batches, which bounds memory in a crowd."""


@dataclass(frozen=True)
class Judgement:
    """How a probability becomes a label; the figures come from the release."""

    threshold: float
    unsure: tuple[float, float]

    def label(self, p_no_mask: float) -> Label:
        """Strictly inside the unsure band, or without a number, nothing is said; else the threshold decides."""
        if math.isnan(p_no_mask) or self.unsure[0] < p_no_mask < self.unsure[1]:
            return Label.UNSURE
        return Label.WITHOUT_MASK if p_no_mask >= self.threshold else Label.WITH_MASK


class Classifier:
    """A mask classifier: crops RGB bytes [N, S, S, 3] in, probabilities (masked, bare) [N, 2] out."""

    def __init__(self, session: Session, input_px: int, crop_margin: float, judgement: Judgement) -> None:
        self._session = session
        self._input_px = input_px
        self._crop_margin = crop_margin
        self._judgement = judgement

    def __call__(self, frame: Frame, faces: tuple[Face, ...]) -> tuple[Reading, ...]:
        """One reading for each face, in their order; raises DeviceError when the model fails."""
        readings: list[Reading] = []
        for start in range(0, len(faces), MAX_BATCH):
            some = faces[start : start + MAX_BATCH]
            crops_NHWC = np.empty((len(some), self._input_px, self._input_px, 3), np.uint8)
            for row, face in zip(crops_NHWC, some, strict=True):
                crop(frame.image_HWC, face.box, self._crop_margin, out=row)
            for face, p in zip(some, self._session.run(crops_NHWC)[0][:, 1], strict=True):
                readings.append(Reading(face, float(p), self._judgement.label(float(p))))
        return tuple(readings)


def crop(image_HWC: Image, box: Box, margin: float, out: NDArray[np.uint8]) -> None:
    """Cuts the square of `margin` x the longer side around a box out of a BGR picture, as RGB in `out` [S, S, 3].

    Where the square leaves the picture, edge pixels are repeated: so the training crops were made.
    """
    height, width = image_HWC.shape[:2]
    (x, y), half = box.centre, max(1.0, box.size * margin / 2)
    left, top, right, bottom = round(x - half), round(y - half), round(x + half), round(y + half)
    inside = image_HWC[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if inside.size == 0:
        out[:] = 0
        return
    missing = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    if any(missing):
        inside = cv2.copyMakeBorder(inside, *missing, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
    # Area averaging keeps a face that is shrunk a lot free of aliasing; below that it changes no answer and takes five times as long.
    how = cv2.INTER_AREA if inside.shape[0] >= 2 * out.shape[0] else cv2.INTER_LINEAR
    cv2.cvtColor(cv2.resize(inside, out.shape[1::-1], interpolation=how), cv2.COLOR_BGR2RGB, dst=out)
