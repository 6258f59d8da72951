"""A face detector in YuNet's format (Wu, Peng and Yu, 2023): picture in, faces out.

The network says, for each place of three grids, how sure it is that a face is there and where its edges are. Which runtime
computes that is not this file's business; how its answers become boxes is.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.detect import input_width
from edge_agent.scene import Box, Face, Frame, Image
from protocol.errors import DeviceError, Reason, Rejected

STRIDES = (8, 16, 32)
OUTPUTS = tuple(f"{head}_{stride}" for head in ("cls", "obj", "bbox") for stride in STRIDES)
"""Those that are read; the landmarks are not."""
SMALLEST_SIDE_PX = 64
"""OpenCV 4.14 computes depthwise convolutions wrongly on maps that are one place wide."""
SAME_FACE = 0.3
"""Of two boxes that overlap by more than this (intersection over union) the surer one stays: OpenCV's own choice for YuNet."""

Answer = NDArray[np.float32]


class Network(Protocol):
    """A loaded model, whatever runs it."""

    outputs: list[str]

    def run(self, batch: NDArray[np.float32]) -> list[Answer]:
        """The outputs, in the order of `outputs`; raises DeviceError."""


class YuNetDetector:
    """Finds faces with such a network. It keeps its buffers from call to call, and belongs to one thread."""

    def __init__(self, network: Network, smallest_face_px: int, score: float) -> None:
        """Raises Rejected when it is no such network."""
        self._network = network
        self._smallest_face_px = smallest_face_px
        self._score = score
        self._canvas = Canvas(SMALLEST_SIDE_PX, SMALLEST_SIDE_PX, SMALLEST_SIDE_PX)
        try:
            self._places = [network.outputs.index(name) for name in OUTPUTS]
            self(Frame(np.zeros((SMALLEST_SIDE_PX, SMALLEST_SIDE_PX, 3), np.uint8), 0.0, 0.0))
        except (ValueError, IndexError, DeviceError) as error:
            raise Rejected(Reason.BAD_INPUT, f"not a network in YuNet's format ({error})") from None

    def __call__(self, frame: Frame) -> tuple[Face, ...]:
        """The faces, best first; raises DeviceError when the network fails, Rejected when it gives scores that are no numbers."""
        height, width = frame.image_HWC.shape[:2]
        if (height, width) != self._canvas.picture_size:
            self._canvas = Canvas(height, width, input_width(width, self._smallest_face_px))
        answers = self._network.run(self._canvas.draw(frame.image_HWC))
        return faces_of([answers[place] for place in self._places], self._canvas.blob_1CHW.shape[3], self._score, self._canvas.scale)


class Canvas:
    """What the network looks at: kept buffers that a picture is shrunk into.

    Fresh memory for each frame would cost more than the shrinking: the system clears each new page.
    """

    def __init__(self, height: int, width: int, width_px: int) -> None:
        """For pictures of `height` x `width`, looked at `width_px` wide; filled up to whole strides, so that no face is stretched."""
        self.picture_size = (height, width)
        self.scale = width_px / width
        shown = (max(1, round(height * self.scale)), width_px)
        filled = [max(SMALLEST_SIDE_PX, side + -side % STRIDES[-1]) for side in shown]
        self._small = np.empty((*shown, 3), np.uint8)
        self._plane = np.empty(shown, np.uint8)
        self.blob_1CHW = np.zeros((1, 3, *filled), np.float32)
        self._shown_CHW = self.blob_1CHW[0, :, : shown[0], : shown[1]]

    def draw(self, image_HWC: Image) -> NDArray[np.float32]:
        """The picture as the network takes it: BGR, 0 to 255, [1, 3, H, W]; valid until the next call."""
        small = image_HWC
        if self.scale != 1:
            small = cv2.resize(image_HWC, self._small.shape[1::-1], dst=self._small, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        for channel, shown in enumerate(self._shown_CHW):
            np.copyto(shown, cv2.extractChannel(small, channel, self._plane))
        return self.blob_1CHW


def faces_of(answers: Sequence[Answer], width_px: int, score: float, scale: float) -> tuple[Face, ...]:
    """The faces in a network's answers, best first, in pixels of a picture that was shrunk by `scale` to `width_px`.

    `answers` are those of OUTPUTS. A place's score is the root of class x objectness; its box is the distance of the centre from
    the place, and the logarithms of width and height, all in strides. Raises Rejected when any score is no number.
    """
    boxes: list[tuple[float, float, float, float]] = []
    scores: list[float] = []
    least = score**2
    for level, stride in enumerate(STRIDES):
        cls, obj, bbox = (answers[level + len(STRIDES) * head] for head in range(3))
        squares = (cls * obj).ravel()
        best = squares.max()
        if math.isnan(best):  # it is where any is, and no comparison would tell
            raise Rejected(Reason.NOT_A_NUMBER, "the detector gives a score that is no number")
        if best < least:
            continue
        for place in np.flatnonzero(squares >= least).tolist():
            down, right = divmod(place, width_px // stride)
            x, y, log_w, log_h = bbox.reshape(-1, 4)[place].tolist()
            w, h = math.exp(log_w) * stride, math.exp(log_h) * stride
            boxes.append(((right + x) * stride - w / 2, (down + y) * stride - h / 2, w, h))
            scores.append(math.sqrt(squares[place]))
    kept = np.asarray(cv2.dnn.NMSBoxes(boxes, scores, score, SAME_FACE), int).ravel().tolist()
    return tuple(Face(Box(*(side / scale for side in boxes[index])), scores[index]) for index in kept)
