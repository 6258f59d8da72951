"""What the coordinator says to cameras and of rollouts, to a broker that takes all."""

import asyncio
import itertools
from pathlib import Path

import pytest
from made_releases import KEY, Made

from protocol.messages import Message
from protocol.rollouts import MAX_RETAINED_BYTES, Desired, Kind, UpdateState
from protocol.tasks import end
from protocol.topics import Address, Fleet
from trainer import keys
from trainer.book import Book, StartArgs
from trainer.journal import Journal
from trainer.rollout_state import Abort, Answered, Camera, Connected, Fate, Heard, Pause, Resume, Tick
from trainer.say import PAUSE_S, Mouth
from trainer.shelf import Shelf

FIRST, CAMERA = "hall/a", "hall/b"


class FakeLink:
    """To a broker that takes all."""

    def __init__(self) -> None:
        self.desired: list[tuple[str, str]] = []
        """What was asked of `CAMERA`, and by which rollout."""

    async def wait_online(self) -> None:
        pass

    async def send(self, address: Fleet, message: Message) -> None:
        if isinstance(message, Desired) and isinstance(address, Address) and f"{address.site}/{address.camera}" == CAMERA:
            self.desired.append((message.rollout, "nothing" if not message.manifest else "hold" if message.hold else "run"))


class Coordination:
    """A coordinator's book and mouth, and two cameras."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.link, self.seq = folder, FakeLink(), itertools.count()
        self.restart()

    def restart(self) -> None:
        """A coordinator takes the place of one that was killed, and has heard the cameras."""
        journal = Journal(self.folder / "rollouts.sqlite", lambda: 1000.0)
        assert journal.take() == ""
        self.book = Book(journal, Shelf(self.folder / "releases", {}), lambda: 1000.0)
        self.book.load()
        self.mouth = Mouth(self.link, "maskfleet", self.book, journal, lambda: 1000.0)
        self.book.hear(Heard(1000.0, FIRST), Heard(1000.0, CAMERA))

    def start(self, kind: Kind, counter: int, **rules: object) -> str:
        folder = Made(kind, str(counter), counter).write(self.folder / f"{kind}-{counter}")
        keys.sign(folder, KEY, counter, None, "0", 32 * 1024)
        release = Shelf(self.folder / "releases", {}).put(folder).name
        return self.book.start(StartArgs(release=release, soak_s=0, threshold=0, max_failures=99, **rules))

    def answer(self, rollout: str, state: UpdateState) -> None:
        plan, attempt = self.book.entries[rollout].state.plan, self.fate(rollout).attempt
        self.book.hear(Answered(1000.0, CAMERA, rollout, attempt, plan.digest, state, "b", next(self.seq), "no_frames"))
        for _ in range(3):
            self.book.hear(Tick(1000.0))

    def connect(self) -> None:
        self.book.hear(Connected(1000.0), Heard(1000.0, FIRST), Heard(1000.0, CAMERA))

    def fate(self, rollout: str) -> Camera:
        return self.book.entries[rollout].state.cameras[CAMERA]

    async def said(self) -> list[tuple[str, str]]:
        """What is said to the camera now."""
        speaking = asyncio.create_task(self.mouth.run())
        await asyncio.sleep(6 * PAUSE_S)
        await end(speaking)
        said, self.link.desired = self.link.desired, []
        return said


@pytest.mark.parametrize("bad", [UpdateState.ROLLED_BACK, UpdateState.FAILED, UpdateState.REJECTED])
@pytest.mark.parametrize("waves", [("100%",), ("1", "100%")], ids=["committed", "held"])
async def test_a_connection_brings_no_old_order_again_over_one_of_the_other_kind(tmp_path: Path, bad: UpdateState, waves: tuple[str, ...]) -> None:
    own, is_held = Coordination(tmp_path), len(waves) > 1
    old = own.start("classifier", 7, waves=("100%",), select=(CAMERA,))
    assert await own.said() == [(old, "run")]
    own.answer(old, bad)
    assert (own.book.entries[old].state.phase, own.fate(old).fate) == ("done", bad.value)
    newer = own.start("detector", 8, waves=waves)
    assert await own.said() == [(newer, "hold" if is_held else "run")]
    own.answer(newer, UpdateState.FETCHING if is_held else UpdateState.COMMITTED)
    own.connect()
    assert await own.said() == ([(newer, "hold")] if is_held else [])


@pytest.mark.parametrize("state", [UpdateState.FETCHING, UpdateState.REJECTED, UpdateState.FAILED, UpdateState.ROLLED_BACK, UpdateState.COMMITTED])
async def test_a_broker_that_has_forgotten_all_is_told_what_cameras_need(tmp_path: Path, state: UpdateState) -> None:
    """One that refused looks at the release again at its next start; one that has answered otherwise needs nothing."""
    own = Coordination(tmp_path)
    rollout = own.start("classifier", 7, waves=("100%",), select=(CAMERA,))
    assert await own.said() == [(rollout, "run")]
    own.answer(rollout, state)
    own.connect()
    assert await own.said() == ([(rollout, "run")] if state in (UpdateState.FETCHING, UpdateState.REJECTED) else [])


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_what_an_older_rollout_asked_after_a_newer_one_is_taken_back(tmp_path: Path, is_restarted: bool) -> None:
    """The camera came when both were done, failed the older one for its disk's sake, and is asked again by it."""
    own = Coordination(tmp_path)
    old = own.start("classifier", 7, waves=("100%",), select=(CAMERA,))
    await own.said()
    own.answer(old, UpdateState.FAILED)
    newer = own.start("detector", 8, waves=("100%",), select=(CAMERA,))
    assert await own.said() == [(newer, "run")]
    own.answer(newer, UpdateState.COMMITTED)
    own.book.do(old, Pause(1000.0))
    own.book.do(old, Resume(1000.0))
    assert await own.said() == [(old, "run")]
    if is_restarted:
        own.restart()
    own.book.do(old, Pause(1000.0))
    own.book.do(old, Abort(1000.0))
    assert await own.said() == [(old, "nothing")]


