"""What leaves the camera as a picture shows nobody but whom it may."""

import json
import time
from pathlib import Path

import aiomqtt
import cv2
import numpy as np
import pytest
from live import listening, running
from rig import ROOT

from edge_agent.agent import Agent
from edge_agent.demo_scene import DemoScene
from edge_agent.load import load_eyes, load_pipeline
from edge_agent.runtime import Session
from edge_agent.scene import Box, Frame, Opened
from edge_agent.settings import Settings, SnapshotSettings
from edge_agent.snapshot import ASKED_S, MAX_BYTES, WIDEST_PX, Shot, Snapshots, picture
from edge_agent.yunet import YuNetDetector
from protocol.errors import Rejected
from protocol.messages import Alert, Command, CommandAck, Health, Snapshot
from protocol.topics import COMMAND, SNAPSHOT, Address

DOOR = Address("maskfleet", "home", "door")
MODEL = (ROOT / "edge_agent" / "models" / "detector" / "model.onnx").read_bytes()


def faces_in(jpeg: bytes) -> list[Box]:
    """Those that the agent would see."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return [face.box for face in YuNetDetector(Session(MODEL), 48, 0.74)(Frame(image, 0.0, 0.0))]


@pytest.fixture(scope="module")
def two_people() -> np.ndarray:
    """The demo's face twice, side by side."""
    face = DemoScene().at(3.0)
    return np.hstack([face[:, 400:], face[:, 400:]])


@pytest.fixture(scope="module")
def shots(two_people: np.ndarray) -> dict[str, Shot]:
    """What is taken of two people without masks, with everything switched on."""
    settings = Settings()
    pipeline = load_pipeline(settings, load_eyes(settings))
    snapshots = Snapshots(on_alert=True, on_request=True)
    taken: dict[str, Shot] = {}
    for number in range(40):
        frame = Frame(two_people, number / 15, 0.0)
        if number == 39:
            snapshots.ask("mine")
        seen = pipeline(frame)
        taken |= {shot.id: shot for shot in snapshots.take(frame, seen.incidents, pipeline.tracks, "boot")}
    return taken


def test_an_alert_shows_its_own_face_and_no_other(shots: dict[str, Shot]) -> None:
    assert set(shots) == {"boot-1", "boot-2", "mine"}
    seen = [faces_in(shots[f"boot-{seq}"].jpeg) for seq in (1, 2)]
    assert [len(faces) for faces in seen] == [1, 1]
    assert abs(seen[0][0].x - seen[1][0].x) > 200


def test_a_picture_that_was_asked_for_shows_no_face(shots: dict[str, Shot]) -> None:
    assert faces_in(shots["mine"].jpeg) == []


def test_each_that_was_asked_for_before_a_frame_is_taken_of_it(two_people: np.ndarray) -> None:
    snapshots = Snapshots(on_alert=False, on_request=True)
    for name in ("one", "two", "three", "four"):
        snapshots.ask(name)
    with pytest.raises(Rejected, match="waiting"):
        snapshots.ask("five")
    assert [shot.id for shot in snapshots.take(Frame(two_people, 0.0, 0.0), (), (), "b")] == ["one", "two", "three", "four"]
    assert snapshots.take(Frame(two_people, 0.1, 0.1), (), (), "b") == []


