"""Models exchanged under a running camera: real networks, real pictures of the demo scene, a worker thread of their own."""

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import made_models
import pytest
from made_releases import Made
from sight_worker import SETTINGS, Worker

from edge_agent import sight as sight_module
from edge_agent.gate import Gate, judge
from edge_agent.pipeline import Seen
from edge_agent.scene import Box, Face, Frame, Reading
from edge_agent.settings import UpdateSettings
from edge_agent.sight import _last
from protocol.errors import Reason, Rejected
from protocol.rollouts import Kind


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
