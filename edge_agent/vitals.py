"""How the device is: what went through since the last look, temperature and memory."""

import contextlib
import os
import time
from pathlib import Path

import numpy as np

from edge_agent.capture import CaptureState
from edge_agent.pipeline import Seen
from protocol.messages import Telemetry

THERMAL = Path("/sys/class/thermal")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Vitals:
    """Collects figures; each look starts a new interval."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._seen: list[Seen] = []
        self._frames = 0
        self._dropped = 0

    def note(self, seen: Seen) -> None:
        """Counts one processed frame."""
        self._seen.append(seen)

    def look(self, capture: CaptureState, boot: str, model: str, outbox: int) -> Telemetry:
        """The figures since the last look."""
        now_s = time.monotonic()
        seconds = max(1e-6, now_s - self._since_s)
        seen, self._seen = self._seen, []
        frames, self._frames = capture.frames - self._frames, capture.frames
        dropped, self._dropped = capture.dropped - self._dropped, capture.dropped
        self._since_s = now_s
        latencies_ms = [one.latency_ms for one in seen]
        return Telemetry(
            boot=boot,
            fps_capture=round(frames / seconds, 2),
            fps_processed=round(len(seen) / seconds, 2),
            frames_dropped=dropped,
            latency_p50_ms=round(float(np.percentile(latencies_ms, 50)), 2) if seen else None,
            latency_p95_ms=round(float(np.percentile(latencies_ms, 95)), 2) if seen else None,
            detect_ms=round(sum(one.detect_ms for one in seen) / len(seen), 2) if seen else None,
            classify_ms=round(sum(one.classify_ms for one in seen) / len(seen), 2) if seen else None,
            faces=round(sum(len(one.readings) for one in seen) / len(seen), 2) if seen else 0,
            temperature_c=temperature_c(),
            memory_mb=round(memory_mb(), 1),
            outbox=outbox,
            model=model,
        )


def temperature_c(thermal: Path = THERMAL) -> float | None:
    """Of the hottest thermal zone; None where there is none."""
    degrees = []
    for zone in thermal.glob("thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            degrees.append(int(zone.read_text()) / 1000)
    return max(degrees, default=None)


def memory_mb(process: Path = Path("/proc/self")) -> float:
    """Resident memory of a process (this one), in units of 1,000,000 bytes."""
    return int((process / "statm").read_text().split()[1]) * PAGE_BYTES / 1e6
