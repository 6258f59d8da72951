"""The installer: what it refuses and why, and how what it takes ends."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from made_releases import STRANGER, TRUSTED, Made, shipped, signed_anew, signed_nonsense, tampered, truncated, unsigned
from update_device import FIGURES, Calm, Device, S

from edge_agent import install
from edge_agent.check import Owner
from edge_agent.disk import Disk
from edge_agent.gate import Gate
from edge_agent.install import Broken, Installer
from edge_agent.installed import pinned
from edge_agent.load import Eyes, read_manifest
from edge_agent.settings import ClassifySettings, Settings
from edge_agent.slots import PART_FILE
from edge_agent.update_state import State
from edge_agent.updating import reported
from protocol.errors import DeviceError, Reason, Rejected
from protocol.rollouts import Desired, Kind, Trial
from protocol.signature import public_text, trusted_keys
from protocol.tasks import end


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
    shipped_version = device.eyes.detector.version
    same = Made("detector", shipped_version, 4, lambda model: model)
    assert (await device.run(same)).state is S.COMMITTED
    assert (await device.run(Made("detector", "2", 5))).state is S.COMMITTED
    fetched = len(device.fetched)
    assert (await device.run(Made("detector", shipped_version, 6, lambda model: model))).state is S.COMMITTED
    assert len(device.fetched) == fetched
    assert device.state.detector.slot == "b"
    assert (await device.run(Made("detector", "renamed", 7, lambda model: model))).state is S.COMMITTED
    assert len(device.fetched) == fetched
    assert device.boot()[0].detector.version == "renamed"


async def test_another_threshold_for_the_model_in_use_is_tried_and_not_fetched(device: Device) -> None:
    assert (await device.run(Made("classifier", "2", 5))).state is S.COMMITTED
    fetched, host = len(device.fetched), Calm()
    state = await device.run(Made("classifier", "2", 6, threshold=0.75), host=host)
    assert (state.state, state.classifier.counter) == (S.COMMITTED, 6)
    assert host.calls == ["test", "shadow", "attempt", "settle"]
    assert len(device.fetched) == fetched
    _, state, slots = device.boot()
    assert read_manifest(slots.folder("classifier", state.classifier.slot)).threshold == 0.75


async def test_what_was_only_signed_anew_is_not_tried_again(device: Device) -> None:
    assert (await device.run(Made("classifier", "2", 5))).state is S.COMMITTED
    host = Calm()
    state = await device.run(Made("classifier", "2", 6), host=host)
    assert (state.state, state.classifier.counter, host.calls) == (S.COMMITTED, 6, ["settle"])


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


async def test_the_way_back_is_open_though_the_model_in_use_sees_otherwise_and_faster(device: Device) -> None:
    """The one in use may be what is wrong."""
    assert (await device.run(Made("detector", "good", 5))).state is S.COMMITTED
    assert (await device.run(Made("detector", "bad", 6))).state is S.COMMITTED
    host = Calm(
        test=Rejected(Reason.TOO_SLOW, "20 runs took three times as long"),
        shadow=FIGURES.model_copy(update={"disagreed": 50}),
        attempt=FIGURES.model_copy(update={"fps": 5.0, "latency_p95_ms": 90.0}),
    )
    state = await device.run(Made("detector", "good", 7), host=host)
    assert (state.state, state.detector.version) == (S.COMMITTED, "good")
    nan = await device.run(Made("detector", "bad", 8), host=Calm(shadow=Rejected(Reason.NOT_A_NUMBER, "nan")))
    assert (nan.state, nan.detector.version) == (S.FAILED, "good")


async def test_a_slower_camera_is_not_the_models_fault(device: Device) -> None:
    slower = FIGURES.model_copy(update={"fps": 7.0, "fps_before": 15.0, "fps_capture": 7.1, "fps_capture_before": 15.0})
    assert (await device.run(Made("detector", "2", 5), host=Calm(attempt=slower))).state is S.COMMITTED


async def test_a_committed_model_that_fails_is_given_up_and_never_taken_again(device: Device) -> None:
    made = Made("classifier", "2", 5)
    assert (await device.run(made)).state is S.COMMITTED
    state = await _until(device, made, S.FAILED, Calm(breaks=Broken("classifier", Reason.CRASHED, "two faces")))
    assert (state.state, state.reason, state.detail) == (S.FAILED, Reason.CRASHED, "two faces")
    report = reported(state, None, "b", 1)
    assert (report.rollout, report.attempt, report.classifier.digest) == ("r", 1, device.eyes.classifier.digest)
    assert device.boot()[0].classifier.digest == device.eyes.classifier.digest
    again = await device.run(made.desired(attempt=2))
    assert (again.state, again.reason) == (S.REJECTED, Reason.KNOWN_BAD)
    assert (await device.run(Made("classifier", "3", 6))).state is S.COMMITTED


async def _until(device: Device, made: Made, at: S, host: Calm) -> State:
    """The agent starts, is asked for a release, and ends in a state; fetching never comes to an end when that is the state."""
    device.models[made.digest] = made.model

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    _, state, slots = device.boot()
    fetch = never if at is S.FETCHING else device.fetch
    installer = Installer(slots, state, device.owner, Gate(), host, fetch, device.connected)  # type: ignore[arg-type]
    running = asyncio.create_task(installer.run())
    installer.ask(made.desired())
    async with asyncio.timeout(10):
        while installer.state.state is not at:
            await asyncio.sleep(0.001)
    await end(running)
    return installer.state


@pytest.mark.parametrize(("at", "ended"), [(S.FETCHING, S.FAILED), (S.TRIAL, S.ROLLED_BACK)])
async def test_a_key_that_is_taken_out_of_the_settings_stops_what_it_allowed(device: Device, at: S, ended: S) -> None:

    class Endless(Calm):
        async def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:
            await asyncio.Event().wait()
            yield FIGURES

    made, owner = Made("classifier", "2", 5), device.owner
    await _until(device, made, at, Endless())
    device.owner = Owner(trusted_keys([public_text(STRANGER.public_key())]), "0.1.0")
    state = await _until(device, made, ended, Calm())
    assert state.reason is Reason.UNKNOWN_KEY
    assert state.classifier.digest == device.eyes.classifier.digest
    device.owner = owner
    assert (await device.run(made.desired(attempt=2))).state is S.COMMITTED


async def test_a_refusal_is_thought_over_after_a_restart(device: Device) -> None:
    """What the table of reasons says to do is done in the settings, or by a newer agent."""
    made, owner = Made("classifier", "2", 5), device.owner
    device.owner = Owner({}, "0.1.0")
    assert (await device.run(made)).reason is Reason.UPDATES_OFF
    device.owner = owner
    await _until(device, made, S.COMMITTED, Calm())


async def test_a_disk_that_changes_what_was_written_is_not_the_models_fault(device: Device) -> None:
    """And what is still right is not fetched again."""

    class Flipping(Disk):
        def sync(self, path: Path) -> None:
            if path.name == PART_FILE and path.stat().st_size == len(made.model):
                with path.open("r+b") as file:
                    file.write(bytes([made.model[0] ^ 1]))
            super().sync(path)

    made = Made("classifier", "2", 5)
    assert len(made.manifest.chunks) > 1
    state = await device.run(made, disk=Flipping())
    assert (state.state, state.reason) == (S.FAILED, Reason.DISK_FAILED)
    fetched = len(device.fetched)
    assert (await device.run(made.desired(attempt=2))).state is S.COMMITTED
    assert len(device.fetched) == fetched + 1


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


@pytest.mark.parametrize(("figures", "last"), [(FIGURES, "settle"), (FIGURES.model_copy(update={"latency_p95_ms": 90}), "restore")])
async def test_a_wish_that_comes_while_a_verdict_is_written_down_does_not_stop_what_it_asks_for(device: Device, figures: Trial, last: str) -> None:
    """A bad wave fails together, and the coordinator recalls the rest at that moment."""

    class Slow(Disk):
        def sync(self, path: Path) -> None:
            time.sleep(0.03)
            super().sync(path)

    host = Calm(attempt=figures)
    await device.run(
        Made("detector", "2", 5),
        Desired(rollout="r", attempt=1),
        host=host,
        disk=Slow(),
        until=lambda state: state.is_trying and "attempt" in host.calls,
    )
    assert host.calls == ["test", "shadow", "attempt", last]


async def test_a_model_that_fails_while_the_broker_is_waited_for_is_rolled_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "connected", asyncio.Event().wait)
    host = Calm(fails=Rejected(Reason.NOT_A_NUMBER, "nan"))
    state = await device.run(Made("detector", "2", 5), host=host)
    assert (state.state, state.reason) == (S.ROLLED_BACK, Reason.NOT_A_NUMBER)
    assert host.calls[-1] == "restore"


async def test_a_model_that_fails_at_the_end_of_its_trial_is_rolled_back_though_the_broker_is_there(device: Device) -> None:
    state = await device.run(Made("detector", "2", 5), host=Calm(fails=Rejected(Reason.CRASHED, "late")))
    assert (state.state, state.reason) == (S.ROLLED_BACK, Reason.CRASHED)


async def test_a_broker_that_stays_away_is_not_the_models_fault(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "connected", asyncio.Event().wait)
    monkeypatch.setattr(install, "CONNECTED_S", 0.05)
    made = Made("detector", "2", 5)
    state = await device.run(made)
    assert (state.state, state.reason) == (S.ROLLED_BACK, Reason.NOT_CONNECTED)
    monkeypatch.undo()
    assert (await device.run(made.desired(attempt=2))).state is S.COMMITTED


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
