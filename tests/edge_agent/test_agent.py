"""The agent as a process, against a real mosquitto, listened to by an ordinary MQTT client."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
from live import listening, running

from edge_agent.demo_scene import DemoScene
from edge_agent.outbox import Outbox
from edge_agent.publish import REPLAYED_S
from protocol.messages import Alert, Birth, Health, IncidentEnded, NoMask, Status, Telemetry


async def test_one_alert_then_a_clean_stop_that_ends_it(mosquitto, tmp_path: Path) -> None:
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path) as process:
        await ear.until(lambda ear: ear.of(Alert) and len(ear.of(Telemetry)) >= 2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await ear.until(lambda ear: ear.of(Status) and ear.of(Status)[-1].value == "offline")
    (alert,), (ended,) = ear.of(Alert), ear.of(IncidentEnded)
    assert (alert.id, alert.replayed) == (ended.id, False)
    assert ended.ended == "stopped"
    assert alert.p_no_mask > 0.9
    assert [state.value for state in ear.of(NoMask)] == ["OFF", "ON", "OFF"]
    assert ear.of(Birth)[0].camera_asked == "demo:"
    assert ear.of(Health)[-1].capture == "ok"
    telemetry = ear.of(Telemetry)[-1]
    assert telemetry.fps_capture == pytest.approx(15, rel=0.3)
    assert telemetry.fps_processed <= telemetry.fps_capture + 1
    assert telemetry.model.startswith("gate")
    assert telemetry.faces > 0.9
    assert 20 < telemetry.memory_mb < 400


async def test_an_agent_under_a_new_name_warns_of_what_waits_under_the_old_one(mosquitto, tmp_path: Path) -> None:
    box = Outbox(tmp_path / "state" / "maskfleet.home.before.sqlite")
    box.put(Alert(id="1", boot="b", seq=1, started="2026-01-01T00:00:00Z", p_no_mask=0.9, votes="5/5", faces=1, model="m"))
    box.close()
    async with running(mosquitto, tmp_path) as process, asyncio.timeout(60):
        while b"messages of maskfleet.home.before wait there" not in (line := await process.stderr.readline()):
            assert line


def stored(tmp_path: Path) -> int:
    """How many messages wait in the outbox: in a copy of it, for the agent keeps it to itself."""
    copy = shutil.copytree(tmp_path / "state", tmp_path / "copy", dirs_exist_ok=True) if (tmp_path / "state").is_dir() else tmp_path
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(copy / "maskfleet.home.door.sqlite")) as db:
        return int(db.execute("SELECT count(*) FROM outbox").fetchone()[0])
    return 0


async def test_alerts_of_an_outage_arrive_after_it_in_order_and_marked(mosquitto, tmp_path: Path) -> None:
    mosquitto.stop()
    async with running(mosquitto, tmp_path):
        async with asyncio.timeout(60):  # the alert at about 1 s and its end at about 8 s happen while nobody listens
            while stored(tmp_path) < 2:
                await asyncio.sleep(0.5)
        await asyncio.sleep(2.5)
        mosquitto.start()
        async with listening(mosquitto) as ear:
            await ear.until(lambda ear: ear.of(IncidentEnded))
    said = [message for message in ear.heard if isinstance(message, Alert | IncidentEnded)]
    assert [type(message) for message in said[:2]] == [Alert, IncidentEnded]
    assert said[0].id == said[1].id
    assert said[0].replayed
    assert said[0].delay_s > said[1].delay_s > 2


async def test_alerts_survive_kill_9(mosquitto, tmp_path: Path) -> None:
    mosquitto.stop()
    async with running(mosquitto, tmp_path) as process:
        async with asyncio.timeout(60):
            while stored(tmp_path) < 1:
                await asyncio.sleep(0.5)
        process.kill()
        await process.wait()
    await asyncio.sleep(REPLAYED_S)
    mosquitto.start()
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path):
        await ear.until(lambda ear: len(ear.of(Alert)) >= 2)
        await ear.until(lambda ear: ear.of(IncidentEnded))
    first, second = ear.of(Alert)[:2]
    assert (ear.of(IncidentEnded)[0].id, ear.of(IncidentEnded)[0].ended) == (first.id, "restarted")
    assert first.replayed
    assert first.boot != second.boot
    assert not second.replayed


async def test_two_agents_greet_again_after_a_broker_restart(mosquitto, tmp_path: Path) -> None:
    async with running(mosquitto, tmp_path), running(mosquitto, tmp_path, MASKFLEET_CAMERA="door-2"):
        async with listening(mosquitto) as ear:
            await ear.until(lambda ear: len({birth.boot for birth in ear.of(Birth)}) == 2)
        mosquitto.stop(signal.SIGKILL)
        await asyncio.sleep(0.5)
        mosquitto.start()
        async with listening(mosquitto) as ear:
            await ear.until(lambda ear: len({birth.boot for birth in ear.of(Birth) if birth.session > 1}) == 2)
            await ear.until(lambda ear: [status.value for status in ear.of(Status)].count("online") >= 2)


async def test_a_camera_that_is_not_there_is_said_over_mqtt(mosquitto, tmp_path: Path) -> None:
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, uri="v4l2:///dev/video99") as process:
        await ear.until(lambda ear: any(health.capture in ("restarting", "failed") and "plugged in" in health.reason for health in ear.of(Health)))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_between_two_slow_pictures_nobody_leaves(mosquitto, tmp_path: Path) -> None:
    """At one picture a second, each comes long after `lost_s`."""
    cv2.imwrite(str(tmp_path / "bare.png"), DemoScene().at(3.0))
    rules = {"LOST_S": "0.3", "AGE_S": "1", "VOTES_NEEDED": "2", "VOTES_KEPT": "3"}
    variables = {f"MASKFLEET_DECIDE__{name}": value for name, value in rules.items()}
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, f"images:{tmp_path}?fps=1&loop=1", **variables) as process:
        await ear.until(lambda ear: ear.of(Alert))
        await asyncio.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await ear.until(lambda ear: ear.of(IncidentEnded))
    assert [ended.ended for ended in ear.of(IncidentEnded)] == ["stopped"]


async def test_a_folder_whose_name_is_no_text_is_a_camera(mosquitto, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"dir-\xff")
    folder.mkdir()
    (folder / "a.png").write_bytes(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, uri=f"images:{folder}") as process:
        assert await asyncio.wait_for(process.wait(), 20) == 0
        await ear.until(lambda ear: ear.of(Birth))
    assert ear.of(Birth)[0].camera_asked == f"images:{tmp_path}/dir-?"


@pytest.mark.parametrize("detector", ["shipped", "yunet"])
async def test_a_clip_of_bare_faces_that_mask_themselves(mosquitto, tmp_path: Path, data: Path, detector: str) -> None:
    """One alert for each of the four people, and one more for him who takes his mask off again; each ends."""
    model = str(data / "models" / "face_detection_yunet_2023mar.onnx") if detector == "yunet" else detector
    uri = f"file:{data / 'videos' / 'four_people_put_on_masks.mp4'}?pace=max"
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, uri, MASKFLEET_DETECT__MODEL=model) as process:
        assert await asyncio.wait_for(process.wait(), 60) == 0
        await ear.until(lambda ear: ear.of(Status) and ear.of(Status)[-1].value == "offline")
    assert len(ear.of(Alert)) == 5
    assert sorted(alert.id for alert in ear.of(Alert)) == sorted(ended.id for ended in ear.of(IncidentEnded))
    assert [ended.ended for ended in ear.of(IncidentEnded)] == ["mask_on"] * 5


@pytest.mark.parametrize(("clip", "alerts"), [("one_person_masked.mp4", 0), ("one_person_unmasked.mp4", 1)])
async def test_a_clip_of_one_person(mosquitto, tmp_path: Path, data: Path, clip: str, alerts: int) -> None:
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, f"file:{data / 'videos' / clip}?pace=max") as process:
        assert await asyncio.wait_for(process.wait(), 60) == 0
        await ear.until(lambda ear: ear.of(Status) and ear.of(Status)[-1].value == "offline")
    assert (len(ear.of(Alert)), len(ear.of(IncidentEnded))) == (alerts, alerts)


async def test_a_camera_that_comes_while_the_broker_was_never_there(mosquitto, tmp_path: Path) -> None:
    mosquitto.stop()
    async with running(mosquitto, tmp_path) as process:
        await asyncio.sleep(4)
        assert process.returncode is None
        mosquitto.start()
        async with listening(mosquitto) as ear:
            await ear.until(lambda ear: ear.of(Alert) and ear.of(Birth))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_camera_that_never_answers_does_not_hold_up_the_stop(mosquitto, tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, uri=f"rtsp://127.0.0.1:{port}/x") as process:
        await ear.until(lambda ear: ear.of(Status) and ear.of(Status)[-1].value == "online")
        await asyncio.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
    server.close()
