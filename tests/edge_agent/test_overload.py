"""A pipeline that is five times too slow: every frame is accounted for, and none that is looked at is old."""

import time
from pathlib import Path

import cv2
import pytest

from edge_agent.capture import Camera
from edge_agent.demo_scene import DemoScene
from edge_agent.load import load_eyes, load_pipeline
from edge_agent.pipeline import Pipeline
from edge_agent.settings import Settings

FPS, FRAMES, SLOWER = 60, 120, 5


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (960, 540))
    for number in range(FRAMES):
        writer.write(DemoScene().at(3 + number / FPS))
    writer.release()
    return path


def five_times_slower(fast: Pipeline, frame_s: float) -> Pipeline:
    """The pipeline, each look lasting at least five frame times and five times its own."""

    def see(frame):
        start_s = time.monotonic()
        seen = fast(frame)
        time.sleep(SLOWER * max(frame_s, time.monotonic() - start_s))
        return seen

    return see


def test_drops_are_counted_exactly_and_latency_stays_bounded(film: Path) -> None:
    settings = Settings()
    see = five_times_slower(load_pipeline(settings, load_eyes(settings)), 1 / FPS)
    camera, numbers = Camera(f"file:{film}"), []
    camera.start()
    while True:
        captured = camera.state().frames
        frame = camera.take(5)
        if frame is None:
            break
        numbers.append(round(frame.time_s * FPS) + 1)
        # Nothing queues up: it is the newest there was when it was asked for, or newer. (One frame may be counted and not yet handed over.)
        assert numbers[-1] >= captured - 1
        see(frame)
    state = camera.state()
    assert state.frames == FRAMES
    assert state.dropped == FRAMES - len(numbers)
    assert state.dropped > FRAMES / 2
    assert numbers == sorted(set(numbers))
