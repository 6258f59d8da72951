"""How the device is: what went through since the last look, temperature, power mode and memory."""

import contextlib
import os
import re
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_agent.capture import CaptureState
from edge_agent.pipeline import Seen
from protocol.messages import Telemetry

THERMAL = Path("sys/class/thermal")
JETSON_MODE, JETSON_MODES = Path("var/lib/nvpmodel/status"), Path("etc/nvpmodel.conf")
ACPI_MODE = Path("sys/firmware/acpi/platform_profile")
ROOT = Path("/")
NO_SENSOR = "PMIC-Die"
"""A Jetson's zone of this type always says 100 degrees."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Vitals:
    """Collects figures; each look starts a new interval."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s = clock()
        self._latencies_ms = array("d")
        self._detect_ms = self._classify_ms = 0.0
        self._faces = 0
        self._frames = 0
        self._dropped = 0

    def note(self, seen: Seen) -> None:
        """Counts one processed frame."""
        self._latencies_ms.append(seen.latency_ms)
        self._detect_ms += seen.detect_ms
        self._classify_ms += seen.classify_ms
        self._faces += len(seen.readings)

    def look(self, capture: CaptureState, boot: str, model: str, outbox: int) -> Telemetry:
        """The figures since the last look."""
        now_s = self._clock()
        seconds = max(1e-6, now_s - self._since_s)
        latencies_ms, processed = self._latencies_ms, len(self._latencies_ms)
        means = [round(total / max(1, processed), 2) for total in (self._detect_ms, self._classify_ms, self._faces)]
        self._latencies_ms, self._detect_ms, self._classify_ms, self._faces = array("d"), 0.0, 0.0, 0
        frames, self._frames = capture.frames - self._frames, capture.frames
        dropped, self._dropped = capture.dropped - self._dropped, capture.dropped
        self._since_s = now_s
        return Telemetry(
            boot=boot,
            fps_capture=round(frames / seconds, 2),
            fps_processed=round(processed / seconds, 2),
            frames_dropped=dropped,
            latency_p50_ms=round(float(np.percentile(latencies_ms, 50)), 2) if processed else None,
            latency_p95_ms=round(float(np.percentile(latencies_ms, 95)), 2) if processed else None,
            detect_ms=means[0] if processed else None,
            classify_ms=means[1] if processed else None,
            faces=means[2],
            temperature_c=temperature_c(),
            power_mode=power_mode(),
            memory_mb=round(memory_mb(), 1),
            outbox=outbox,
            model=model,
        )


def temperature_c(root: Path = ROOT) -> float | None:
    """Of the hottest thermal zone; None where there is none."""
    degrees = []
    for zone in (root / THERMAL).glob("thermal_zone*"):
        if _text(zone / "type").strip() == NO_SENSOR:
            continue
        with contextlib.suppress(OSError, ValueError):
            degrees.append(int((zone / "temp").read_text()) / 1000)
    return max(degrees, default=None)


def power_mode(root: Path = ROOT) -> str | None:
    """What the machine may take: a Jetson's `nvpmodel` by its name, such as `MAXN`, or the ACPI platform profile; None where there is neither."""
    number = re.search(r"pmode:(\d+)", _text(root / JETSON_MODE))
    if number is None:
        return _text(root / ACPI_MODE).strip() or None
    modes: dict[str, str] = dict(re.findall(r"POWER_MODEL ID=(\d+) NAME=(\w+)", _text(root / JETSON_MODES)))
    return modes.get(str(int(number[1])), str(int(number[1])))


def _text(path: Path) -> str:
    """What a file says; nothing when it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def memory_mb(process: Path = Path("/proc/self")) -> float:
    """Resident memory of a process (this one), in units of 1,000,000 bytes."""
    return int((process / "statm").read_text().split()[1]) * PAGE_BYTES / 1e6
