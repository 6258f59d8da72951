"""An agent as a process takes releases over a real mosquitto, from a coordinator that loses, cuts and repeats chunks."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import made_models
import pytest
from live import Ear, listening, running
from made_releases import PUBLIC, Made, signed_anew, tampered
from update_device import Device

from edge_agent.crashes import MAX_CRASHES
from edge_agent.load import Eyes
from protocol.broker import Broker
from protocol.chunks import cut, pieces
from protocol.link import Link
from protocol.messages import Birth, Status, Telemetry
from protocol.rollouts import Chunk, Desired, Kind, Report, Reported, UpdateState, Want
from protocol.topics import Address, ChunkAddress, Fleet, ReleaseAddress

CAMERA = Address("maskfleet", "home", "door")
EASY = {
    "MASKFLEET_UPDATES__TRUSTED_KEYS": json.dumps([PUBLIC]),
    "MASKFLEET_UPDATES__SHADOW_S": "1",
    "MASKFLEET_UPDATES__TRIAL_S": "1",
    "MASKFLEET_UPDATES__GATE": '{"fps_share": 0, "latency_ratio": 1000}',
}
"""The machine that runs the tests is busy with others: what the gate bounds is shown elsewhere."""

WAY = ("idle", "checking", "fetching", "verifying", "testing", "shadow", "trial", "committed")


class Coordinator:
    """Sends what is wished for: in parts, with noise between, and not everything the first time."""

    def __init__(self, link: Link, *made: Made, loss: float = 0.3) -> None:
        self._link = link
        self._made = {one.digest[:32]: one for one in made}
        self._loss = loss
        self._is_lossy = loss > 0
        self.wishes: list[Want] = []
        self.sent: list[int] = []

    async def run(self, wishes: AsyncIterator) -> None:
        async for address, want, _ in wishes:
            self.wishes.append(want)
            chunks = cut(self._made[address.release].model, self._made[address.release].manifest.chunk_bytes)
            loss, self._loss = self._loss, 0.0
            for number in want.chunks:
                await self._send(address, str(number), b"what a stranger sends")
                # One is lost for certain, until it is all that is still wished for.
                is_lost = self._is_lossy and number == 1 and len(want.chunks) > 1
                for piece, data in pieces(number, chunks[number], random.choice((1, 2, 3))):
                    if random.random() >= loss and not is_lost:
                        await self._send(address, str(piece), data)
                self.sent.append(number)
            await self._send(address, "9999", b"no such chunk")

    async def _send(self, address: ReleaseAddress, piece: str, data: bytes) -> None:
        await self._link.send(ChunkAddress(address.base, address.release, piece), Chunk(data=data))


@contextlib.asynccontextmanager
async def coordinating(mosquitto, *made: Made) -> AsyncIterator[tuple[Link, Coordinator]]:
    async with Link(Broker(port=mosquitto.port), "coordinator") as link:
        await link.wait_online()
        coordinator = Coordinator(link, *made)
        async with link.receive("maskfleet", Want) as wishes:
            task = asyncio.create_task(coordinator.run(wishes))
            yield link, coordinator
            task.cancel()


def last(ear: Ear) -> Reported | None:
    found = ear.of(Reported)
    return found[-1] if found else None


async def ended(ear: Ear, state: UpdateState, seconds: float = 60, **fields: object) -> Reported:
    def holds(ear: Ear) -> bool:
        report = last(ear)
        return report is not None and report.state is state and all(getattr(report, name) == value for name, value in fields.items())

    await ear.until(holds, seconds)
    return last(ear)


@pytest.mark.parametrize("kind", ["classifier", "detector"])
async def test_a_release_is_fetched_tried_committed_and_seen_with_after_kill_9(mosquitto, tmp_path: Path, kind: Kind) -> None:
    made = Made(kind, "2", 5)
    async with listening(mosquitto) as ear, coordinating(mosquitto, made) as (link, coordinator):
        async with running(mosquitto, tmp_path, **EASY) as process:
            await ear.until(lambda ear: ear.of(Status) and ear.of(Telemetry))
            await link.send(CAMERA, made.desired())
            report = await ended(ear, UpdateState.COMMITTED)
            assert (report.rollout, report.digest, report.counter, report.reason) == ("r", made.digest, 5, "")
            assert getattr(report, kind).digest == made.digest
            await ear.until(lambda ear: getattr(ear.of(Birth)[-1], kind).digest == made.digest)
            process.kill()
            await process.wait()
        states = [report.state.value for report in ear.of(Reported)]
        assert states == sorted(states, key=WAY.index)
        assert set(coordinator.wishes[-1].chunks) < set(coordinator.wishes[0].chunks)
        before, wished = len(ear.of(Birth)), len(coordinator.wishes)
        async with running(mosquitto, tmp_path, **EASY):
            await ear.until(lambda ear: len(ear.of(Birth)) > before)
            assert getattr(ear.of(Birth)[-1], kind).digest == made.digest
            assert (await ended(ear, UpdateState.COMMITTED, boot=ear.of(Birth)[-1].boot)).digest == made.digest
        assert len(coordinator.wishes) == wished, "what is on disk is not fetched again"


async def test_a_committed_model_that_crashes_later_is_given_up_and_the_camera_sees_on(mosquitto, tmp_path: Path, eyes: Eyes) -> None:
    made = Made("classifier", "2", 5, made_models.crash)
    assert (await Device(tmp_path / "state", eyes).run(made)).state is UpdateState.COMMITTED
    async with listening(mosquitto) as ear:
        for _ in range(2):
            async with running(mosquitto, tmp_path, **EASY) as process:
                boots = {birth.boot for birth in ear.of(Birth)}
                report = await ended(ear, UpdateState.FAILED, reason="crashed")
                assert (report.rollout, report.classifier.digest) == ("r", eyes.classifier.digest)
                await ear.until(lambda ear, boots=boots: ear.of(Birth)[-1].boot not in boots and ear.of(Birth)[-1].classifier == eyes.classifier)
                said = len(ear.of(Telemetry))
                await ear.until(lambda ear, said=said: any(telemetry.faces for telemetry in ear.of(Telemetry)[said:]))
                assert process.returncode is None


async def test_a_committed_model_that_takes_the_agent_down_is_given_up(mosquitto, tmp_path: Path, eyes: Eyes) -> None:
    """Three kills stand for three crashes of native code, each soon after the first frame."""
    made = Made("detector", "2", 5)
    assert (await Device(tmp_path / "state", eyes).run(made)).state is UpdateState.COMMITTED
    count = tmp_path / "state" / "models" / CAMERA.name / "crashes"
    async with listening(mosquitto) as ear:
        for start in range(MAX_CRASHES + 1):
            async with running(mosquitto, tmp_path, **EASY) as process:
                said = len(ear.of(Telemetry))
                await ear.until(lambda ear, said=said: any(telemetry.fps_processed for telemetry in ear.of(Telemetry)[said + 1 :]))
                if start == 0:  # an orderly stop is none
                    assert count.read_text() == "1\n"
                    process.terminate()
                else:
                    assert count.read_text() == f"{start}\n"
                    process.kill()
                await process.wait()
                assert count.exists() == (start > 0)
        async with running(mosquitto, tmp_path, **EASY):
            report = await ended(ear, UpdateState.FAILED, reason="restarted")
            assert (report.rollout, report.detector.digest) == ("r", eyes.detector.digest)
            await ear.until(lambda ear: ear.of(Birth)[-1].detector == eyes.detector)
            assert not count.exists()


async def test_refusals_stand_on_reported_and_an_answer_is_said_again_when_asked(mosquitto, tmp_path: Path) -> None:
    async with listening(mosquitto) as ear, coordinating(mosquitto) as (link, _), running(mosquitto, tmp_path, **EASY):
        await ear.until(lambda ear: ear.of(Status))
        for attempt, (made, reason) in enumerate(
            [(signed_anew(Made("detector", "2", 5)), "unknown_key"), (tampered(Made("detector", "2", 5)), "bad_signature")]
        ):
            await link.send(CAMERA, made.desired(attempt=attempt))
            report = await ended(ear, UpdateState.REJECTED, reason=reason, attempt=attempt)
            assert report.detail
        said = len(ear.of(Reported))
        await link.send(Fleet("maskfleet"), Report())
        await ear.until(lambda ear: len(ear.of(Reported)) > said, 15)
        assert last(ear).seq > report.seq
        await link.send(CAMERA, Desired(rollout="r", attempt=9))
        await ended(ear, UpdateState.IDLE, attempt=9)


async def test_two_restarts_on_trial_roll_back(mosquitto, tmp_path: Path) -> None:
    made = Made("detector", "2", 5)
    long_trial = {**EASY, "MASKFLEET_UPDATES__TRIAL_S": "600"}
    async with listening(mosquitto) as ear, coordinating(mosquitto, made) as (link, _):
        for start in range(3):
            async with running(mosquitto, tmp_path, **long_trial) as process:
                boots = {birth.boot for birth in ear.of(Birth)}
                await ear.until(lambda ear, boots=boots: {birth.boot for birth in ear.of(Birth)} > boots)
                if start == 0:
                    await link.send(CAMERA, made.desired())
                if start < 2:
                    boot = ear.of(Birth)[-1].boot
                    await ended(ear, UpdateState.TRIAL, boot=boot)
                    await ear.until(lambda ear: ear.of(Birth)[-1].detector.digest == made.digest)
                    process.kill()
                    await process.wait()
                else:
                    report = await ended(ear, UpdateState.ROLLED_BACK, reason="restarted")
                    assert report.detector.digest != made.digest
                    assert ear.of(Birth)[-1].detector.digest != made.digest
