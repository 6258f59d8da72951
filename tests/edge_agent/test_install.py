"""The installer on a real disk: what it refuses and why, and power that fails at every single step it takes."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flimsy import FlimsyDisk, Loss, PowerCut
from made_releases import PUBLIC, TRUSTED, Made, shipped, signed_anew, signed_nonsense, tampered, truncated, unsigned

from edge_agent.check import Owner
from edge_agent.disk import Disk
from edge_agent.gate import Gate
from edge_agent.install import Installer, _name
from edge_agent.installed import pinned, recall, slots_of
from edge_agent.load import Eyes, load_eyes
from edge_agent.settings import ClassifySettings, Settings, UpdateSettings
from edge_agent.slots import Part, Slots
from edge_agent.update_state import State
from edge_agent.updating import reported
from protocol.chunks import cut
from protocol.errors import DeviceError, Reason, Rejected
from protocol.release import Manifest
from protocol.rollouts import ENDED, Desired, Kind, Trial, UpdateState

S = UpdateState
FIGURES = Trial(frames=100, faces=50, disagreed=1, fps=15, fps_before=15, latency_p95_ms=20, latency_p95_before_ms=20)


class Calm:
    """A host where every model is good, unless it is told otherwise."""

    def __init__(self, **failures: Exception | Trial) -> None:
        self._failures = failures
        self.calls: list[str] = []

    def _answer(self, action: str) -> Trial:
        self.calls.append(action)
        found = self._failures.get(action, FIGURES)
        if isinstance(found, Exception):
            raise found
        return found

    async def test(self, kind: Kind, folder: Path) -> None:
        self._answer("test")

    async def shadow(self, kind: Kind, folder: Path) -> Trial:
        return self._answer("shadow")

    async def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:
        yield self._answer("attempt")

    async def settle(self) -> None:
        self.calls.append("settle")

    async def restore(self) -> None:
        self.calls.append("restore")


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return load_eyes(Settings())


def settings_of(folder: Path) -> Settings:
    return Settings(state_dir=folder, updates=UpdateSettings(trusted_keys=(PUBLIC,)))


class Device:
    """One camera's disk, over several starts of its agent."""

    def __init__(self, folder: Path, eyes: Eyes, owner: Owner | None = None) -> None:
        self.settings = settings_of(folder)
        self.eyes = eyes
        self.owner = owner or Owner(TRUSTED, "0.1.0")
        self.models: dict[str, bytes] = {}
        self.fetched: list[int] = []
        self.state = self.boot()[1]

    def boot(self, disk: Disk | None = None) -> tuple[Eyes, State, Slots]:
        slots = slots_of(self.settings, self.eyes)
        slots._disk = disk or Disk()
        eyes, state, _ = recall(self.settings, self.eyes, slots)
        return eyes, state, slots

    async def fetch(self, manifest: Manifest, part: Part, progress: Callable[[int], None]) -> None:
        chunks = cut(self.models[manifest.digest], manifest.chunk_bytes)
        for number in part.missing():
            part.put(number, chunks[number])
            self.fetched.append(number)
            progress(len(chunks) - number - 1)
        part.finish()

    async def run(self, *asked: Made | Desired, host: Calm | None = None, disk: Disk | None = None, until=lambda state: False) -> State:
        """Starts the agent, asks for releases one after the other, and returns where the last one ended."""
        _, state, slots = self.boot(disk)

        async def connected() -> None:
            pass

        installer = Installer(slots, state, self.owner, Gate(), host or Calm(), self.fetch, connected)
        running = asyncio.create_task(installer.run())
        try:
            for one in asked:
                if isinstance(one, Made):
                    self.models[one.digest] = one.model
                desired = one.desired() if isinstance(one, Made) else one
                installer.ask(desired)
                async with asyncio.timeout(30):
                    while not running.done() and not is_answered(installer.state, desired) and not (one is not asked[-1] and until(installer.state)):
                        await asyncio.sleep(0.001)
                await asyncio.sleep(0.005)  # what the last state asks for is done
                if running.done():
                    break
        finally:
            running.cancel()
            await asyncio.wait({running})
        self.state = installer.state
        if not running.cancelled():
            running.result()
        return installer.state


def is_answered(state: State, desired: Desired) -> bool:
    return state.asked == _name(desired) and state.state in (*ENDED, S.HELD, S.IDLE)


