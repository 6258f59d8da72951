"""`doctor`: is everything there that a camera needs? One line each, and what to do where it is not."""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from edge_agent.camera_uri import CameraUri
from edge_agent.gstreamer import missing_elements
from edge_agent.installed import KINDS, folder_of, pinned
from edge_agent.load import load_classifier, load_detector
from edge_agent.outbox import Outbox
from edge_agent.prometheus import LOOPBACK, Exporter
from edge_agent.runtime import VERSION as ONNXRUNTIME_VERSION
from edge_agent.settings import Settings
from edge_agent.sources import open_source
from protocol.errors import DeviceError, FleetError, in_one_line
from protocol.link import Link

CONNECT_S = 5.0
EARLIEST_CLOCK_S = 1_750_000_000
"""A clock before this (June 2025) was never set."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    part: str
    is_good: bool
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Looks at each part; a part that fails does not stop the others."""
    checks: dict[str, Callable[[], str]] = {
        "libraries": lambda: f"OpenCV {cv2.__version__}, ONNX Runtime {ONNXRUNTIME_VERSION}",
        "classifier": lambda: _model(load_classifier(settings.classify)[1]),
        "detector": lambda: _model(load_detector(settings.detect)[1]),
        "updates": lambda: _updates(settings),
        "camera": lambda: _camera(settings),
        "gstreamer": lambda: _gstreamer(settings),
        "broker": lambda: asyncio.run(_broker(settings)),
        "disk": lambda: _disk(settings),
        "prometheus": lambda: asyncio.run(_prometheus(settings)),
        "clock": _clock,
    }
    findings = []
    for part, check in checks.items():
        try:
            findings.append(Finding(part, True, check()))
        except FleetError as error:
            findings.append(Finding(part, False, str(error)))
    return findings


def _model(model: object) -> str:
    name, version, digest = (getattr(model, field) for field in ("name", "version", "digest"))
    return f"{name} {version} {digest[:12]}".strip()


def _updates(settings: Settings) -> str:
    keys = settings.updates.owner_keys()
    if not keys:
        return "off: no key in updates.trusted_keys"
    named = [kind for kind in KINDS if kind in pinned(settings)]
    but = f", but no {' and no '.join(named)}: the settings name it" if named else ""
    return f"taken from those who sign with {', '.join(keys)}{but}"


def _camera(settings: Settings) -> str:
    uri = CameraUri.parse(settings.uri)
    try:
        source = open_source(uri, settings.csi_source)
        try:
            image = source.read()
        finally:
            source.close()
    except DeviceError as error:
        raise DeviceError(f"{uri.text}: {error}") from None
    if image is None:
        raise DeviceError(f"{uri.text}: opens, but gives no picture")
    return f"{uri.text}: {source.got}, first picture {image.shape[1]}x{image.shape[0]}"


def _gstreamer(settings: Settings) -> str:
    uri = CameraUri.parse(settings.uri)
    if uri.scheme != "csi":
        return f"not needed by {uri.scheme}: cameras"
    missing = missing_elements(settings.csi_source)
    if missing:
        raise DeviceError(
            f"no element {', '.join(missing)}: nv... come with JetPack, the others with Debian's gstreamer1.0-plugins-base, -good, -bad and -libav"
        )
    return "all elements of the pipeline are there"


async def _broker(settings: Settings) -> str:
    broker = settings.broker.broker()
    place = f"{broker.host}:{broker.port}"
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(broker.host, broker.port)
        writer.close()
    except (OSError, TimeoutError, ValueError) as error:  # the last: a host name that cannot be one
        raise DeviceError(f"{place}: absent: {str(error) or f'no answer in {CONNECT_S:.0f} s'}; is it running, is a firewall in between?") from None
    # Not the camera's own name: that would throw a running agent off the broker.
    async with Link(broker, f"doctor-{time.monotonic_ns()}") as link:
        try:
            async with asyncio.timeout(CONNECT_S):
                await link.wait_online()
        except TimeoutError:
            why = link.problem or "it takes the connection and says nothing"
            raise DeviceError(f"{place}: refused: {why}; are name, password, certificate and mqtt:// or mqtts:// right?") from None
    return f"{place}: connected{' with TLS' if broker.is_tls else ''}"


def _disk(settings: Settings) -> str:
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        # In a folder of its own: what lies beside it may be the outbox of a camera, whatever that is called.
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=settings.state_dir) as probe:
            Outbox(Path(probe) / "outbox.sqlite").close()
        for path in _kept(settings):
            if not os.access(path, os.R_OK | os.W_OK):
                raise DeviceError(f"{path}: may not be read and written by this user; whose is it?")
    except OSError as error:
        raise DeviceError(in_one_line(error)) from None
    return f"{settings.state_dir}: can be written"


def _kept(settings: Settings) -> Iterator[Path]:
    """What an earlier run of this camera left: as another user, perhaps."""
    models = folder_of(settings)
    for ending in (".lock", ".sqlite*"):
        yield from settings.state_dir.glob(settings.address.name + ending)
    yield from (path for path in (models.parent, models) if path.exists())
    yield from models.rglob("*")


async def _prometheus(settings: Settings) -> str:
    if settings.prometheus_port is None:
        return "off: no prometheus_port"
    async with Exporter(settings.address, settings.prometheus_port):
        return f"{LOOPBACK}:{settings.prometheus_port}: can be served"


def _clock() -> str:
    now_s = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s < EARLIEST_CLOCK_S:
        raise DeviceError(f"{shown}: the clock was never set; alerts would carry wrong times (set up NTP)")
    return shown
