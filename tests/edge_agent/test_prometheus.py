"""What Prometheus reads from a live agent, in its own parser's eyes."""

import asyncio
import math
import socket
import urllib.request
from pathlib import Path

import pytest
from live import listening, running
from prometheus_client.parser import text_string_to_metric_families
from rig import free_port

from edge_agent.prometheus import FIGURES, Exporter
from protocol.errors import DeviceError
from protocol.messages import Health, Telemetry
from protocol.topics import Address

DOOR = Address("maskfleet", "home", "door")


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert all(sample.labels == {"base": "maskfleet", "site": "home", "camera": "door"} for family in families for sample in family.samples)
    assert all(len(family.documentation.split()) > 2 for family in families), "each says what it is"
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.name.endswith("_created")}


async def test_the_figures_are_those_of_telemetry_and_health(mosquitto, tmp_path: Path) -> None:
    port = free_port()
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, MASKFLEET_PROMETHEUS_PORT=str(port)):
        await ear.until(lambda ear: len(ear.of(Telemetry)) >= 2)
        found = await asyncio.to_thread(scrape, port)
        said = [one.model_dump() for one in ear.of(Telemetry)]
    assert set(found) == {f"maskfleet_{name}" for name in (*FIGURES, "frames_dropped_total", "restarts", "lost", "capture_ok")}
    assert found["maskfleet_capture_ok"] == 1
    for name in FIGURES:
        value = found[f"maskfleet_{name}"]
        assert any(value == one[name] or (one[name] is None and math.isnan(value)) for one in said), name


async def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        with pytest.raises(DeviceError, match="prometheus_port"):
            await Exporter(DOOR, own.getsockname()[1]).__aenter__()


async def test_it_listens_on_this_machine_only_and_ends() -> None:
    port = free_port()
    async with Exporter(DOOR, port) as exporter:
        exporter.note(Health(boot="b", capture="stalled", last_frame_age_s=4, restarts=2, outbox=0, lost=1))
        found = await asyncio.to_thread(scrape, port)
        assert (found["maskfleet_capture_ok"], found["maskfleet_restarts"], found["maskfleet_lost"]) == (0, 2, 1)
        assert exporter._server.server_address[0] == "127.0.0.1"
    with socket.socket() as own:
        assert own.connect_ex(("127.0.0.1", port)) != 0


async def test_dropped_frames_add_up_from_message_to_message() -> None:
    """Whoever asks once a minute would miss most of what is counted anew every ten seconds."""
    figures = dict.fromkeys(FIGURES, 1.0) | {"outbox": 0}
    port = free_port()
    async with Exporter(DOOR, port) as exporter:
        for dropped in (3, 4):
            exporter.note(Telemetry(boot="b", model="m", frames_dropped=dropped, **figures))
        found = await asyncio.to_thread(scrape, port)
    assert found["maskfleet_frames_dropped_total"] == 7


def test_all_figures_of_telemetry_are_there() -> None:
    assert {*FIGURES, "frames_dropped"} == set(Telemetry.model_fields) - {"v", "boot", "model", "power_mode"}


async def test_without_a_port_there_is_nothing() -> None:
    async with Exporter(DOOR, None) as exporter:
        exporter.note(Health(boot="b", capture="ok", last_frame_age_s=0, restarts=0, outbox=0, lost=0))
        assert exporter._server is None
