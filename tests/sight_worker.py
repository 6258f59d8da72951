"""The agent's worker and its sight, without the agent."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from made_releases import shipped

from edge_agent.capture import CaptureState
from edge_agent.crashes import Crashes
from edge_agent.demo_scene import DemoScene
from edge_agent.load import load_eyes, load_pipeline, with_release
from edge_agent.pipeline import Seen
from edge_agent.scene import Frame
from edge_agent.settings import Settings, UpdateSettings
from edge_agent.sight import Sight
from protocol.rollouts import Kind

FOLDERS: dict[Kind, Path] = {kind: shipped(kind) for kind in ("classifier", "detector")}


SETTINGS = Settings(updates=UpdateSettings(shadow_s=2, trial_s=1))


class Worker:
    """Shows frames of the demo scene to a sight, one after the other, as the agent's worker does."""

    def __init__(self, state: Path, installed: dict[Kind, Path] | None = None) -> None:
        self.crashes = Crashes(state)
        self.eyes = load_eyes(SETTINGS)
        for kind, folder in (installed or {}).items():
            self.eyes = with_release(self.eyes, kind, folder, SETTINGS)
        pipeline = load_pipeline(SETTINGS, self.eyes)
        self.frames = 0
        self.seen: list[Seen] = []
        folders = FOLDERS | (installed or {})
        self.sight = Sight(SETTINGS, self.eyes, pipeline, self.capture, lambda: self.is_detecting, folders, self.crashes)
        self.is_paused = False
        self.is_detecting = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def capture(self) -> CaptureState:
        return CaptureState("ok", "", "", 0.0, 0, self.frames, 0, has_ended=False)

    def _run(self) -> None:
        scene, start_s = DemoScene(), time.monotonic()
        while not self._stop.is_set():
            if self.is_paused or not self.is_detecting:
                time.sleep(0.01)
                self.frames += 1
                continue
            now_s = time.monotonic()
            self.frames += 1
            self.seen.append(self.sight.see(Frame(scene.at(self.frames / 15), now_s - start_s, now_s)))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