async def test_what_a_newer_rollout_asked_since_is_not_unsaid_by_an_older_one(tmp_path: Path) -> None:
    own = Coordination(tmp_path)
    old = own.start("classifier", 7, waves=("1", "100%"))
    assert await own.said() == [(old, "hold")]
    own.book.do(old, Abort(1000.0))
    newer = own.start("detector", 8, waves=("100%",), select=(CAMERA,))
    assert (await own.said())[-1] == (newer, "run")
    own.restart()
    own.connect()
    assert await own.said() == [(newer, "run")]


def test_why_cameras_failed_fits_into_a_retained_message_whatever_they_are_called_and_say(tmp_path: Path) -> None:
    own = Coordination(tmp_path)
    rollout = own.start("classifier", 7, waves=("100%",))
    state = own.book.entries[rollout].state
    named = {f"{'s' * 64}/{'c' * 60}{number:04}": Camera(fate=Fate.FAILED, is_excused=number != 77, reason="\u20ac" * 500) for number in range(2000)}
    said = own.mouth.state(state.model_copy(update={"cameras": named, "reason": "\u20ac" * 500}))
    assert said.failures[0].camera.endswith("0077")
    assert said.failed == 2000
    assert len(said.encode()) < MAX_RETAINED_BYTES


async def test_a_late_camera_is_asked_by_an_older_rollout_though_a_newer_one_had_it_fetch(tmp_path: Path) -> None:
    own = Coordination(tmp_path)
    own.book.hear(Heard(1000.0, CAMERA, is_online=False))
    old = own.start("classifier", 7, waves=("100%",))
    plan = own.book.entries[old].state.plan
    await own.said()
    own.book.hear(Answered(1000.0, FIRST, old, 1, plan.digest, UpdateState.COMMITTED, "a", 1))
    for _ in range(3):
        own.book.hear(Tick(1e6))
    assert own.book.entries[old].state.phase == "done"
    newer = own.start("detector", 8, waves=("1", "100%"))
    own.book.hear(Heard(1e6, CAMERA))
    assert (old, "run") in await own.said()
    own.connect()
    assert await own.said() == [(old, "run")]
    own.answer(old, UpdateState.COMMITTED)
    assert await own.said() == [(newer, "hold")]
