"""Models exchanged under a running camera: real networks, real pictures of the demo scene, a worker thread of their own."""

import asyncio
import contextlib
import dataclasses
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import made_models
import numpy as np
import pytest
from made_releases import Made, shipped

from edge_agent import sight as sight_module
from edge_agent.capture import CaptureState
from edge_agent.crashes import Crashes
from edge_agent.demo_scene import DemoScene
from edge_agent.gate import Gate, judge
from edge_agent.install import Broken
from edge_agent.load import Eyes, load_eyes, load_pipeline, with_release
from edge_agent.pipeline import Seen
from edge_agent.runtime import Session
from edge_agent.scene import Box, Face, Frame, Reading
from edge_agent.settings import Settings, UpdateSettings
from edge_agent.sight import Sight, _last
from edge_agent.yunet import YuNetDetector
from protocol.errors import Reason, Rejected
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


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(sight_module, "BASELINE_S", 0.5)
    own = Worker(tmp_path)
    with own.running():
        yield own


@pytest.mark.parametrize("kind", ["classifier", "detector"])
async def test_the_same_network_agrees_with_itself_and_stays(worker: Worker, tmp_path: Path, kind: Kind) -> None:
    folder = Made(kind, "2", 1).write(tmp_path / "new")
    before = await worker.sight.shadow(kind, folder)
    assert before.faces > 0
    assert before.disagreed == 0
    assert worker.sight.eyes is worker.eyes
    assert before.latency_p95_ms > 0
    *_, trial = [figures async for figures in worker.sight.attempt(kind, folder, before)]
    assert trial.fps_before == before.fps_before
    assert trial.fps > 0
    await worker.sight.settle()
    eyes = worker.sight.eyes
    assert (eyes.classifier if kind == "classifier" else eyes.detector).version == "2"
    frames = worker.frames
    while worker.frames < frames + 3:
        time.sleep(0.01)
    assert worker.sight._used is eyes


@pytest.mark.parametrize(
    ("change", "reason"), [(made_models.nan, Reason.NOT_A_NUMBER), (made_models.improbable, Reason.NOT_A_NUMBER), (made_models.crash, Reason.CRASHED)]
)
async def test_a_model_that_fails_in_the_shadow_never_decides(
    worker: Worker, tmp_path: Path, change: Callable[[bytes], bytes], reason: Reason
) -> None:
    with pytest.raises(Rejected) as caught:
        await worker.sight.shadow("classifier", Made("classifier", "2", 1, change).write(tmp_path / "new"))
    assert caught.value.reason is reason
    assert worker.sight.eyes is worker.eyes


@pytest.mark.parametrize(
    ("change", "reason"), [(made_models.nan, Reason.NOT_A_NUMBER), (made_models.improbable, Reason.NOT_A_NUMBER), (made_models.crash, Reason.CRASHED)]
)
async def test_a_model_that_fails_on_trial_is_gone_before_the_frame_is_over(
    worker: Worker, tmp_path: Path, change: Callable[[bytes], bytes], reason: Reason
) -> None:
    with pytest.raises(Rejected) as caught:
        await anext(worker.sight.attempt("classifier", Made("classifier", "2", 1, change).write(tmp_path / "new"), None))
    assert caught.value.reason is reason
    await worker.sight.restore()
    assert worker.sight.eyes is worker.eyes
    frames = worker.frames
    while worker.frames < frames + 5:
        time.sleep(0.01)
    assert all(reading.p_no_mask == reading.p_no_mask for seen in worker.seen for reading in seen.readings)


async def test_a_model_that_failed_is_not_held_against_the_next_one(worker: Worker, tmp_path: Path) -> None:
    for attempt in (worker.sight.shadow, lambda *release: anext(worker.sight.attempt(*release, None))):
        with pytest.raises(Rejected):
            await attempt("classifier", Made("classifier", "2", 1, made_models.nan).write(tmp_path / "bad"))
        await worker.sight.restore()
        assert (await worker.sight.shadow("classifier", Made("classifier", "3", 2).write(tmp_path / "good"))).disagreed == 0


