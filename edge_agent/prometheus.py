"""The figures of telemetry and health for Prometheus: text on this machine's own address, where it is switched on."""

import math
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from protocol.errors import DeviceError
from protocol.messages import Health, Telemetry
from protocol.topics import Address

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

LOOPBACK = "127.0.0.1"
LABELS = ("base", "site", "camera")
FIGURES = {
    "fps_capture": "Frames per second that the camera gave, over the last interval of telemetry.",
    "fps_processed": "Frames per second that were processed, over the last interval of telemetry.",
    "latency_p50_ms": "From capture to decision, in milliseconds, over the last interval; NaN when no frame was processed.",
    "latency_p95_ms": "The same, below which 95 of 100 frames are.",
    "detect_ms": "Mean time of detection per frame; NaN when no frame was processed.",
    "classify_ms": "Mean time of classification per frame, all its faces together; NaN when no frame was processed.",
    "faces": "Mean number of faces in a frame.",
    "temperature_c": "Of the hottest thermal zone; NaN where the machine tells none.",
    "memory_mb": "Resident memory of the agent.",
    "outbox": "Messages that wait for the broker.",
}
"""Of telemetry."""
COUNTS = {
    "restarts": "How often the camera was opened anew since the agent started.",
    "lost": "Messages dropped since the agent started: the outbox was full, they were too old, or could not be read.",
}
"""Of health."""


class Exporter:
    """`async with Exporter(address, 9464) as exporter`: whoever asks http://127.0.0.1:9464/metrics meanwhile gets what was noted last.

    Without a port it does nothing.
    """

    def __init__(self, address: Address, port: int | None) -> None:
        self._port = port
        self._labels = (address.base, address.site, address.camera)
        self._gauges: dict[str, Gauge] = {}
        self._dropped: Counter | None = None
        self._server: Any = None

    async def __aenter__(self) -> Self:
        """Raises DeviceError when the library is missing or the port is taken."""
        if self._port is None:
            return self
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
        except ImportError:
            raise DeviceError("setting prometheus_port: the library is missing: pip install '.[prometheus]' in the repository") from None
        registry = CollectorRegistry()
        texts = FIGURES | COUNTS | {"capture_ok": "1 while the camera gives frames, else 0."}
        self._gauges = {name: Gauge(f"maskfleet_{name}", text, LABELS, registry=registry) for name, text in texts.items()}
        dropped = Counter("maskfleet_frames_dropped", "Frames that a newer one replaced before they were processed.", LABELS, registry=registry)
        self._dropped = dropped.labels(*self._labels)
        try:
            self._server, _ = start_http_server(self._port, LOOPBACK, registry)
        except OSError as error:
            raise DeviceError(f"setting prometheus_port: {LOOPBACK}:{self._port}: {error.strerror}") from None
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def note(self, message: Telemetry | Health) -> None:
        """Takes the figures of a message over; what it does not know is not a number."""
        if self._dropped is None:
            return
        names = FIGURES if isinstance(message, Telemetry) else COUNTS
        for name in names:
            value = getattr(message, name)
            self._gauges[name].labels(*self._labels).set(math.nan if value is None else value)
        if isinstance(message, Telemetry):
            self._dropped.inc(message.frames_dropped)
        else:
            self._gauges["capture_ok"].labels(*self._labels).set(message.capture == "ok")
