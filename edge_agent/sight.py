"""The eyes in use, and how a model in them is exchanged while the camera runs: the installer's host on a real camera."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.capture import CaptureState
from edge_agent.crashes import Crashes
from edge_agent.guard import guarded
from edge_agent.install import Broken
from edge_agent.load import Eyes, shipped, with_model, with_release
from edge_agent.pipeline import Pipeline, Seen
from edge_agent.scene import Frame
from edge_agent.selftest import prove
from edge_agent.settings import Settings
from edge_agent.shadow import Look, Shadow, p95_ms
from protocol.errors import Reason, Rejected
from protocol.rollouts import Kind, Trial

log = logging.getLogger(__name__)

BASELINE_S = 5.0
LOOK_S = 0.1
MIN_FRAMES = 10
"""Fewer frames than this say nothing."""
EARLY_S, EARLY_FRAMES = 3.0, 60
"""A trial is judged from here on: a model that is too slow need not decide until the end. On fewer frames one hiccup is a verdict."""
JUDGED_S = 1.0
NO_FRAMES_S = 120.0
"""So much longer it is waited for frames, where the camera or detection is off."""
HUNG_S = 5.0
"""A frame that takes longer than this takes for ever."""
STUCK_S = 30.0
"""And of a model that was committed: a machine may stand still for a while."""
BREAK_LOOK_S = 1.0
"""An installed model that broke is written down within this time; the one that ships sees from the same frame on."""


@dataclass(frozen=True)
class _Count:
    """Figures of the camera, at one moment."""

    time_s: float
    captured: int
    processed: int


class Sight:
    """What the worker thread sees through. `see` is the worker's; all else belongs to the event loop."""

    def __init__(
        self,
        settings: Settings,
        eyes: Eyes,
        pipeline: Pipeline,
        capture: Callable[[], CaptureState],
        is_detecting: Callable[[], bool],
        folders: dict[Kind, Path],
        crashes: Crashes,
    ) -> None:
        """`folders` are the releases that the models in use came from."""
        self.eyes = eyes
        """Those that decide, at the latest from the next frame on."""
        self._settings = settings
        self._pipeline = pipeline
        self._capture = capture
        self._is_detecting = is_detecting
        self._folders = folders
        self._shipped = {kind: shipped(kind) for kind in folders}
        self._crashes = crashes
        self._tried: tuple[Kind, Path] | None = None
        self._old: Eyes | None = None
        """Kept while a new model is on trial."""
        self._used: Eyes | None = None
        self._broken: list[Broken] = []
        self._shadow: Shadow | None = None
        self._failure: Broken | None = None
        """Of the model that is being tried."""
        self._looks: list[Look] | None = None
        self._frames = 0
        self._busy_s: float | None = None
        self._exchange = threading.Lock()
        """Held while eyes are exchanged: both the worker and the event loop do that."""

    def see(self, frame: Frame) -> Seen:
        """What a frame shows. A model that fails, on trial or long installed, is gone before the frame is over, and another sees it instead.

        Raises Broken when a model fails that the package or the settings brought along.
        """
        if self._has_installed:
            self._crashes.sees()
        self._busy_s = time.monotonic()  # a disk that stalls before it is no model that hangs
        seen = self._see(frame)
        self._frames += 1
        looks = self._looks
        if looks is not None:
            looks.append(Look.of(seen))
        shadow = self._shadow
        if shadow is not None and self._failure is None:
            try:
                shadow.see(frame, seen)
            except Broken as failure:
                self._failure = failure
        self._busy_s = None
        return seen

    def _see(self, frame: Frame) -> Seen:
        try:
            return self._look(frame)
        except Broken as failure:
            if self.eyes is self._used:
                tried = self._tried
                if tried and self._failure is None and failure.kind == tried[0]:
                    self._go_back(failure)
                else:
                    self._give_up(failure)
        return self._see(frame)

    def _look(self, frame: Frame) -> Seen:
        eyes = self.eyes
        if eyes is not self._used:
            safe = guarded(eyes)
            self._pipeline.change(safe.detect, safe.classify)
            self._used = eyes
        return self._pipeline(frame)

    def _go_back(self, failure: Broken) -> None:
        """The model on trial has failed; the old one decides from this frame on."""
        with self._exchange:
            if self._old is not None:
                self._failure, self.eyes = failure, self._old

    def _give_up(self, failure: Broken) -> None:
        """The model that ships takes the place of an installed one, also beside one on trial; raises the failure of one that ships."""
        kind = failure.kind
        if self._folders[kind] == self._shipped[kind]:
            raise failure
        log.error("the installed %s has failed, the one that ships sees instead: %s", kind, failure)
        others = with_release(self.eyes, kind, self._shipped[kind], self._settings)
        with self._exchange:
            if self._folders[kind] == self._shipped[kind]:  # the other thread was first
                return
            self._folders[kind] = self._shipped[kind]
            self.eyes = with_model(self.eyes, kind, others)
            if self._old is not None:
                self._old = with_model(self._old, kind, others)
            self._broken.append(failure)

    async def test(self, kind: Kind, folder: Path) -> None:
        """Golden answers and latency, in a child process."""
        await prove(kind, folder, self._folders[kind])

    async def shadow(self, kind: Kind, folder: Path) -> Trial:
        """The old model alone, for its frame rate, then both on the same faces; returns what that took and showed."""
        new = await asyncio.to_thread(with_release, self.eyes, kind, folder, self._settings)
        self._failure = None  # that of an earlier model
        try:
            before = await _last(self._watch(BASELINE_S))
        except Rejected as error:  # nothing of the new model was asked yet
            raise Rejected(Reason.NO_FRAMES, error.detail) from None
        shadow = self._shadow = Shadow(kind, guarded(new))
        try:
            await _last(self._watch(self._settings.updates.shadow_s))
        finally:
            self._shadow = None
            self._end_if_hung()
        return shadow.figures().model_copy(update={"fps_before": before.fps, "fps_capture_before": before.fps_capture})

    async def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:
        """The new model decides, and is watched; figures from before the trial are put beside its own, again and again until it is over."""
        new = await asyncio.to_thread(with_release, self.eyes, kind, folder, self._settings)
        with self._exchange:
            self._failure, self._tried = None, (kind, folder)
            self._old, self.eyes = self.eyes, with_model(self.eyes, kind, new)
        known = before.model_dump(include={"faces", "disagreed", "fps_before", "fps_capture_before", "latency_p95_before_ms"}) if before else {}
        async with contextlib.aclosing(self._watch(self._settings.updates.trial_s)) as figures:
            async for found in figures:
                yield found.model_copy(update=known)

    async def fails(self) -> None:
        """Waits for as long as the model on trial works; raises Rejected when it does not."""
        while True:
            self._check()
            await asyncio.sleep(LOOK_S)

    async def breaks(self) -> Broken:
        """Waits until an installed model has failed, and the one that ships has taken its place.

        One that hangs ends the agent, as does one on trial.
        """
        while not self._broken:
            await asyncio.sleep(BREAK_LOOK_S)
            if self._has_installed and self._busy_for_s > STUCK_S:
                log.critical("a frame hangs in an installed model: only a restart ends that")
                os._exit(1)
        return self._broken.pop(0)

    async def settle(self) -> None:
        """The model on trial stays; the old one goes. One that failed while it was being committed is given up like any that is installed."""
        with self._exchange:
            failure = self._failure if self._tried else None
            if self._tried is not None:
                kind, folder = self._tried
                self._folders[kind] = folder
            self._old = self._tried = None
        if failure is not None:
            await asyncio.to_thread(self._give_up, failure)

    async def restore(self) -> None:
        """The old model decides again, from the next frame on. A worker that hangs in the new one is ended with the whole agent."""
        with self._exchange:
            if self._old is not None:
                self.eyes, self._old, self._tried = self._old, None, None
        await asyncio.sleep(LOOK_S)
        self._end_if_hung()

    def _end_if_hung(self) -> None:
        """A worker that hangs would leave the camera blind; the restart counts against the model."""
        if self._is_hung:
            log.critical("a frame hangs in a model that is being tried: only a restart ends that")
            os._exit(1)

    @property
    def _has_installed(self) -> bool:
        return self._folders != self._shipped

    @property
    def _is_hung(self) -> bool:
        return self._busy_for_s > HUNG_S

    @property
    def _busy_for_s(self) -> float:
        busy_s = self._busy_s
        return 0.0 if busy_s is None else time.monotonic() - busy_s

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_hung:
            raise Rejected(Reason.TIMED_OUT, f"a frame takes more than {HUNG_S:.0f} s")

    async def _watch(self, seconds: float) -> AsyncGenerator[Trial]:
        """The figures of some time, and of at least some frames: those so far, while it lasts, and at last those of all of it.

        Time in which detection is off does not count, and what came before it neither. Raises Rejected when the model being tried
        fails meanwhile, or too few frames come.
        """
        start = begin = self._count()
        looks: list[Look] = []
        self._looks = looks
        judged_s = EARLY_S
        is_over = False
        try:
            while not is_over:
                await asyncio.sleep(LOOK_S)
                self._check()
                now = self._count()
                if not self._is_detecting():
                    start, judged_s = now, EARLY_S
                    looks.clear()
                passed_s, processed = now.time_s - start.time_s, now.processed - start.processed
                is_over = passed_s >= seconds and processed >= MIN_FRAMES
                if not is_over and now.time_s - begin.time_s >= seconds + NO_FRAMES_S:
                    raise Rejected(Reason.NO_FRAMES, f"only {processed} frames were seen in {passed_s:.0f} s: is the camera on, and detection?")
                if is_over or (passed_s >= judged_s and processed >= EARLY_FRAMES):
                    judged_s = passed_s + JUDGED_S
                    yield Trial(
                        frames=processed,
                        faces=0,
                        disagreed=0,
                        fps=round(processed / passed_s, 2),
                        fps_capture=round((now.captured - start.captured) / passed_s, 2),
                        latency_p95_ms=p95_ms(looks),
                    )
        finally:
            self._looks = None  # or the worker would write down every frame for ever

    def _count(self) -> _Count:
        return _Count(time.monotonic(), self._capture().frames, self._frames)


async def _last(figures: AsyncIterator[Trial]) -> Trial:
    found = [trial async for trial in figures]
    return found[-1]