async def test_a_model_that_fails_after_its_trial_is_told(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is committed: the broker may be away for minutes."""
    good = Made("classifier", "2", 1).write(tmp_path / "new")
    assert [trial async for trial in worker.sight.attempt("classifier", good, None)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await worker.sight.fails()
    bad = worker.sight.eyes

    def breaks(frame: Frame, faces: tuple[Face, ...]) -> tuple[Reading, ...]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(worker.sight, "eyes", dataclasses.replace(bad, classify=breaks))
    async with asyncio.timeout(5):
        with pytest.raises(Rejected, match="out of memory"):
            await worker.sight.fails()


async def test_a_model_that_fails_while_it_is_being_committed_is_known_as_broken(tmp_path: Path) -> None:
    """The journal names it by then: what it says must be what sees."""
    worker = Worker(tmp_path, {"classifier": Made("classifier", "2", 1).write(tmp_path / "old")})

    def breaks(frame: Frame, faces: tuple[Face, ...]) -> tuple[Reading, ...]:
        raise RuntimeError("out of memory")

    with worker.running():
        await anext(worker.sight.attempt("classifier", Made("classifier", "3", 2).write(tmp_path / "new"), None))
        worker.sight.eyes = dataclasses.replace(worker.sight.eyes, classify=breaks)
        async with asyncio.timeout(10):
            with pytest.raises(Rejected, match="out of memory"):
                await worker.sight.fails()
            assert worker.sight.eyes.classifier.version == "2"
            await worker.sight.settle()
            broken = await worker.sight.breaks()
    assert (broken.kind, broken.reason) == ("classifier", Reason.CRASHED)
    assert worker.sight.eyes.classifier.version == load_eyes(SETTINGS).classifier.version


@pytest.mark.parametrize(
    ("change", "reason"), [(made_models.nan, Reason.NOT_A_NUMBER), (made_models.improbable, Reason.NOT_A_NUMBER), (made_models.crash, Reason.CRASHED)]
)
async def test_an_installed_model_that_fails_is_gone_before_the_frame_is_over(
    tmp_path: Path, change: Callable[[bytes], bytes], reason: Reason
) -> None:
    """Golden answers, shadow and trial cannot show all that a camera will ever see."""
    installed: dict[Kind, Path] = {
        "classifier": Made("classifier", "2", 1, change).write(tmp_path / "bad"),
        "detector": Made("detector", "2", 1).write(tmp_path / "good"),
    }
    worker = Worker(tmp_path, installed)
    with worker.running():
        async with asyncio.timeout(10):
            broken = await worker.sight.breaks()
        frames = worker.frames
        while worker.frames < frames + 5:
            time.sleep(0.01)
    assert (broken.kind, broken.reason) == ("classifier", reason)
    assert worker.sight.eyes.classifier.version == load_eyes(SETTINGS).classifier.version
    assert worker.sight.eyes.detector.version == "2", "the other model stays"
    readings = [reading for seen in worker.seen for reading in seen.readings]
    assert readings
    assert all(0 <= reading.p_no_mask <= 1 for reading in readings)


class Sees:
    """The network of the detector that ships, with answers of one head changed once it sees a real picture."""

    def __init__(self, head: str, answer: float) -> None:
        self._session = Session((FOLDERS["detector"] / "model.onnx").read_bytes())
        self.outputs, self._head, self._answer = self._session.outputs, head, answer

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        answers = self._session.run(batch)
        if batch.any():
            for name, answer in zip(self.outputs, answers, strict=True):
                if name.startswith(self._head):
                    answer[:] = self._answer
        return answers


@pytest.mark.parametrize(
    ("head", "answer", "reason", "says"),
    [
        ("cls", math.nan, Reason.NOT_A_NUMBER, "a score that is no number"),
        ("obj", math.nan, Reason.NOT_A_NUMBER, "a score that is no number"),
        ("bbox", math.nan, Reason.NOT_A_NUMBER, "a face that is no number"),
        ("bbox", 6.0, Reason.NOT_A_NUMBER, "a face of .* px, 3 times the picture and more"),
        ("bbox", 1000.0, Reason.CRASHED, "OverflowError"),
    ],
)
def test_an_installed_detector_that_gives_no_numbers_or_huge_faces_is_gone_before_the_frame_is_over(
    tmp_path: Path, head: str, answer: float, reason: Reason, says: str
) -> None:
    worker = Worker(tmp_path, {"detector": Made("detector", "2", 1).write(tmp_path / "bad")})
    worker.sight.eyes = dataclasses.replace(worker.eyes, detect=YuNetDetector(Sees(head, answer), 48, 0.5))
    seen = worker.sight.see(Frame(DemoScene().at(3.0), 0.0, 0.0))
    assert len(seen.readings) == 1, "the one that ships saw it"
    [broken] = worker.sight._broken
    assert (broken.kind, broken.reason) == ("detector", reason)
    assert re.search(says, str(broken))


async def test_an_installed_model_that_hangs_ends_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, exits, is_over = Worker(tmp_path, {"classifier": Made("classifier", "2", 1).write(tmp_path / "old")}), list[int](), threading.Event()

    def hangs(frame: Frame, faces: tuple[Face, ...]) -> tuple[Reading, ...]:
        is_over.wait(20)
        return ()

    monkeypatch.setattr(sight_module.os, "_exit", exits.append)
    monkeypatch.setattr(sight_module, "STUCK_S", 0.5)
    worker.sight.eyes = dataclasses.replace(worker.eyes, classify=hangs)
    with worker.running():
        breaking = asyncio.create_task(worker.sight.breaks())
        async with asyncio.timeout(10):
            while not exits:
                await asyncio.sleep(0.05)
        breaking.cancel()
        is_over.set()
    assert exits[0] == 1
    assert worker.crashes.count() == 1


def test_a_disk_that_stalls_is_no_model_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That an installed model sees is written down first."""
    worker, busy_s = Worker(tmp_path, {"classifier": Made("classifier", "2", 1).write(tmp_path / "old")}), list[float]()

    def stalls() -> None:
        time.sleep(0.01)
        busy_s.append(worker.sight._busy_for_s)

    monkeypatch.setattr(worker.crashes, "sees", stalls)
    worker.sight.see(Frame(DemoScene().at(1), 0.0, 0.0))
    assert busy_s == [0.0]


@pytest.mark.parametrize(("kind", "other"), [("classifier", "detector"), ("detector", "classifier")])
async def test_an_installed_model_that_fails_while_another_is_on_trial_is_not_the_others_fault(tmp_path: Path, kind: Kind, other: Kind) -> None:
    worker = Worker(tmp_path, {kind: Made(kind, "2", 1).write(tmp_path / "old")})

    def breaks(*_: object) -> tuple[()]:
        raise RuntimeError("out of memory")

    def versions(eyes: Eyes) -> dict[Kind, str]:
        return {"classifier": eyes.classifier.version, "detector": eyes.detector.version}

    with worker.running():
        figures = worker.sight.attempt(other, Made(other, "2", 1).write(tmp_path / "new"), None)
        await anext(figures)
        # The eyes on trial and the old ones share the model of the other kind.
        old, change = worker.sight._old, {"classify" if kind == "classifier" else "detect": breaks}
        assert old is not None
        worker.sight._old = dataclasses.replace(old, **change)
        worker.sight.eyes = dataclasses.replace(worker.sight.eyes, **change)
        async with asyncio.timeout(10):
            broken = await worker.sight.breaks()
        worker.sight._check()
        shipped_versions = versions(load_eyes(SETTINGS))
        assert versions(worker.sight.eyes) == {**shipped_versions, other: "2"}, "the trial goes on"
        await worker.sight.restore()
    assert (broken.kind, broken.reason) == (kind, Reason.CRASHED)
    assert versions(worker.sight.eyes) == shipped_versions


async def test_a_detector_on_trial_that_gives_huge_faces_is_to_blame_and_not_the_classifier(worker: Worker, tmp_path: Path) -> None:
    await anext(worker.sight.attempt("detector", Made("detector", "2", 1).write(tmp_path / "new"), None))
    endless = Face(Box(0, 0, 1e12, 1e12), 0.9)
    worker.sight.eyes = dataclasses.replace(worker.sight.eyes, detect=lambda _: (endless,))
    async with asyncio.timeout(10):
        with pytest.raises(Rejected) as caught:
            await worker.sight.fails()
    assert caught.value.reason is Reason.NOT_A_NUMBER
    await worker.sight.restore()
    assert worker.sight.eyes is worker.eyes


def test_a_model_that_ships_and_fails_ends_the_worker(tmp_path: Path) -> None:
    """A new start is all that is left."""
    worker = Worker(tmp_path)

    def breaks(frame: Frame) -> tuple[Face, ...]:
        raise RuntimeError("out of memory")

    worker.sight.eyes = dataclasses.replace(worker.eyes, detect=breaks)
    with pytest.raises(Broken, match="out of memory"):
        worker.sight.see(Frame(DemoScene().at(1), 0.0, 0.0))


async def test_detection_that_is_switched_off_in_a_trial_is_not_the_models_fault(worker: Worker, tmp_path: Path) -> None:
    good = Made("classifier", "2", 1).write(tmp_path / "new")
    before = await worker.sight.shadow("classifier", good)
    trying = asyncio.create_task(_last(worker.sight.attempt("classifier", good, before)))
    await asyncio.sleep(0.5)
    worker.is_detecting = False
    await asyncio.sleep(1)
    assert not trying.done()
    worker.is_detecting = True
    trial = await trying
    judge(trial.model_copy(update={"latency_p95_ms": None}), Gate(fps_share=0.6))


async def test_a_frame_that_hangs_before_the_new_model_saw_any_is_not_its_fault(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(frame: Frame) -> Seen:
        time.sleep(1)
        return pipeline(frame)

    exits: list[int] = []
    monkeypatch.setattr(sight_module.os, "_exit", exits.append)
    monkeypatch.setattr(sight_module, "HUNG_S", 0.2)
    pipeline = worker.sight._pipeline
    monkeypatch.setattr(worker.sight, "_see", slow)
    with pytest.raises(Rejected) as caught:
        await worker.sight.shadow("classifier", Made("classifier", "2", 1).write(tmp_path / "new"))
    assert caught.value.reason is Reason.NO_FRAMES
    assert exits == []


async def test_a_model_that_mistakes_masks_for_faces_disagrees(worker: Worker, tmp_path: Path) -> None:
    trial = await worker.sight.shadow("classifier", Made("classifier", "2", 1, made_models.wrong).write(tmp_path / "new"))
    assert trial.disagreed > 0.9 * trial.faces
    with pytest.raises(Rejected) as caught:
        judge(trial, Gate(judged_faces=1))
    assert caught.value.reason is Reason.DISAGREES


async def test_a_slow_model_is_slow_in_the_shadow(worker: Worker, tmp_path: Path) -> None:
    trial = await worker.sight.shadow("classifier", Made("classifier", "2", 1, made_models.slow).write(tmp_path / "new"))
    with pytest.raises(Rejected) as caught:
        judge(trial.model_copy(update={"faces": 0}), Gate())
    assert caught.value.reason is Reason.TOO_SLOW


async def test_a_slow_model_on_trial_is_found_out_long_before_the_trial_ends(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight_module, "EARLY_S", 0.2)
    monkeypatch.setattr(sight_module, "EARLY_FRAMES", 2)
    before = await worker.sight.shadow("classifier", Made("classifier", "2", 1).write(tmp_path / "same"))
    long = SETTINGS.model_copy(update={"updates": UpdateSettings(shadow_s=2, trial_s=600)})
    monkeypatch.setattr(worker.sight, "_settings", long)
    slow = Made("classifier", "3", 2, made_models.slow).write(tmp_path / "slow")
    async with asyncio.timeout(30), contextlib.aclosing(worker.sight.attempt("classifier", slow, before)) as figures:
        async for trial in figures:
            with pytest.raises(Rejected, match="before"):
                judge(trial, Gate())
            break
    assert worker.sight._looks is None, "no frame is written down any more"
    await worker.sight.restore()
    assert worker.sight.eyes is worker.eyes


async def test_without_frames_nothing_is_decided(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight_module, "NO_FRAMES_S", 0.5)
    worker.is_paused = True
    with pytest.raises(Rejected) as caught:
        await worker.sight.shadow("classifier", Made("classifier", "2", 1).write(tmp_path / "new"))
    assert caught.value.reason is Reason.NO_FRAMES


@pytest.fixture
def exits(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every new model hangs; the agent's exits are written down instead of made."""
    exits, goes_on = [], threading.Event()

    def hangs(frame: Frame, faces: tuple[Face, ...]) -> tuple[Reading, ...]:
        goes_on.wait(20)
        return worker.eyes.classify(frame, faces)

    monkeypatch.setattr(sight_module, "HUNG_S", 0.3)
    monkeypatch.setattr(sight_module, "with_release", lambda eyes, *_: dataclasses.replace(eyes, classify=hangs))
    monkeypatch.setattr(sight_module.os, "_exit", exits.append)
    yield exits
    goes_on.set()


async def test_a_frame_that_hangs_in_the_shadow_ends_the_agent(worker: Worker, exits: list[int]) -> None:
    with pytest.raises(Rejected) as caught:
        await worker.sight.shadow("classifier", Path())
    assert caught.value.reason is Reason.TIMED_OUT
    assert exits == [1]


async def test_a_frame_that_hangs_is_rolled_back_and_ends_the_agent(worker: Worker, exits: list[int]) -> None:
    """Only a restart ends a thread that hangs; the journal says by then that the old model is to be used."""
    with pytest.raises(Rejected) as caught:
        await anext(worker.sight.attempt("classifier", Path(), None))
    assert caught.value.reason is Reason.TIMED_OUT
    await worker.sight.restore()
    assert exits == [1]
    assert worker.sight.eyes is worker.eyes
