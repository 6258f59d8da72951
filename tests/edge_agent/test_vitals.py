"""Each figure of telemetry, under a load that is known: real cameras, the real pipeline."""

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import missing

from edge_agent.capture import Camera
from edge_agent.demo_scene import DemoScene
from edge_agent.gstreamer import LAUNCH
from edge_agent.load import load_eyes
from edge_agent.outbox import Outbox
from edge_agent.pipeline import Pipeline, Seen
from edge_agent.scene import Frame
from edge_agent.settings import Settings
from edge_agent.vitals import Vitals, memory_mb, power_mode, temperature_c
from protocol.messages import IncidentEnded, Telemetry, utc

INTERVAL_S = 2.0
EYES = load_eyes(Settings())


def new_vitals() -> Vitals:
    """By their clock, each look is INTERVAL_S after the last."""
    return Vitals(clock=itertools.count(1000.0, INTERVAL_S).__next__)


def slowed(part: Callable, seconds: float) -> Callable:
    def slow(*arguments: object) -> object:
        time.sleep(seconds)
        return part(*arguments)

    return slow


def pipeline(detect_s: float = 0, classify_s: float = 0) -> Pipeline:
    return Pipeline(slowed(EYES.detect, detect_s), slowed(EYES.classify, classify_s), Settings().decide.rules())


def watch(camera: Camera, see: Pipeline, vitals: Vitals, frames: int = 10**9) -> list[Seen]:
    """What came of the frames of a camera, until they end or so many went through; the vitals know each."""
    seen: list[Seen] = []
    while len(seen) < frames and (frame := camera.take(5)) is not None:
        seen.append(see(frame))
        vitals.note(seen[-1])
    return seen


def look(vitals: Vitals, camera: Camera) -> Telemetry:
    return vitals.look(camera.state(), boot="b", model="door 1", outbox=0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures: two of a face, two of nobody."""
    scene = DemoScene()
    for number in range(4):
        image = scene.at(3.0) if number % 2 else np.full((540, 960, 3), 90, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    return tmp_path


def test_rates_faces_and_times_of_a_folder_of_pictures(pictures: Path) -> None:
    vitals, camera = new_vitals(), Camera(f"images:{pictures}?pace=max")
    camera.start()
    seen = watch(camera, pipeline(detect_s=0.03, classify_s=0.02), vitals)
    said = look(vitals, camera)
    assert len(seen) == 4
    assert (said.fps_capture, said.fps_processed, said.frames_dropped) == (4 / INTERVAL_S, 4 / INTERVAL_S, 0)
    assert said.faces == 0.5
    assert said.detect_ms == pytest.approx(np.mean([one.detect_ms for one in seen]), abs=0.01)
    assert said.detect_ms >= 30
    assert said.classify_ms == pytest.approx(np.mean([one.classify_ms for one in seen]), abs=0.01)
    assert said.classify_ms >= 20
    latencies_ms = [one.latency_ms for one in seen]
    assert min(latencies_ms) >= 50
    assert (said.latency_p50_ms, said.latency_p95_ms) == pytest.approx(tuple(np.percentile(latencies_ms, (50, 95))), abs=0.01)
    assert (said.boot, said.model) == ("b", "door 1")


def test_an_interval_without_frames_has_no_times(pictures: Path) -> None:
    vitals, camera = new_vitals(), Camera(f"images:{pictures}?pace=max")
    camera.start()
    watch(camera, pipeline(), vitals)
    look(vitals, camera)
    said = look(vitals, camera)
    assert (said.fps_capture, said.fps_processed, said.frames_dropped, said.faces) == (0, 0, 0, 0)
    assert {said.latency_p50_ms, said.latency_p95_ms, said.detect_ms, said.classify_ms} == {None}


def test_a_live_camera_that_is_too_fast_for_the_pipeline() -> None:
    if shutil.which(LAUNCH) is None:
        missing(LAUNCH)
    camera = Camera("csi://0?width=320&height=240&fps=60", "videotestsrc is-live=true ! video/x-raw,width={width},height={height},framerate={fps}/1")
    vitals = new_vitals()
    camera.start()
    try:
        watch(camera, pipeline(detect_s=0.05), vitals, frames=15)
    finally:
        camera.stop()
    is_waiting = camera.take(0) is not None
    state, said = camera.state(), look(vitals, camera)
    assert said.fps_processed == 15 / INTERVAL_S
    assert said.fps_capture == state.frames / INTERVAL_S
    assert said.frames_dropped == state.frames - 15 - is_waiting > 0


def test_memory_is_what_the_process_holds() -> None:
    before = memory_mb()
    held = np.ones(100_000_000, np.uint8)
    assert memory_mb() - before == pytest.approx(100, abs=5)
    del held


def test_what_waits_in_the_outbox_is_told(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.sqlite")
    for seq in (1, 2, 3):
        box.put(IncidentEnded(id=f"b-{seq}", boot="b", seq=seq, started=utc(0), duration_s=1, worst_p_no_mask=1, frames=1, ended="left"))
    assert Vitals().look(Camera("demo:").state(), "b", "m", box.depth).outbox == 3
    box.close()


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for number, text in enumerate(("41500\n", "63250\n", "no number")):
        zone = tmp_path / "sys/class/thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    assert temperature_c(tmp_path) == 63.25


def test_a_zone_that_is_no_sensor_does_not_count(tmp_path: Path) -> None:
    for kind, text in {"PMIC-Die": "100000\n", "CPU-therm": "41500\n"}.items():
        zone = tmp_path / "sys/class/thermal" / f"thermal_zone_{kind}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(text)
    assert temperature_c(tmp_path) == 41.5


def test_the_power_mode_of_a_jetson_has_its_name(tmp_path: Path) -> None:
    assert power_mode(tmp_path) is None
    for name, text in {
        "sys/firmware/acpi/platform_profile": "balanced\n",
        "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=5W >\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert power_mode(tmp_path) == "5W"
    (tmp_path / "etc/nvpmodel.conf").unlink()
    assert power_mode(tmp_path) == "1"
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    assert power_mode(tmp_path) == "balanced"


def test_every_field_of_telemetry_is_tried_here() -> None:
    source = Path(__file__).read_text()
    assert [name for name in Telemetry.model_fields if name != "v" and name not in source] == []


def test_latency_counts_from_capture() -> None:
    late = Frame(np.full((540, 960, 3), 90, np.uint8), 0.0, time.monotonic() - 5)
    assert pipeline()(late).latency_ms >= 5000