def test_what_was_asked_for_long_before_a_frame_is_not_taken_of_it(two_people: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera dropped, or detection was off: nobody waits for that picture any more."""
    snapshots, now_s = Snapshots(on_alert=False, on_request=True), time.monotonic()
    for name in ("one", "two", "three", "four"):
        snapshots.ask(name)
    monkeypatch.setattr(time, "monotonic", lambda: now_s + ASKED_S + 1)
    snapshots.ask("five")  # none of the others waits any more
    assert [shot.id for shot in snapshots.take(Frame(two_people, 0.0, 0.0), (), (), "b")] == ["five"]


async def test_detection_that_is_switched_off_forgets_what_was_asked_for(two_people: np.ndarray, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, snapshots=SnapshotSettings(on_request=True))
    agent = Agent(settings, load_eyes(settings))
    agent._snapshots.ask("mine")
    for is_on in (False, True):
        await agent._detect(Command(id="1", op="detect", args={"on": is_on}))
    assert agent._snapshots.take(Frame(two_people, 0.0, 0.0), (), (), "b") == []
    agent._publisher.close()


def test_without_the_settings_nothing_is_taken(two_people: np.ndarray) -> None:
    snapshots, frame = Snapshots(on_alert=False, on_request=False), Frame(two_people, 0.0, 0.0)
    opened = Opened(seq=1, track=1, started_s=0, confirmed_s=1, p_no_mask=0.9, bare_votes=5, votes=5, faces=2)
    with pytest.raises(Rejected, match="snapshots on request are off"):
        snapshots.ask("mine")
    assert snapshots.take(frame, [opened], (), "boot") == []


@pytest.mark.parametrize("size", [(2160, 3840), (720, 1280), (32, 32)])
def test_even_noise_is_small_enough(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    before = noise.copy()
    assert len(picture(noise, [Box(-10, -10, 30, 30), Box(5000, 0, 10, 10)])) <= MAX_BYTES
    assert (noise == before).all()  # the frame itself is for others too


@pytest.mark.parametrize("size", [(8, 40000), (40000, 8), (70000, 900), (900, 70000), (1, 1200), (1, 1)])
def test_a_strip_is_a_picture_too(size: tuple[int, int]) -> None:
    jpeg = picture(np.full((*size, 3), 200, np.uint8), [Box(0, 0, 10, 10)])
    seen = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert max(seen.shape[:2]) == min(max(size), WIDEST_PX)
    assert min(seen.shape[:2]) >= 1


def test_a_picture_that_cannot_be_made_is_logged_and_left_out(two_people: np.ndarray, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots(on_alert=False, on_request=True)
    encode = cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *asked: (False, None))
    snapshots.ask("first")
    assert snapshots.take(Frame(two_people, 0.0, 0.0), (), (), "b") == []
    assert "snapshot 'first'" in caplog.text
    monkeypatch.setattr(cv2, "imencode", encode)
    snapshots.ask("broken")
    snapshots.ask("good")
    assert snapshots.take(Frame(two_people[:0], 0.0, 0.0), (), (), "b") == []
    assert "snapshot 'good'" in caplog.text
    snapshots.ask("last")
    assert [shot.id for shot in snapshots.take(Frame(two_people, 0.1, 0.1), (), (), "b")] == ["last"]


async def test_alerts_and_requests_bring_pictures(mosquitto, tmp_path: Path) -> None:
    async with listening(mosquitto) as ear, aiomqtt.Client("127.0.0.1", mosquitto.port) as user:
        await user.subscribe(SNAPSHOT.filter(DOOR))
        async with running(mosquitto, tmp_path, MASKFLEET_SNAPSHOTS__ON_ALERT="true", MASKFLEET_SNAPSHOTS__ON_REQUEST="true"):
            await ear.until(lambda ear: ear.of(Alert) and ear.of(Snapshot))
            for id_ in ("mine", "not/mine"):
                await user.publish(COMMAND.build(DOOR), json.dumps({"v": 1, "id": id_, "op": "snapshot"}), qos=1)
            await ear.until(lambda ear: len(ear.of(CommandAck)) == 2 and len(ear.of(Snapshot)) == 2)
        assert [(ack.id, ack.ok) for ack in ear.of(CommandAck)] == [("mine", True), ("not/mine", False)]
        names = [SNAPSHOT.parse((await anext(user.messages)).topic.value).snapshot for _ in range(2)]
        assert names == [ear.of(Alert)[0].id, "mine"]
        assert [len(faces_in(shot.jpeg)) for shot in ear.of(Snapshot)] == [1, 0]


async def test_they_are_off_by_default(mosquitto, tmp_path: Path) -> None:
    async with listening(mosquitto) as ear, aiomqtt.Client("127.0.0.1", mosquitto.port) as user, running(mosquitto, tmp_path):
        await ear.until(lambda ear: ear.of(Alert) and ear.of(Health)[-1].capture == "ok")
        await user.publish(COMMAND.build(DOOR), json.dumps({"v": 1, "id": "1", "op": "snapshot"}), qos=1)
        await ear.until(lambda ear: ear.of(CommandAck))
        assert "snapshots.on_request" in ear.of(CommandAck)[0].reason
        assert ear.of(Snapshot) == []
