"""Pictures that may leave the camera: small, with the faces of others made unknowable. Off unless the settings switch them on."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from edge_agent.decide import Track
from edge_agent.scene import Box, Frame, Image, Incident, Opened
from protocol.errors import DeviceError, Reason, Rejected

log = logging.getLogger(__name__)

MAX_BYTES = 60_000
WIDEST_PX = 960
"""Of the longer side."""
QUALITIES = (85, 70, 55, 40)
SMALLER = 0.7
"""When no quality makes the picture small enough, its sides are cut to this part."""
HEAD = 1.6
"""What is blurred is so much larger than the face: hair and ears tell who it is, too."""
MOST_ASKED = 4
"""So many pictures of one frame may be asked for."""
ASKED_S = 5.0
"""For so long a picture is wanted: who asked for it does not wait until a camera that dropped is back."""
GRAIN = 2
"""So many grains are left of a face, across and down: fewer than tell anybody from anybody."""


@dataclass(frozen=True)
class Shot:
    """A picture to be sent."""

    id: str
    """The incident's, or that of the command that asked for it."""
    jpeg: bytes


class Snapshots:
    """Takes the pictures that are wanted. `take` belongs to the pipeline's thread, all else may be called from any."""

    def __init__(self, *, on_alert: bool, on_request: bool) -> None:
        self._on_alert = on_alert
        self._on_request = on_request
        self._lock = threading.Lock()
        self._asked: list[tuple[str, float]] = []
        """With `_lock`: ids, and when each was asked for."""

    def ask(self, id_: str) -> None:
        """Wants a picture of the next frame, every face in it blurred; raises Rejected while that is switched off, or too many are wanted."""
        if not self._on_request:
            raise Rejected(Reason.BAD_SETTING, "snapshots on request are off; snapshots.on_request switches them on")
        with self._lock:
            self._asked = self._still_wanted()
            if len(self._asked) >= MOST_ASKED:
                raise Rejected(Reason.BAD_INPUT, f"{MOST_ASKED} snapshots are waiting for a frame")
            self._asked.append((id_, time.monotonic()))

    def forget(self) -> None:
        """Wants none of the pictures that were asked for any more."""
        with self._lock:
            self._asked = []

    def take(self, frame: Frame, incidents: Iterable[Incident], tracks: tuple[Track, ...], boot: str) -> list[Shot]:
        """The pictures of a frame: one for each incident that opened in it, with all other faces blurred, and those that were asked for a moment ago.

        One that cannot be made is logged and left out.
        """
        opened = [one for one in incidents if isinstance(one, Opened)] if self._on_alert else []
        wanted = [(f"{boot}-{incident.seq}", [track.box for track in tracks if track.number != incident.track]) for incident in opened]
        with self._lock:
            asked, self._asked = self._still_wanted(), []
        wanted += [(id_, [track.box for track in tracks]) for id_, _ in asked]
        shots = []
        for id_, blurred in wanted:
            try:
                shots.append(Shot(id_, picture(frame.image_HWC, blurred)))
            except (DeviceError, cv2.error) as error:  # detection goes on
                log.error("snapshot %r: %s", id_, " ".join(str(error).split()))  # noqa: TRY400
        return shots

    def _still_wanted(self) -> list[tuple[str, float]]:
        now_s = time.monotonic()
        return [(id_, asked_s) for id_, asked_s in self._asked if now_s - asked_s <= ASKED_S]


def picture(image_HWC: Image, blurred: Iterable[Box]) -> bytes:
    """A JPEG of at most MAX_BYTES, in which the boxes are blurred."""
    image = image_HWC.copy()
    for box in blurred:
        blur(image, box)
    height, width = image.shape[:2]
    scale = min(1.0, WIDEST_PX / max(height, width))
    while True:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        for quality in QUALITIES:
            is_done, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if not is_done:
                raise DeviceError("the picture cannot be written as JPEG")
            if jpeg.size <= MAX_BYTES:
                return jpeg.tobytes()
        scale *= SMALLER


def blur(image_HWC: Image, box: Box) -> None:
    """Leaves a few grains of the head around a face, in place."""
    (x, y), half = box.centre, box.size * HEAD / 2
    part = image_HWC[max(0, round(y - half)) : max(0, round(y + half)), max(0, round(x - half)) : max(0, round(x + half))]
    if part.size:
        grains = cv2.resize(part, (GRAIN, GRAIN), interpolation=cv2.INTER_AREA)
        np.copyto(part, cv2.resize(grains, part.shape[1::-1], interpolation=cv2.INTER_LINEAR))
