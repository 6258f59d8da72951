"""The CSI path with GStreamer's own sources in the camera's place: the same child process, pipe and watchdog."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from live import listening, running
from rig import lives, missing, wait_until

from edge_agent import capture, gstreamer
from edge_agent.camera_uri import CameraUri
from edge_agent.capture import Camera
from edge_agent.sources import open_source
from protocol.errors import DeviceError, Rejected
from protocol.messages import Health

LIVE = "videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate={fps}/1"
URI = "csi://0?width=320&height=240&fps=30"
TALKS = (
    "videotestsrc is-live=true pattern=solid-color foreground-color=0xff808080"
    " ! video/x-raw,format=BGRx,width={width},height={height},framerate={fps}/1 ! identity dump=true"
)
"""Grey, and each frame is printed on stdout as well: so the Jetson's camera prints what it does."""


@pytest.fixture(autouse=True)
def _gstreamer() -> None:
    if shutil.which(gstreamer.LAUNCH) is None:
        missing(gstreamer.LAUNCH)


@pytest.fixture
def camera() -> Iterator[Callable[..., Camera]]:
    cameras: list[Camera] = []

    def start(csi_source: str = LIVE, uri: str = URI) -> Camera:
        cameras.append(Camera(uri, csi_source))
        cameras[-1].start()
        return cameras[-1]

    yield start
    for own in cameras:
        own.stop()
    assert children() == []


