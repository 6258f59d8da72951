"""The figures of telemetry and health for Prometheus: text on this machine's own address, where it is switched on."""

import math
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from protocol.errors import DeviceError
from protocol.messages import Health, Telemetry
from protocol.topics import Address

if TYPE_CHECKING:
    from prometheus_client import Gauge

LOOPBACK = "127.0.0.1"
LABELS = ("base", "site", "camera")
FIGURES = tuple(name for name in Telemetry.model_fields if name not in ("v", "boot", "model", "power_mode"))
COUNTS = ("restarts", "lost")
"""Of health: since the agent started."""


class Exporter:
    """`async with Exporter(address, 9464) as exporter`: whoever asks http://127.0.0.1:9464/metrics meanwhile gets what was noted last.

    Without a port it does nothing.
    """

    def __init__(self, address: Address, port: int | None) -> None:
        self._port = port
        self._labels = (address.base, address.site, address.camera)
        self._gauges: dict[str, Gauge] = {}
        self._server: Any = None

    async def __aenter__(self) -> Self:
        """Raises DeviceError when the library is missing or the port is taken."""
        if self._port is None:
            return self
        try:
            from prometheus_client import CollectorRegistry, Gauge, start_http_server
        except ImportError:
            raise DeviceError("setting prometheus_port: the library is missing: pip install '.[prometheus]' in the repository") from None
        registry = CollectorRegistry()
        texts = {name: Telemetry.model_fields[name].description or name for name in FIGURES}
        texts |= {name: Health.model_fields[name].description or name for name in COUNTS} | {"capture_ok": "1 while the camera gives frames, else 0."}
        self._gauges = {name: Gauge(f"maskfleet_{name}", text, LABELS, registry=registry) for name, text in texts.items()}
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
        if not self._gauges:
            return
        names = FIGURES if isinstance(message, Telemetry) else COUNTS
        for name in names:
            value = getattr(message, name)
            self._gauges[name].labels(*self._labels).set(math.nan if value is None else value)
        if isinstance(message, Health):
            self._gauges["capture_ok"].labels(*self._labels).set(message.capture == "ok")
