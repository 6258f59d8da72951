"""Detect, classify and decide for one frame, with the time that each took."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent import decide
from edge_agent.decide import Rules
from edge_agent.detect import Detector
from edge_agent.scene import Face, Frame, Incident, Reading

Classify = Callable[[Frame, tuple[Face, ...]], tuple[Reading, ...]]


@dataclass(frozen=True)
class Seen:
    """What came of one frame."""

    readings: tuple[Reading, ...]
    incidents: tuple[Incident, ...]
    open_incidents: int
    """How many are open after this frame."""
    time_s: float
    """The frame's own time, on the camera's clock."""
    detect_ms: float
    classify_ms: float
    decide_ms: float
    latency_ms: float
    """From capture to decision."""


class Pipeline:
    """The decision path of a camera. It is used from one thread and keeps what was decided so far."""

    def __init__(self, detect: Detector, classify: Classify, rules: Rules) -> None:
        self._detect = detect
        self._classify = classify
        self._rules = rules
        self._state = decide.State()
        self.time_s = 0.0
        """Of the last decision, on the camera's clock."""
        self._seen_s: float | None = None

    def __call__(self, frame: Frame) -> Seen:
        """What a frame shows and what follows from it; raises DeviceError when a model fails."""
        start = time.perf_counter()
        faces = self._detect(frame)
        detected = time.perf_counter()
        readings = self._classify(frame, faces)
        classified = time.perf_counter()
        incidents = self._step(readings, frame.time_s)
        decided = time.perf_counter()
        self._seen_s = time.monotonic()
        return Seen(
            readings=readings,
            incidents=incidents,
            open_incidents=self._state.open_incidents,
            time_s=frame.time_s,
            detect_ms=(detected - start) * 1000,
            classify_ms=(classified - detected) * 1000,
            decide_ms=(decided - classified) * 1000,
            latency_ms=(self._seen_s - frame.captured_s) * 1000,
        )

    def change(self, detect: Detector, classify: Classify) -> None:
        """Sees with other models from the next frame on; what was decided so far stays. To be called from the worker thread."""
        self._detect, self._classify = detect, classify

    def wait(self) -> tuple[Incident, ...]:
        """To be called while no frame comes: nobody is seen, so open incidents end in their time."""
        if self._seen_s is None:
            return ()
        now_s = time.monotonic()
        silent_s, self._seen_s = now_s - self._seen_s, now_s
        self.time_s += silent_s
        self._state, incidents = decide.wait(self._state, self.time_s, self._rules)
        return incidents

    def stop(self) -> tuple[Incident, ...]:
        """Ends all open incidents."""
        self._state, incidents = decide.close_all(self._state, self.time_s)
        return incidents

    @property
    def tracks(self) -> tuple[decide.Track, ...]:
        """The faces that are followed, also those not seen for a moment."""
        return self._state.tracks

    @property
    def open_incidents(self) -> int:
        return self._state.open_incidents

    def _step(self, readings: tuple[Reading, ...], time_s: float) -> tuple[Incident, ...]:
        # A camera that was opened again may start its clock anew; decisions only know time that goes on.
        self.time_s = max(self.time_s, time_s)
        self._state, incidents = decide.step(self._state, readings, self.time_s, self._rules)
        return incidents