def children(parent: int | None = None) -> list[int]:
    """The pipelines that a process (this one unless named) has started and that still live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, own_parent = rest.split()[:2]
        if int(own_parent) == (parent or os.getpid()) and "gst-launch" in name and state != "Z":
            found.append(int(stat.parent.name))
    return found


def flows(camera: Camera) -> bool:
    return camera.take(0.5) is not None and camera.state().capture == "ok"


def test_frames_have_the_size_and_rate_asked_for(camera) -> None:
    own = camera()
    first = own.take(5)
    assert first.image_HWC.shape == (240, 320, 3)
    start, count = own.state().frames, 0
    end = time.monotonic() + 2
    while time.monotonic() < end:
        count += own.take(0.5) is not None
    assert own.state().frames - start == pytest.approx(60, abs=8)
    assert own.state().got == "320x240 at 30 fps"


def test_a_decoded_file_runs_the_same_path_pixel_for_pixel(camera, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (64, 48))
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)) * 20:
        writer.write(np.full((48, 64, 3), colour, np.uint8))
    writer.release()
    source = open_source(CameraUri.parse("csi://0?width=64&height=48&fps=20"), f"filesrc location={path} ! decodebin ! identity sync=true")
    try:
        pixels = {tuple(int(v > 128) for v in source.read()[24, 32]) for _ in range(10)}
    finally:
        source.close()
    assert pixels <= {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert pixels


def test_a_turned_camera_gives_a_turned_picture(camera) -> None:
    own = camera("videotestsrc is-live=true ! video/x-raw,width={width},height={height} ! videoflip video-direction=90r", URI + "&flip=1")
    assert own.take(5).image_HWC.shape == (320, 240, 3)


def test_a_child_that_dies_comes_back(camera) -> None:
    own = camera()
    assert own.take(5) is not None
    os.kill(children()[0], signal.SIGKILL)
    wait_until(lambda: own.state().restarts == 1)
    assert "ended" in own.state().reason
    assert wait_until(lambda: flows(own)) < 5


def test_a_frozen_child_is_stalled_then_replaced(camera) -> None:
    own = camera()
    assert own.take(5) is not None
    os.kill(children()[0], signal.SIGSTOP)
    assert wait_until(lambda: own.state().capture == "stalled") < 4
    wait_until(lambda: own.state().restarts == 1)
    assert "no frame for" in own.state().reason
    assert wait_until(lambda: flows(own)) < 5
    assert len(children()) == 1


def test_after_a_short_freeze_no_old_frame_is_shown_as_new(camera) -> None:
    """What lay in the pipe and the queue is read and thrown away."""
    source = open_source(CameraUri.parse(URI), LIVE)
    try:
        source.read()
        child = children()[0]
        os.kill(child, signal.SIGSTOP)
        time.sleep(1.5)
        waiting = []
        resume = threading.Timer(0.2, os.kill, (child, signal.SIGCONT))
        resume.start()
        reads = source._read
        source._read = lambda: waiting.append(time.monotonic()) or reads()
        source.read()
        assert len(waiting) == 1 + gstreamer.FRAMES_UNDER_WAY
    finally:
        source.close()


def test_of_a_camera_of_one_frame_a_second_each_frame_is_shown(camera) -> None:
    own = camera(uri=URI.replace("fps=30", "fps=1"))
    assert own.take(10) is not None
    start_s = time.monotonic()
    while own.state().frames < 6:
        assert own.state().capture == "ok"
        time.sleep(0.02)
    assert time.monotonic() - start_s < 6.5


def test_a_child_that_floods_its_errors_is_read_all_the_same(camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GST_DEBUG", "5")
    own = camera()
    for _ in range(20):
        assert own.take(5) is not None


def test_what_a_plugin_prints_is_no_part_of_the_picture() -> None:
    source = open_source(CameraUri.parse("csi://0?width=64&height=48&fps=30"), TALKS)
    try:
        for _ in range(10):
            assert np.ptp(source.read()) == 0
    finally:
        source.close()


def test_what_a_plugin_prints_is_a_reason() -> None:
    source = open_source(CameraUri.parse("csi://0?width=64&height=48&fps=30"), f"{TALKS} eos-after=2")
    try:
        source.read()
        with pytest.raises(DeviceError, match="80 80 80"):
            source.read()
    finally:
        source.close()


def test_of_all_that_a_plugin_prints_its_error_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argus = tmp_path / "gst-launch-argus"
    argus.write_text("#!/bin/sh\nprintf 'GST_ARGUS: Creating output stream\\nError generated. Failed to create CaptureSession\\n'\n")
    argus.chmod(0o755)
    monkeypatch.setattr(gstreamer, "LAUNCH", str(argus))
    source = open_source(CameraUri.parse(URI), LIVE)
    try:
        with pytest.raises(DeviceError, match=r"ended: Error generated\. Failed to create CaptureSession"):
            source.read()
    finally:
        source.close()


@pytest.mark.parametrize("launch", [gstreamer.LAUNCH, "no-such-program"])
def test_no_pipe_is_left_open(monkeypatch: pytest.MonkeyPatch, launch: str) -> None:
    monkeypatch.setattr(gstreamer, "LAUNCH", launch)
    before = os.listdir("/proc/self/fd")
    with contextlib.suppress(DeviceError):
        source = open_source(CameraUri.parse(URI), LIVE)
        assert source.read().shape == (240, 320, 3)
        source.close()
    assert os.listdir("/proc/self/fd") == before


def test_a_silent_pipeline_ends_with_an_agent_that_is_killed() -> None:
    """It would never meet the broken pipe, and would keep the sensor from the next agent."""
    script = """
from edge_agent.camera_uri import CameraUri
from edge_agent.sources import open_source
source = open_source(CameraUri.parse("csi://0?width=64&height=48"), "videotestsrc ! identity sleep-time=1000000000")
print("open", flush=True)
source.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as agent:
        agent.stdout.readline()
        wait_until(lambda: bool(children(agent.pid)))
        (pipeline,) = children(agent.pid)
        agent.kill()
    wait_until(lambda: not lives(pipeline))


def test_a_pipeline_that_cannot_run_says_why(camera) -> None:
    own = camera("nosuchelement")
    wait_until(lambda: own.state().capture == "failed")
    assert "nosuchelement" in own.state().reason
    assert own.take(0) is None


