import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import wait_until
from timed_video import write_timed

from edge_agent import capture, sources
from edge_agent.camera_uri import CameraUri
from edge_agent.capture import Camera, Newest
from edge_agent.scene import Frame, Image
from edge_agent.sources import Source
from protocol.errors import DeviceError, Rejected


def frame(number: int) -> Frame:
    return Frame(np.zeros((1, 1, 3), np.uint8), float(number), 0.0)


@given(st.lists(st.booleans(), max_size=50))
def test_the_newest_is_given_and_the_rest_counted(puts: list[bool]) -> None:
    newest, number, taken = Newest(), 0, 0
    for is_put in puts:
        if is_put:
            number += 1
            newest.put(frame(number))
        elif (got := newest.take(0)) is not None:
            assert got.time_s == number
            taken += 1
    waiting = newest.take(0) is not None
    assert newest.dropped == number - taken - waiting


def test_who_puts_and_waits_drops_nothing() -> None:
    newest = Newest()
    producer = threading.Thread(target=lambda: [newest.put(frame(number), waits=True) for number in range(200)])
    producer.start()
    assert [newest.take(5).time_s for _ in range(200)] == list(range(200))
    producer.join()
    assert newest.dropped == 0


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 20, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), number * 10, np.uint8))
    writer.release()
    return path


@pytest.fixture
def running() -> Iterator[Callable[[str], Camera]]:
    cameras: list[Camera] = []

    def start(uri: str) -> Camera:
        camera = Camera(uri)
        cameras.append(camera)
        camera.start()
        return camera

    yield start
    for camera in cameras:
        camera.stop()


def test_at_full_pace_every_frame_arrives_with_its_media_time(video: Path, running) -> None:
    camera = running(f"file:{video}?pace=max")
    times = []
    while (one := camera.take(5)) is not None:
        times.append(one.time_s)
        time.sleep(0.005)
    assert times == pytest.approx([number / 20 for number in range(20)])
    state = camera.state()
    assert (state.frames, state.dropped, state.has_ended) == (20, 0, True)


def test_a_video_is_played_at_the_times_that_it_tells_and_long_pauses_are_not_sat_out(
    tmp_path: Path, running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "LONGEST_PAUSE_S", 0.5)
    camera = running(f"file:{write_timed(tmp_path / 'a.mkv', [0, 50, 350, 3_600_350, 3_600_400])}")
    frames = [camera.take(5) for _ in range(5)]
    assert [one.time_s for one in frames] == pytest.approx([0, 0.05, 0.35, 3600.35, 3600.4])
    waited_s = [one.captured_s - frames[0].captured_s for one in frames]
    assert waited_s == pytest.approx([0, 0.05, 0.35, 0.85, 0.9], abs=0.1)


def test_at_its_own_pace_a_slow_taker_drops_frames_that_are_counted(video: Path, running) -> None:
    camera = running(f"file:{video}")
    start_s, taken = time.monotonic(), 0
    while (one := camera.take(5)) is not None:
        taken += 1
        time.sleep(0.15)
    assert time.monotonic() - start_s >= 0.9
    state = camera.state()
    assert state.frames == 20
    assert state.dropped == 20 - taken
    assert taken < 20
    del one


