"""What was seen, as plain values. Pictures are BGR bytes [H, W, 3], as OpenCV gives them; boxes are in pixels."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class Label(StrEnum):
    """What a face wears."""

    WITH_MASK = "with_mask"
    WITHOUT_MASK = "without_mask"
    UNSURE = "unsure"


class Ending(StrEnum):
    """Why an incident ended."""

    MASK_ON = "mask_on"
    LEFT = "left"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a camera."""

    image_HWC: Image
    time_s: float
    """On the camera's own clock: media time for files, the monotonic clock for live cameras. Decisions use this one."""
    captured_s: float
    """On the monotonic clock; latency is measured from here."""


@dataclass(frozen=True, slots=True)
class Box:
    """Left, top, width and height in pixels; may reach over the picture's edge."""

    x: float
    y: float
    w: float
    h: float

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.w / 2, self.y + self.h / 2

    @property
    def size(self) -> float:
        """The longer side."""
        return max(self.w, self.h)

    def shared(self, other: "Box") -> float:
        """The area that is in both, in square pixels."""
        width = min(self.x + self.w, other.x + other.w) - max(self.x, other.x)
        height = min(self.y + self.h, other.y + other.h) - max(self.y, other.y)
        return max(0.0, width) * max(0.0, height)

    def iou(self, other: "Box") -> float:
        """The area that is in both, as a part of what they cover together."""
        shared = self.shared(other)
        return shared / (self.w * self.h + other.w * other.h - shared) if shared else 0.0


@dataclass(frozen=True, slots=True)
class Face:
    """Where a detector sees a face."""

    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What the classifier makes of a face."""

    face: Face
    p_no_mask: float
    label: Label


@dataclass(frozen=True, slots=True)
class Opened:
    """An incident is confirmed: somebody wears no mask."""

    seq: int
    """Counts the incidents since the start, from 1."""
    track: int
    started_s: float
    """When the face was first read as bare, on the camera's clock."""
    confirmed_s: float
    p_no_mask: float
    bare_votes: int
    votes: int
    faces: int


@dataclass(frozen=True, slots=True)
class Closed:
    """An incident is over."""

    seq: int
    track: int
    started_s: float
    ended_s: float
    worst_p_no_mask: float
    frames: int
    ending: Ending


Incident = Opened | Closed