def test_a_child_that_starts_slowly_is_waited_for_and_then_watched(camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "gst-launch-slow"
    slow.write_text(f'#!/bin/sh\nsleep 3\nexec {gstreamer.LAUNCH} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(gstreamer, "LAUNCH", str(slow))
    monkeypatch.setattr(gstreamer, "SILENT_S", 1.5)
    monkeypatch.setattr(capture, "STALLED_S", 1.0)
    monkeypatch.setattr(capture, "HUNG_S", 2.0)
    own, seen = camera(), set()

    def has_frames() -> bool:
        own.watch()
        seen.add(own.state().capture)
        return own.state().frames > 0

    wait_until(has_frames)
    assert own.state().restarts == 0
    assert seen >= {"restarting", "stalled"}  # the silence is said all the same
    os.kill(children()[0], signal.SIGSTOP)
    assert wait_until(lambda: own.state().restarts == 1) < 3
    assert own.state().reason == "no frame for 1.5 s"


def test_what_stays_silent_from_the_start_fails_in_time(camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "START_S", 1.0)
    own = camera("videotestsrc ! valve drop=true")
    assert wait_until(lambda: own.state().capture == "failed") < 10


def test_stopping_ends_a_child_that_is_silent(camera) -> None:
    own = camera("videotestsrc ! valve drop=true")
    wait_until(lambda: len(children()) == 1)
    start_s = time.monotonic()
    own.stop()
    assert children() == []
    assert time.monotonic() - start_s < 1


def test_opening_anew_ends_a_child_that_is_silent(camera) -> None:
    own = camera("videotestsrc ! valve drop=true")
    wait_until(lambda: len(children()) == 1)
    (before,) = children()
    own.restart("asked for")
    wait_until(lambda: len(children()) == 1 and children() != [before], seconds=2)
    assert own.state().restarts == 1


def test_without_gstreamer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "LAUNCH", "no-such-program")
    with pytest.raises(DeviceError, match="apt-get install"):
        open_source(CameraUri.parse(URI), LIVE)


@pytest.mark.parametrize(
    ("uri", "source", "says"),
    [
        ("csi://0?width=322", LIVE, "multiple of 4"),
        ("csi://0?flip=upside", LIVE, "expected a small number"),
        ("csi://0;rm?fps=30", LIVE, "expected a small number"),
        ("csi://0", "src {nothing}", "no such placeholder"),
        ("csi://0", "src {width.nothing}", "no such placeholder"),
        ("csi://0", "src location='unfinished", "csi_source: No closing quotation"),
        ("csi://0?speed=3", LIVE, "unknown option"),
    ],
)
def test_what_cannot_be_is_rejected(uri: str, source: str, says: str) -> None:
    with pytest.raises(Rejected, match=says):
        open_source(CameraUri.parse(uri), source)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (LIVE, []),
        ('videotestsrc ! textoverlay text="Door 1! nosuchtext" ! video/x-raw', []),
        ("videotestsrc ! textoverlay text='!' font-desc=\"Sans ! 12\"!nosuchthing", ["nosuchthing"]),
        ("nosuchsource num-buffers=5 ! tee name=t ! queue ! fakesink t. ! nosuchthing", ["nosuchsource", "nosuchthing"]),
    ],
)
def test_elements_that_are_missing_are_named_and_no_text_is(source: str, names: list[str]) -> None:
    assert gstreamer.missing_elements(source) == names


def test_a_pipeline_without_an_end_of_its_quotes_is_rejected() -> None:
    with pytest.raises(Rejected, match="csi_source: No closing quotation"):
        gstreamer.missing_elements("src location='unfinished")


async def test_a_frozen_camera_is_said_over_mqtt_within_four_seconds(mosquitto, tmp_path: Path) -> None:
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, uri=URI, MASKFLEET_CSI_SOURCE=LIVE) as process:
        await ear.until(lambda ear: ear.of(Health) and ear.of(Health)[-1].capture == "ok")
        os.kill(children(process.pid)[0], signal.SIGSTOP)
        start = time.monotonic()
        await ear.until(lambda ear: ear.of(Health)[-1].capture == "stalled")
        assert time.monotonic() - start < 4
        await ear.until(lambda ear: ear.of(Health)[-1].capture == "ok", seconds=10)
        assert ear.of(Health)[-1].restarts == 1
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
