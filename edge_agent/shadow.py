"""Two models on the same frames: what the second would have made of what the first one saw, and what it would have cost."""

import time
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from edge_agent.load import Eyes
from edge_agent.pipeline import Seen
from edge_agent.scene import Face, Frame, Label, Reading
from protocol.rollouts import Kind, Trial

SAME_IOU = 0.35
"""Two boxes that overlap so far are of one face: as in the detectors' scores."""
EVERY = 3
"""Every third frame is looked at twice, so that the frame rate hardly suffers."""


@dataclass(frozen=True)
class Look:
    """What one frame took, in milliseconds, and how many faces it showed."""

    total_ms: float
    faces: int

    @classmethod
    def of(cls, seen: Seen) -> Self:
        return cls(seen.detect_ms + seen.classify_ms + seen.decide_ms, len(seen.readings))


@dataclass
class Shadow:
    """Compares a new model of one kind with the old one. Used from the worker thread; figures may be read from any."""

    kind: Kind
    eyes: Eyes
    """With the new model, guarded."""
    old: list[Look] = field(default_factory=list)
    new: list[Look] = field(default_factory=list)
    """The same frames, with the new model in place of the old."""
    faces: int = 0
    disagreed: int = 0
    _frames: int = 0

    def see(self, frame: Frame, seen: Seen) -> None:
        """Looks at a frame again; raises Rejected when the new model answers no number, DeviceError when it fails."""
        self._frames += 1
        if self._frames % EVERY:
            return
        start = time.perf_counter()
        if self.kind == "detector":
            faces = self.eyes.detect(frame)
            took_ms, replaced_ms = (time.perf_counter() - start) * 1000, seen.detect_ms
            self._compare_faces(tuple(reading.face for reading in seen.readings), faces)
        else:
            readings = self.eyes.classify(frame, tuple(reading.face for reading in seen.readings))
            took_ms, replaced_ms = (time.perf_counter() - start) * 1000, seen.classify_ms
            self._compare_readings(seen.readings, readings)
        look = Look.of(seen)
        self.old.append(look)
        self.new.append(Look(look.total_ms - replaced_ms + took_ms, look.faces))

    def figures(self) -> Trial:
        """What was found so far."""
        return Trial(
            frames=len(self.new),
            faces=self.faces,
            disagreed=self.disagreed,
            latency_p95_ms=p95_ms(self.new),
            latency_p95_before_ms=p95_ms(self.old),
        )

    def _compare_faces(self, old: tuple[Face, ...], new: tuple[Face, ...]) -> None:
        self.faces += len(old)
        self.disagreed += sum(all(face.box.iou(other.box) < SAME_IOU for other in new) for face in old)

    def _compare_readings(self, old: tuple[Reading, ...], new: tuple[Reading, ...]) -> None:
        sure = [(a.label, b.label) for a, b in zip(old, new, strict=True) if Label.UNSURE not in (a.label, b.label)]
        self.faces += len(sure)
        self.disagreed += sum(a != b for a, b in sure)


def p95_ms(looks: list[Look]) -> float | None:
    """The 95th percentile of what frames took; None without frames."""
    return round(float(np.percentile([look.total_ms for look in looks], 95)), 2) if looks else None
