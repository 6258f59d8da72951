"""A guard before each model: nothing that is no number is decided on, and it is known which model failed."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

from edge_agent.install import Broken
from edge_agent.load import Eyes
from edge_agent.scene import Face, Frame, Reading
from protocol.errors import DeviceError, Reason, Rejected
from protocol.rollouts import Kind

LARGEST = 3
"""A face that is so many times as large as the picture is none: its crop would take all memory."""


def guarded(eyes: Eyes) -> Eyes:
    """The same eyes, which raise Broken whatever a model dies of, and before anything that is no number, face or probability is decided on."""

    def detect(frame: Frame) -> tuple[Face, ...]:
        with _blamed("detector"):
            faces = eyes.detect(frame)
            largest_px = LARGEST * max(frame.image_HWC.shape[:2])
            for face in faces:
                if not all(map(math.isfinite, (face.box.x, face.box.y, face.box.w, face.box.h, face.score))):
                    raise Rejected(Reason.NOT_A_NUMBER, "the detector gives a face that is no number")
                if face.box.size > largest_px:
                    raise Rejected(Reason.NOT_A_NUMBER, f"the detector gives a face of {face.box.size:.0f} px, {LARGEST} times the picture and more")
            return faces

    def classify(frame: Frame, faces: tuple[Face, ...]) -> tuple[Reading, ...]:
        with _blamed("classifier"):
            return probable(eyes.classify(frame, faces))

    return replace(eyes, detect=detect, classify=classify)


def probable(readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """The same readings; raises Rejected unless each is a probability."""
    if not all(0 <= reading.p_no_mask <= 1 for reading in readings):
        raise Rejected(Reason.NOT_A_NUMBER, "the classifier gives a probability that is no number from 0 to 1")
    return readings


@contextlib.contextmanager
def _blamed(kind: Kind) -> Iterator[None]:
    try:
        yield
    except Rejected as error:
        raise Broken(kind, error.reason, error.detail) from None
    except Exception as error:
        detail = str(error) if isinstance(error, DeviceError) else f"{type(error).__name__}: {error}"
        raise Broken(kind, Reason.CRASHED, detail) from error
