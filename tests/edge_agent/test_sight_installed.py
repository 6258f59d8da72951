"""Models that have been committed, and fail at some later time."""

import asyncio
import dataclasses
import math
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import made_models
import numpy as np
import pytest
from made_releases import Made
from sight_worker import FOLDERS, SETTINGS, Worker

from edge_agent import sight as sight_module
from edge_agent.demo_scene import DemoScene
from edge_agent.install import Broken
from edge_agent.load import Eyes, load_eyes
from edge_agent.runtime import Session
from edge_agent.scene import Face, Frame, Reading
from edge_agent.yunet import YuNetDetector
from protocol.errors import Reason, Rejected
from protocol.rollouts import Kind


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


def test_a_model_that_ships_and_fails_ends_the_worker(tmp_path: Path) -> None:
    """A new start is all that is left."""
    worker = Worker(tmp_path)

    def breaks(frame: Frame) -> tuple[Face, ...]:
        raise RuntimeError("out of memory")

    worker.sight.eyes = dataclasses.replace(worker.eyes, detect=breaks)
    with pytest.raises(Broken, match="out of memory"):
        worker.sight.see(Frame(DemoScene().at(1), 0.0, 0.0))