def test_a_file_that_does_not_exist_is_rejected_at_once(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no such file"):
        Camera(f"file:{tmp_path}/none.mp4")


def test_a_camera_that_is_not_there_is_tried_again_and_said_to_have_failed(running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "RESTART_CAP_S", 0.05)
    camera = running("v4l2:///dev/video99")
    wait_until(lambda: camera.state().capture == "failed")
    state = camera.state()
    assert "plugged in" in state.reason
    assert state.restarts >= capture.FAILED_AFTER
    assert camera.take(0) is None


def test_silence_is_a_stall(running, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = running("demo:")
    wait_until(lambda: camera.state().capture == "ok")
    monkeypatch.setattr("edge_agent.sources.DemoSource.read", lambda self: time.sleep(1))
    monkeypatch.setattr(capture, "STALLED_S", 0.3)
    wait_until(lambda: camera.state().capture == "stalled")
    assert "no frame for" in camera.state().reason


def test_a_slow_camera_is_not_stalled_between_its_frames(running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FPS", 2)
    monkeypatch.setattr(capture, "STALLED_S", 0.1)
    monkeypatch.setattr(capture, "HUNG_S", 0.1)
    camera = running("demo:")
    wait_until(lambda: camera.state().frames >= 1)
    while camera.state().frames < 4:
        camera.watch()
        assert (camera.state().capture, camera.state().restarts) == ("ok", 0)
        time.sleep(0.01)
    monkeypatch.setattr("edge_agent.sources.DemoSource.read", lambda self: time.sleep(3))
    wait_until(lambda: camera.state().capture == "stalled", seconds=2.5)


def test_stopping_is_quick(running) -> None:
    camera = running("demo:")
    assert camera.take(5) is not None
    start_s = time.monotonic()
    camera.stop()
    camera.take(5)  # the frame that was there may still be taken
    assert camera.take(5) is None
    assert time.monotonic() - start_s < 1


def test_a_first_read_that_hangs_is_a_stall(running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.sources.DemoSource.read", lambda self: time.sleep(2))
    monkeypatch.setattr(capture, "STALLED_S", 0.3)
    camera = running("demo:")
    wait_until(lambda: camera.state().capture == "stalled")


def test_a_camera_that_fails_while_it_is_stopped_is_over(running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        time.sleep(0.3)
        raise DeviceError("gone")

    camera = running("demo:")
    assert camera.take(5) is not None
    monkeypatch.setattr("edge_agent.sources.DemoSource.read", fail)
    camera.stop()
    assert camera.is_over
    camera.take(0)
    assert camera.take(0) is None


def test_readers_that_hang_are_not_piled_up(running, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = running("demo:")
    assert camera.take(5) is not None
    monkeypatch.setattr("edge_agent.sources.DemoSource.read", lambda self: time.sleep(3))
    time.sleep(0.2)
    camera.restart("once")
    with pytest.raises(Rejected, match="is being opened anew already"):
        camera.restart("twice")
    monkeypatch.setattr(capture, "HUNG_S", 0.1)
    time.sleep(0.2)
    with pytest.raises(Rejected, match="still hangs"):
        camera.restart("once more")


def test_a_hang_is_warned_of_once_and_a_second_one_that_lasts_ends_the_agent(running, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr("edge_agent.sources.DemoSource.read", lambda self: goes_on.wait(20))
    for name, seconds in {"STALLED_S": 0.05, "HUNG_S": 0.1, "FIRST_S": 0.1, "LOST_S": 0.5}.items():
        monkeypatch.setattr(capture, name, seconds)
    camera, states = running("demo:"), set()

    def look() -> bool:
        camera.watch()
        states.add((camera.state().capture, camera.state().reason))
        return False

    with pytest.raises(DeviceError, match="camera demo:: two readers hang, the second for 1 s; only a new start ends them"):
        wait_until(look)
    assert ("failed", "an earlier reader of the camera still hangs; restart the agent") in states
    assert caplog.text.count("its read hangs") == 2
    goes_on.set()


def test_readers_that_hang_end_the_agent_in_one_line(tmp_path: Path) -> None:
    """Though their threads cannot be ended."""
    program = (
        "import time; from edge_agent import __main__, capture, sources;"
        "capture.STALLED_S, capture.HUNG_S, capture.FIRST_S, capture.LOST_S = 0.1, 0.2, 0.2, 0.5;"
        "sources.DemoSource.read = lambda self: time.sleep(1000); __main__.main()"
    )
    settings = {"MASKFLEET_STATE_DIR": str(tmp_path), "MASKFLEET_BROKER__URL": "mqtt://127.0.0.1:9", "MASKFLEET_LOG_LEVEL": "ERROR"}
    command = [sys.executable, "-c", program, "run", "--camera", "demo:"]
    ended = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: camera demo:: two readers hang")
    assert ended.stderr.count("\n") == 1


def test_a_camera_that_waits_to_be_tried_again_is_opened_anew_as_often_as_is_asked(running, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[threading.Thread] = []

    def fail(*asked: object) -> Source:
        opened.append(threading.current_thread())
        raise DeviceError("gone")

    monkeypatch.setattr(capture, "open_source", fail)
    monkeypatch.setattr(capture.random, "uniform", lambda *bounds: 100)
    camera = running("demo:")
    for number in range(1, 4):
        wait_until(lambda number=number: len(opened) == number)
        wait_until(lambda: not any(thread.is_alive() for thread in opened[:-1]), seconds=2)
        camera.restart("asked for")


def test_a_broken_recording_fails_at_once(tmp_path: Path, running) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    camera = running(f"images:{tmp_path}")
    wait_until(lambda: camera.is_over)
    assert (camera.state().capture, camera.state().reason) == ("failed", "holds no frame that can be read")


def test_the_last_frame_is_shown_as_long_as_any(tmp_path: Path, running) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    camera = running(f"images:{tmp_path}?fps=2")
    shown_s = camera.take(5).captured_s
    wait_until(lambda: camera.is_over)
    assert time.monotonic() - shown_s >= 0.5


@pytest.mark.parametrize("happens", ["emptied", "deleted", "broken"])
def test_a_looping_folder_is_looked_at_again(tmp_path: Path, running, monkeypatch: pytest.MonkeyPatch, happens: str) -> None:
    monkeypatch.setattr(capture, "RESTART_CAP_S", 0.05)
    folder, picture = tmp_path / "pictures", np.zeros((8, 8, 3), np.uint8)
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture)
    camera = running(f"images:{folder}?fps=50&loop=1")
    wait_until(lambda: camera.state().frames >= 3)
    if happens == "broken":
        (folder / "a.png").write_text("no picture")
    else:
        (folder / "a.png").unlink()
    if happens == "deleted":
        folder.rmdir()
    wait_until(lambda: camera.state().capture == "failed")
    reason = {"emptied": "holds no pictures", "deleted": "no such folder", "broken": "holds no picture that can be read"}[happens]
    assert camera.state().reason.endswith(reason)
    assert not camera.is_over
    before = camera.take(5)
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "b.png"), picture)
    after = camera.take(5)
    assert after.time_s > before.time_s
    wait_until(lambda: camera.state().capture == "ok")


def test_a_looping_video_that_is_replaced_by_nothing_is_looked_at_again(video: Path, running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "RESTART_CAP_S", 0.05)
    camera, whole = running(f"file:{video}?loop=1&pace=max"), video.read_bytes()
    assert camera.take(5) is not None
    video.write_text("no video")
    while camera.state().capture != "failed":
        camera.take(0.1)
    assert camera.state().reason == "cannot be opened"
    video.write_bytes(whole)
    assert camera.take(5) is not None
    assert camera.state().capture == "ok"


def test_a_looping_folder_that_never_held_a_picture_fails_at_once(tmp_path: Path, running) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    camera = running(f"images:{tmp_path}?loop=1")
    wait_until(lambda: camera.is_over)
    assert (camera.state().capture, camera.state().reason) == ("failed", "holds no picture that can be read")


def test_recorded_material_is_not_stalled_at_its_own_pace(video: Path, running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "STALLED_S", 0.1)
    cv2.imwrite(str(video.with_name("a.png")), np.zeros((8, 8, 3), np.uint8))
    camera = running(f"images:{video.parent}?fps=2&loop=1")
    wait_until(lambda: camera.state().frames >= 1)
    while camera.state().frames < 3:
        assert camera.state().capture == "ok"
        time.sleep(0.01)


def test_recorded_material_whose_read_hangs_is_stalled(video: Path, running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "STALLED_S", 0.1)
    camera = running(f"file:{video}?loop=1")
    assert camera.take(5) is not None
    monkeypatch.setattr("edge_agent.sources.VideoSource.read", lambda self: time.sleep(1))
    wait_until(lambda: camera.state().capture == "stalled", seconds=0.9)


def test_a_camera_whose_opening_hangs_is_opened_anew_and_seen(running, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, begun = threading.Event(), []

    def open_source(uri: CameraUri, csi_source: str) -> Source:
        begun.append(threading.current_thread())
        if len(begun) == 1:
            goes_on.wait(20)
        return sources.open_source(uri, csi_source)

    monkeypatch.setattr(capture, "open_source", open_source)
    monkeypatch.setattr(capture, "OPEN_S", 0.1)
    monkeypatch.setattr(capture, "STALLED_S", 0.1)
    monkeypatch.setattr(capture, "FIRST_S", 0.2)
    closed: list[Source] = []

    def close(source: Source) -> None:
        closed.append(source)

    monkeypatch.setattr("edge_agent.sources.DemoSource.close", close)
    camera = running("demo:")
    time.sleep(0.3)
    camera.watch()
    assert camera.take(5) is not None
    goes_on.set()
    wait_until(lambda: len(closed) == 1)
    wait_until(lambda: not begun[0].is_alive())
    assert camera.take(5) is not None


def test_a_slow_opening_and_a_slow_first_read_are_waited_for_and_a_later_hang_is_not(running, monkeypatch: pytest.MonkeyPatch) -> None:
    read = sources.DemoSource.read

    def open_slowly(*asked: object) -> Source:
        time.sleep(0.5)
        return sources.open_source(*asked)

    def read_slowly(source: sources.DemoSource) -> Image:
        time.sleep(0.5)
        monkeypatch.setattr("edge_agent.sources.DemoSource.read", read)
        return read(source)

    monkeypatch.setattr(capture, "open_source", open_slowly)
    monkeypatch.setattr("edge_agent.sources.DemoSource.read", read_slowly)
    monkeypatch.setattr(capture, "STALLED_S", 0.3)
    monkeypatch.setattr(capture, "HUNG_S", 0.4)
    camera = running("demo:")
    while not camera.state().frames:
        camera.watch()
        time.sleep(0.01)
    assert camera.state().restarts == 0
    monkeypatch.setattr("edge_agent.sources.DemoSource.read", lambda self: time.sleep(2))
    wait_until(lambda: camera.watch() or camera.state().restarts == 1, seconds=1.9)
    assert camera.state().reason == "its read hung"


def test_stopping_is_quick_while_the_opening_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(capture, "open_source", lambda *asked: goes_on.wait(20) and sources.open_source(*asked))
    camera = Camera("demo:")
    starting = threading.Thread(target=camera.start)
    starting.start()
    stopping = threading.Thread(target=camera.stop)
    stopping.start()
    starting.join(2)
    assert not starting.is_alive()
    assert camera.is_over
    goes_on.set()
    stopping.join()
