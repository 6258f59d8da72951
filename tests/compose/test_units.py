"""The units for systemd: what they start is there, and runs as it is written."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import aiomqtt
import pytest
from live import killed_at_last
from rig import ROOT

from trainer import keys

UNITS = ROOT / "compose" / "systemd"


@pytest.mark.parametrize("name", ["agent", "coordinator"])
def test_systemd_takes_the_unit(tmp_path: Path, name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    unit = tmp_path / f"maskfleet-{name}.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (UNITS / unit.name).read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    assert unit.name not in done.stdout + done.stderr


def test_agent_and_coordinator_read_nothing_of_each_other() -> None:
    """Both may run on one machine."""
    texts = [(UNITS / f"maskfleet-{name}.service").read_text() for name in ("agent", "coordinator")]
    for line in (r"^User=(\S+)$", r"^StateDirectory=(\S+)$", r"^#   useradd --system .*?(\S+)     #"):
        assert len({found for text in texts for found in re.findall(line, text, re.MULTILINE)}) == 2, line


async def test_the_coordinators_unit_coordinates(mosquitto, tmp_path: Path) -> None:
    """Only the places and the broker are the test's."""
    state = tmp_path / "state"
    places = {
        "/opt/maskfleet/bin/maskfleet-trainer": f"{sys.executable} -m trainer",
        "/etc/maskfleet/owner.pub": str(keys.new(tmp_path / "owner")[1]),
        "/var/lib/maskfleet-coordinator": str(state),
    }
    text = (UNITS / "maskfleet-coordinator.service").read_text()
    for place, here in places.items():
        assert place in text
        text = text.replace(place, here)
    [command] = re.findall("^ExecStart=(.*)$", text, re.MULTILINE)
    variables = dict(re.findall("^Environment=(.*?)=(.*)$", text, re.MULTILINE))
    variables |= {"MASKFLEET_BROKER__URL": mosquitto.url, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(*command.split(), env=variables, stderr=asyncio.subprocess.DEVNULL)
    async with killed_at_last(process), asyncio.timeout(60), aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.subscribe("maskfleet/coordinator/status", qos=1)
        assert (await anext(client.messages)).payload == b"online"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert (state / "rollouts.sqlite").exists()
