"""The installer on a disk that fails, loses and lies: power that is cut at every single step it takes."""

import dataclasses
from pathlib import Path

import pytest
from flimsy import FlimsyDisk, Loss, PowerCut
from made_releases import Made
from update_device import Device, S

from edge_agent.disk import Disk
from edge_agent.load import Eyes
from protocol.errors import Reason


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
    folder = device.settings.state_dir / "models" / "maskfleet.home.door"
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
