"""A face detector in YuNet's format (Wu, Peng and Yu, 2023): picture in, faces out.

The network says, for each place of three grids, how sure it is that a face is there and where its edges are. Which runtime
computes that is not this file's business; how its answers become boxes is.
"""

import math
from collections.abc import Iterable, Sequence
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
NEAR_PX, OVERVIEW_PX = 192, 384
"""A face of more than so many pixels is larger than what the network sees around a place, and may be taken for several or for none. So a picture
that is looked at with twice as many as the second on its longer side, or more, is also looked at with that many, and near faces are
taken from there: docs/detectors.md."""
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
        self._picture_size = (0, 0)
        try:
            self._places = [network.outputs.index(name) for name in OUTPUTS]
            self(Frame(np.zeros((SMALLEST_SIDE_PX, SMALLEST_SIDE_PX, 3), np.uint8), 0.0, 0.0))
        except (ValueError, IndexError, DeviceError) as error:
            raise Rejected(Reason.BAD_INPUT, f"not a network in YuNet's format ({error})") from None

    def __call__(self, frame: Frame) -> tuple[Face, ...]:
        """The faces, best first; raises DeviceError when the network fails, Rejected when it gives scores that are no numbers."""
        if self._picture_size != frame.image_HWC.shape[:2]:
            self._prepare(*frame.image_HWC.shape[:2])
        small = self._canvas.shrink(frame.image_HWC)
        faces = self._look(self._canvas, small, 1.0)
        if self._overview is None:
            return faces
        overview = self._look(self._overview, small, self._canvas.scale)
        return with_near(faces, overview, NEAR_PX / self._canvas.scale)

    def _prepare(self, height: int, width: int) -> None:
        self._picture_size = (height, width)
        self._canvas = Canvas(height, width, input_width(height, width, self._smallest_face_px))
        height, width = self._canvas.shown_size
        is_large = max(height, width) >= 2 * OVERVIEW_PX
        self._overview = Canvas(height, width, max(1, round(width * OVERVIEW_PX / max(height, width)))) if is_large else None

    def _look(self, canvas: "Canvas", image_HWC: Image, scale: float) -> tuple[Face, ...]:
        """The faces that the network sees in a picture that was shrunk by `scale`, in pixels of what it was shrunk from."""
        answers = self._network.run(canvas.draw(image_HWC))
        return faces_of([answers[place] for place in self._places], canvas.blob_1CHW.shape[3], self._score, canvas.scale * scale)


class Canvas:
    """What the network looks at: kept buffers that a picture is shrunk into.

    Fresh memory for each frame would cost more than the shrinking: the system clears each new page.
    """

    def __init__(self, height: int, width: int, width_px: int) -> None:
        """For pictures of `height` x `width`, looked at `width_px` wide; filled up to whole strides, so that no face is stretched."""
        self.scale = width_px / width
        self.shown_size = (max(1, round(height * self.scale)), width_px)
        filled = [max(SMALLEST_SIDE_PX, side + -side % STRIDES[-1]) for side in self.shown_size]
        self._small: Image = np.empty((*self.shown_size, 3), np.uint8)
        self._plane = np.empty(self.shown_size, np.uint8)
        self.blob_1CHW = np.zeros((1, 3, *filled), np.float32)
        self._shown_CHW = self.blob_1CHW[0, :, : self.shown_size[0], : self.shown_size[1]]

    def draw(self, image_HWC: Image) -> NDArray[np.float32]:
        """The picture as the network takes it: BGR, 0 to 255, [1, 3, H, W]; valid until the next call."""
        small = self.shrink(image_HWC)
        for channel, shown in enumerate(self._shown_CHW):
            np.copyto(shown, cv2.extractChannel(small, channel, self._plane))
        return self.blob_1CHW

    def shrink(self, image_HWC: Image) -> Image:
        """The picture in the size in which it is looked at; valid until the next call."""
        if image_HWC.shape[:2] == self.shown_size:
            return image_HWC
        return cv2.resize(image_HWC, self.shown_size[::-1], dst=self._small, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def with_near(faces: Iterable[Face], overview: Sequence[Face], near_px: float) -> tuple[Face, ...]:
    """What is seen in a picture and in its overview, best first.

    Faces from a size on are the overview's, and what lies in one is a piece of it: unless the overview, too, sees a smaller face there.
    """
    near = [face for face in overview if face.box.size >= near_px]
    smaller = [face for face in overview if face.box.size < near_px]

    def is_piece(box: Box) -> bool:
        return any(box.shared(one.box) > box.w * box.h / 2 for one in near) and not any(box.iou(one.box) > SAME_FACE for one in smaller)

    others = [face for face in faces if not is_piece(face.box)]
    return tuple(sorted((*near, *others), key=lambda face: face.score, reverse=True))


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