@pytest.fixture
def device(tmp_path: Path, eyes: Eyes) -> Device:
    return Device(tmp_path, eyes)


@pytest.mark.parametrize("kind", ["classifier", "detector"])
async def test_a_release_is_committed_and_sees_after_a_restart(device: Device, kind: Kind) -> None:
    made, host = Made(kind, "2", 5), Calm()
    state = await device.run(made, host=host)
    assert (state.state, state.reason) == (S.COMMITTED, None)
    assert host.calls == ["test", "shadow", "attempt", "settle"]
    eyes, state, _ = device.boot()
    model = eyes.classifier if kind == "classifier" else eyes.detector
    assert model.digest == made.digest == state.installed(kind).digest
    report = reported(state, None, "b", 1)
    assert (report.state, report.counter, report.digest, report.in_progress) == (S.COMMITTED, 5, made.digest, False)
    assert report.installed_version == report.latest_version


def now_expired() -> dict[str, object]:
    return {"created": datetime(2020, 1, 1, tzinfo=UTC), "expires": datetime(2021, 1, 1, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: signed_anew(Made("classifier", "2", 5)), Reason.UNKNOWN_KEY),
        (lambda: tampered(Made("classifier", "2", 5)), Reason.BAD_SIGNATURE),
        (lambda: unsigned(Made("classifier", "2", 5)), Reason.BAD_SIGNATURE),
        (lambda: truncated(Made("classifier", "2", 5)), Reason.BAD_SIGNATURE),
        (lambda: signed_nonsense(Made("classifier", "2", 5)), Reason.BAD_RELEASE),
        (lambda: Made("classifier", "2", 5, **now_expired()), Reason.EXPIRED),
        (lambda: Made("classifier", "2", 5, minimum_agent="9"), Reason.AGENT_TOO_OLD),
        (lambda: Made("classifier", "2", 5, chunks=()), Reason.BAD_RELEASE),
    ],
    ids=["foreign key", "tampered", "unsigned", "truncated", "signed nonsense", "expired", "agent too old", "no chunks"],
)
async def test_what_is_refused_is_refused_with_its_reason(device: Device, made: Callable[[], Made], reason: Reason) -> None:
    state = await device.run(made())
    report = reported(state, None, "b", 1)
    assert (report.state, report.reason, report.rollout, report.attempt) == (S.REJECTED, reason, "r", 1)
    assert report.detail
    assert device.fetched == []
    assert report.installed_version == report.latest_version


async def test_without_keys_updates_are_off(tmp_path: Path, eyes: Eyes) -> None:
    state = await Device(tmp_path, eyes, Owner({}, "0.1.0")).run(Made("classifier", "2", 5))
    assert (state.state, state.reason) == (S.REJECTED, Reason.UPDATES_OFF)


async def test_a_model_that_the_settings_name_stays(tmp_path: Path, eyes: Eyes) -> None:
    settings = Settings(classify=ClassifySettings(release=shipped("classifier")))
    assert pinned(settings) == {"classifier"}
    device = Device(tmp_path, eyes, Owner(TRUSTED, "0.1.0", pinned(settings)))
    assert (await device.run(Made("classifier", "2", 5))).reason is Reason.UPDATES_OFF
    assert (await device.run(Made("detector", "2", 5))).state is S.COMMITTED


async def test_an_old_release_that_is_sent_again_is_refused_and_a_new_one_of_the_old_model_is_not_fetched(device: Device) -> None:
    first, second = Made("detector", "1a", 5), Made("detector", "2", 6)
    assert (await device.run(first)).state is S.COMMITTED
    assert (await device.run(second)).state is S.COMMITTED
    replayed = await device.run(first)
    assert (replayed.state, replayed.reason) == (S.REJECTED, Reason.OLD_COUNTER)
    assert replayed.detector.digest == second.digest
    fetched = len(device.fetched)
    assert (await device.run(Made("detector", "1a", 7))).state is S.COMMITTED
    assert len(device.fetched) == fetched
    assert device.boot()[0].detector.digest == first.digest


