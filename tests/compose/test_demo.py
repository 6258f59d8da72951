import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from greetings import CAMERA, broker

from compose import demo_rollout
from edge_agent.demo_scene import BARE_S, MASKED_S
from edge_agent.load import shipped
from protocol.link import Link
from protocol.release import MANIFEST_FILE, Manifest

MODEL = Manifest.parse((shipped("classifier") / MANIFEST_FILE).read_bytes()).name


def maskfleet(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "compose", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def test_the_demo_shows_an_alert_that_ends_when_the_mask_goes_on() -> None:
    done = maskfleet("demo", "--seconds", 20)
    assert done.returncode == 0, done.stderr
    alerts = [(float(at), id_) for at, id_ in re.findall(r"^ *([\d.]+) s .*ALERT .*, (\S+)$", done.stdout, re.MULTILINE)]
    ends = {id_: (float(at), how) for at, how, id_ in re.findall(r"^ *([\d.]+) s .*INCIDENT +ended \((\w+)\) .*, (\S+)$", done.stdout, re.MULTILINE)}
    assert len(alerts) == 2
    assert {id_ for _, id_ in alerts} == set(ends)
    assert alerts[0][0] < BARE_S
    assert ends[alerts[0][1]][1] == "mask_on"
    assert BARE_S <= ends[alerts[0][1]][0] < BARE_S + 2
    assert all(not BARE_S + 1 < at < BARE_S + MASKED_S for at, _ in alerts)
    assert "telemetry" in done.stdout
    assert done.stderr == ""
    assert "mosquitto_sub" in done.stdout


def test_the_demo_rolls_a_release_out_and_calls_another_back_while_the_camera_goes_on() -> None:
    process = subprocess.Popen([sys.executable, "-m", "compose", "demo", "--seconds", "120"], stdout=subprocess.PIPE, text=True)
    lines = []
    while f"{MODEL} 3: rolled_back" not in (lines[-1] if lines else ""):
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    said = re.findall(rf"update +({MODEL} \d): (\w+)", "".join(lines))
    for state in ("fetching", "verifying", "testing", "shadow", "trial"):
        assert (f"{MODEL} 2", state) in said
        assert (f"{MODEL} 3", state) in said
    assert said.index((f"{MODEL} 2", "committed")) < said.index((f"{MODEL} 3", "trial"))
    first, last = (next(n for n, text in enumerate(lines) if f"{MODEL} 2: {state}" in text) for state in ("shadow", "committed"))
    assert any(re.search(r"telemetry [1-9]", text) for text in lines[first:last])  # frames go on while the models are exchanged
    assert "1 committed, 1 rolled back" in rest.splitlines()[-1]


def test_the_demo_counts_as_json_on_a_broker_of_ones_own(mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFLEET_CAMERA", "front")  # a camera's own settings do not change the demo
    done = maskfleet("demo", "--seconds", 5, "--broker", mosquitto.url, "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["alerts"] == counts["incidents"] == 1
    assert counts["telemetry"] >= 1
    assert counts["rolled_back"] == 0
    assert mosquitto.retained() == []
    assert "ignored" not in done.stderr


@pytest.mark.parametrize(("broker", "says"), [("localhost", "broker URL"), ("mqtt://127.0.0.1:9", "Connection refused")])
def test_a_broker_that_is_not_there_is_one_line(broker: str, says: str) -> None:
    done = maskfleet("demo", "--broker", broker)
    assert done.returncode == 1
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_demo_as_its_time_would() -> None:
    process = subprocess.Popen([sys.executable, "-m", "compose", "demo"], stdout=subprocess.PIPE, text=True)
    lines = []
    while "ALERT" not in (lines[-1] if lines else ""):
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "ended (stopped)" in rest
    assert rest.splitlines()[-1].startswith("1 alerts, 1 incidents")


async def test_a_release_that_cannot_be_written_is_one_line(mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(demo_rollout, "sign_release", full)
    said: list[str] = []
    async with Link(broker(mosquitto), "demo") as link:
        await link.wait_online()
        await demo_rollout.Rollouts(broker(mosquitto), CAMERA, tmp_path, Ed25519PrivateKey.generate(), said.append).run(link)
    assert said == ["rollout: No space left on device"]