async def test_what_ships_can_be_asked_for_and_is_never_fetched(device: Device) -> None:
    same = Made("detector", "0", 4, lambda model: model)
    assert (await device.run(same)).state is S.COMMITTED
    assert (await device.run(Made("detector", "2", 5))).state is S.COMMITTED
    fetched = len(device.fetched)
    assert (await device.run(Made("detector", "0", 6, lambda model: model))).state is S.COMMITTED
    assert len(device.fetched) == fetched
    assert device.state.detector.slot == "b"


@pytest.mark.parametrize(
    ("host", "ended", "reason"),
    [
        (Calm(test=Rejected(Reason.WRONG_GOLDEN, "golden")), S.FAILED, Reason.WRONG_GOLDEN),
        (Calm(test=Rejected(Reason.TIMED_OUT, "late")), S.FAILED, Reason.TIMED_OUT),
        (Calm(shadow=Rejected(Reason.NOT_A_NUMBER, "nan")), S.FAILED, Reason.NOT_A_NUMBER),
        (Calm(shadow=FIGURES.model_copy(update={"disagreed": 30})), S.FAILED, Reason.DISAGREES),
        (Calm(shadow=FIGURES.model_copy(update={"latency_p95_ms": 40.0})), S.FAILED, Reason.TOO_SLOW),
        (Calm(attempt=DeviceError("broken")), S.ROLLED_BACK, Reason.CRASHED),
        (Calm(attempt=RuntimeError("unheard of")), S.ROLLED_BACK, Reason.CRASHED),
        (Calm(attempt=FIGURES.model_copy(update={"fps": 11.0})), S.ROLLED_BACK, Reason.TOO_SLOW),
        (Calm(attempt=FIGURES.model_copy(update={"latency_p95_ms": float("nan")})), S.ROLLED_BACK, Reason.TOO_SLOW),
    ],
    ids=["golden", "time-out", "nan", "disagrees", "slow in shadow", "crash", "unheard of", "fps", "no figure"],
)
async def test_a_bad_model_ends_on_the_old_one_and_is_not_tried_again(device: Device, host: Calm, ended: S, reason: Reason) -> None:
    state = await device.run(Made("detector", "2", 5), host=host)
    assert (state.state, state.reason) == (ended, reason)
    assert ("restore" in host.calls) == (ended is S.ROLLED_BACK)
    assert device.boot()[0].detector.digest == device.eyes.detector.digest
    again = await device.run(Made("detector", "2", 6).desired(attempt=2))
    assert (again.state, again.reason) == (S.REJECTED, Reason.KNOWN_BAD)


async def test_a_slower_camera_is_not_the_models_fault(device: Device) -> None:
    slower = FIGURES.model_copy(update={"fps": 7.0, "fps_before": 15.0, "fps_capture": 7.1, "fps_capture_before": 15.0})
    assert (await device.run(Made("detector", "2", 5), host=Calm(attempt=slower))).state is S.COMMITTED


async def test_chunks_that_lie_make_a_failure(device: Device) -> None:
    made = Made("detector", "2", 5)
    lying = Made("detector", "2", 5, digest="ab" * 32)
    device.models["ab" * 32] = made.model
    state = await device.run(lying.desired())
    assert (state.state, state.reason) == (S.FAILED, Reason.WRONG_DIGEST)


async def test_what_is_held_waits_and_goes_on_without_fetching(device: Device) -> None:
    made = Made("detector", "2", 5)
    device.models[made.digest] = made.model
    assert (await device.run(made.desired(hold=True))).state is S.HELD
    assert reported(device.state, None, "b", 1).in_progress
    fetched = len(device.fetched)
    assert (await device.run(made)).state is S.COMMITTED
    assert len(device.fetched) == fetched


async def test_the_same_again_changes_nothing_and_nothing_uninstalls_nothing(device: Device) -> None:
    host = Calm()
    made = Made("detector", "2", 5)
    await device.run(made, made.desired(), host=host)
    assert host.calls == ["test", "shadow", "attempt", "settle"]
    state = await device.run(Desired(), host=host)
    assert (state.state, state.detector.digest) == (S.IDLE, made.digest)
    assert device.boot()[0].detector.digest == made.digest


async def test_a_release_that_is_withdrawn_while_it_is_tried_is_rolled_back(device: Device) -> None:
    class Endless(Calm):
        async def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:
            yield FIGURES
            await asyncio.Event().wait()

    host = Endless()
    made = Made("detector", "2", 5)
    state = await device.run(made, Desired(rollout="r", attempt=2), host=host, until=lambda state: state.is_trying)
    assert (state.state, state.reason, state.attempt) == (S.ROLLED_BACK, Reason.WITHDRAWN, 2)
    assert "restore" in host.calls
    assert (await device.run(made.desired(attempt=3))).state is S.COMMITTED


async def test_a_trial_ends_with_the_first_figures_that_are_not_good_enough(device: Device) -> None:
    class Slow(Calm):
        async def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:
            yield FIGURES
            yield FIGURES.model_copy(update={"latency_p95_ms": 90})
            raise AssertionError("nobody asks on")

    state = await device.run(Made("detector", "2", 5), host=Slow())
    assert (state.state, state.reason) == (S.ROLLED_BACK, Reason.TOO_SLOW)


async def test_another_release_takes_the_place_of_one_that_is_being_tried(device: Device) -> None:
    class Endless(Calm):
        async def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:
            if "attempt" not in self.calls:
                self.calls.append("attempt")
                await asyncio.Event().wait()
            yield FIGURES

    first, second = Made("detector", "2", 5), Made("detector", "3", 6)
    state = await device.run(first, second, host=Endless(), until=lambda state: state.is_trying and state.target.version == "2")
    assert (state.state, state.detector.digest) == (S.COMMITTED, second.digest)


async def test_a_lost_slot_is_replaced_by_what_ships_and_fetched_again(device: Device) -> None:
    made = Made("detector", "2", 5)
    assert (await device.run(made)).state is S.COMMITTED
    (model,) = (device.settings.state_dir / "models").rglob("model.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    eyes, state, _ = device.boot()
    assert (eyes.detector.digest, state.detector.slot, state.state) == (device.eyes.detector.digest, None, S.IDLE)
    assert (await device.run(made)).state is S.COMMITTED
    assert device.boot()[0].detector.digest == made.digest


@pytest.mark.parametrize("content", [b"", b"{", b'{"v": 2}', b"\xff" * 100])
def test_a_journal_that_cannot_be_read_starts_with_what_ships(device: Device, content: bytes) -> None:
    folder = device.settings.state_dir / "models" / "maskfleet-home-door"
    folder.mkdir(parents=True)
    (folder / "journal.json").write_bytes(content)
    eyes, state, _ = device.boot()
    assert state.state is S.IDLE
    assert eyes.detector.digest == device.eyes.detector.digest


async def test_a_disk_that_fails_fails_the_update_and_nothing_else(device: Device) -> None:
    class Full(Disk):
        def write_at(self, path: Path, offset: int, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        def write(self, path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    state = await device.run(Made("detector", "2", 5), disk=Full())
    assert (state.state, state.reason) == (S.FAILED, Reason.DISK_FAILED)
    assert (await device.run(Made("detector", "2", 5).desired(attempt=2))).state is S.COMMITTED


@pytest.mark.parametrize("loss", ["kept", "lost", "torn"])
async def test_power_may_fail_at_every_step_of_two_rollouts(tmp_path: Path, eyes: Eyes, loss: Loss, caplog) -> None:
    """After each cut the model loads that was in use, or the one that was just being committed; and the rollout then comes to its end."""
    first, second = Made("detector", "1a", 5, chunk_bytes=16384), Made("detector", "2", 6, chunk_bytes=16384)
    whole = FlimsyDisk()
    await Device(tmp_path / "whole", eyes).run(first, second, disk=whole)
    assert whole.steps >= 100, whole.steps
    order = [eyes.detector.digest, first.digest, second.digest]
    for cut_at in range(whole.steps):
        device = Device(tmp_path / str(cut_at), dataclasses.replace(eyes))
        device.models = {made.digest: made.model for made in (first, second)}
        disk = FlimsyDisk(cut_at, loss)
        with pytest.raises(PowerCut):
            await device.run(first, second, disk=disk)
        before = order.index(device.state.detector.digest)
        disk.settle()
        seeing, state, _ = device.boot()
        assert seeing.detector.digest == state.detector.digest
        assert seeing.detector.digest in order[before : before + 2]
        assert (await device.run(first, second)).detector.digest == second.digest, f"cut at {cut_at}"
        assert device.boot()[0].detector.digest == second.digest
    assert "is lost" not in caplog.text
    assert "cannot be read" not in caplog.text
