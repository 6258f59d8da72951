import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.outbox import Limits, Outbox, warn_of_others
from protocol.errors import DeviceError
from protocol.messages import Alert, IncidentEnded

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while boxes:
        boxes.pop().close()


boxes: list[Outbox] = []


def opened(path: Path, **limits: float) -> Outbox:
    """An outbox that is closed after the test, if the test does not."""
    boxes.append(Outbox(path, Limits(**limits)))
    return boxes[-1]


def alert(seq: int) -> Alert:
    return Alert(id=f"b-{seq}", boot="b", seq=seq, started=NOW, p_no_mask=0.9, votes="5/5", faces=1, model="m")


def ended(seq: int) -> IncidentEnded:
    return IncidentEnded(id=f"b-{seq}", boot="b", seq=seq, started=NOW, duration_s=1, worst_p_no_mask=0.9, frames=5, ended="left")


def test_first_in_first_out_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "state" / "outbox.sqlite"
    box = opened(path)
    for message in (alert(1), ended(1), alert(2)):
        box.put(message)
    box.close()
    box = opened(path)
    assert box.depth == 3
    told = []
    while (row := box.oldest()) is not None:
        told.append(row.message)
        assert 0 <= time.monotonic() - row.told_s < 60
        box.remove(row)
    assert told == [alert(1), ended(1), alert(2)]
    assert (box.depth, box.lost) == (0, 0)


def test_when_full_the_oldest_goes_and_is_counted(tmp_path: Path) -> None:
    box = opened(tmp_path / "outbox.sqlite", messages=3)
    for seq in range(1, 6):
        box.put(alert(seq))
    assert (box.depth, box.lost) == (3, 2)
    assert box.oldest().message == alert(3)


def test_its_size_is_bounded_across_restarts(tmp_path: Path) -> None:
    path, size = tmp_path / "outbox.sqlite", len(alert(1).encode())
    box = opened(path, size_bytes=3 * size)
    for seq in range(1, 4):
        box.put(alert(seq))
    box.close()
    box = opened(path, size_bytes=3 * size)
    assert (box.depth, box.lost) == (3, 0)
    box.put(alert(4))
    assert (box.depth, box.lost) == (3, 1)
    assert drain(box) == [alert(2), alert(3), alert(4)]


def test_what_is_too_old_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("edge_agent.outbox.time.monotonic", lambda: now[0])
    box = opened(tmp_path / "outbox.sqlite", age_s=60)
    for seq in (1, 2):
        box.put(alert(seq))
        now[0] += 40
    assert box.oldest().message == alert(2)
    assert (box.depth, box.lost) == (1, 1)
    now[0] += 21
    assert box.oldest() is None
    assert (box.depth, box.lost) == (0, 2)


def test_after_a_restart_of_the_machine_age_counts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock began anew: what it said before means nothing, and an alert is not dropped for it."""
    path, now = tmp_path / "outbox.sqlite", [1_000_000.0]
    monkeypatch.setattr("edge_agent.outbox.time.monotonic", lambda: now[0])
    box = opened(path, age_s=60)
    box.put(alert(1))
    box.close()
    monkeypatch.setattr("edge_agent.outbox.KERNEL_BOOT_FILE", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("another")
    now[0] = 10.0
    box = opened(path, age_s=60)
    assert box.oldest().message == alert(1)
    now[0] = 71.0
    assert (box.oldest(), box.lost) == (None, 1)


def test_what_was_dropped_while_it_was_sent_is_not_counted_twice(tmp_path: Path) -> None:
    box = opened(tmp_path / "outbox.sqlite", messages=2)
    box.put(alert(1))
    under_way = box.oldest()
    for seq in (2, 3):
        box.put(alert(seq))
    box.remove(under_way)
    assert (box.depth, box.lost) == (2, 1)
    assert drain(box) == [alert(2), alert(3)]
    assert (box.depth, box._bytes) == (0, 0)


def test_after_a_restart_of_the_machine_nobody_knows_the_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = opened(tmp_path / "outbox.sqlite")
    box.put(alert(1))
    box.close()
    monkeypatch.setattr("edge_agent.outbox.KERNEL_BOOT_FILE", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("another")
    assert opened(tmp_path / "outbox.sqlite").oldest().told_s is None


def test_what_was_put_survives_kill_9(tmp_path: Path) -> None:
    script = """
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from edge_agent.outbox import Outbox
from protocol.messages import Alert
box = Outbox(Path(sys.argv[1]))
for seq in range(1, 10**6):
    box.put(Alert(id=f"b-{seq}", boot="b", seq=seq, started=datetime.now(UTC), p_no_mask=0.9, votes="5/5", faces=1, model="m"))
    print(seq, flush=True)
"""
    path = tmp_path / "outbox.sqlite"
    last = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True)
        for _ in range(20):
            last += 1
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        last += len(process.communicate()[0].split())
        box = opened(path)
        assert box.depth >= last
        last = box.depth
        box.close()


def test_a_damaged_file_is_kept_aside_and_a_new_one_begins(tmp_path: Path) -> None:
    garbage = b"not a database, certainly not one " * 100
    (tmp_path / "outbox.sqlite").write_bytes(garbage)
    box = opened(tmp_path / "outbox.sqlite")
    box.put(alert(1))
    assert drain(box) == [alert(1)]
    assert (tmp_path / "outbox.damaged").read_bytes() == garbage


def test_damage_inside_a_file_is_found_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    box = opened(path)
    for number in range(200):
        box.put(alert(number))
    box.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * 8192 + whole[16384:])
    box = opened(path)
    box.end_orphans()
    assert drain(box) == []
    box.put(alert(1))
    assert drain(box) == [alert(1)]
    assert path.with_suffix(".damaged").exists()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match=r"outbox .*: "):
        opened(tmp_path / "file" / "outbox.sqlite")


def test_two_agents_of_one_name_do_not_share_it(tmp_path: Path) -> None:
    box = opened(tmp_path / "outbox.sqlite")
    with pytest.raises(DeviceError, match="another agent of this name"):
        opened(tmp_path / "outbox.sqlite")
    box.close()
    opened(tmp_path / "outbox.sqlite").close()


def drain(box: Outbox) -> list[Alert | IncidentEnded]:
    told = []
    while (row := box.oldest()) is not None:
        told.append(row.message)
        box.remove(row)
    return told


def test_on_a_full_disk_messages_wait_in_memory_in_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = opened(tmp_path / "outbox.sqlite")
    box.put(alert(1))
    box._db.execute(f"PRAGMA max_page_count = {box._db.execute('PRAGMA page_count').fetchone()[0]}")
    big = [alert(seq).model_copy(update={"model": "m" * 10_000}) for seq in (2, 3)]
    for message in (*big, ended(1)):
        box.put(message)
    assert "full" in caplog.text
    assert box.depth == 4
    assert drain(box) == [alert(1), *big, ended(1)]
    assert box.depth == 0


@pytest.mark.parametrize("how", ["with the next", "before one goes out", "at the end"])
def test_what_waited_in_memory_is_saved_when_there_is_room_again(tmp_path: Path, how: str) -> None:
    path = tmp_path / "outbox.sqlite"
    box = opened(path)
    box.put(alert(1))
    pages = box._db.execute("PRAGMA page_count").fetchone()[0]
    box._db.execute(f"PRAGMA max_page_count = {pages}")
    messages = [alert(1), *(alert(seq).model_copy(update={"model": "m" * 500}) for seq in range(2, 20))]
    for message in messages[1:]:
        box.put(message)
    assert box._in_memory
    box._db.execute("PRAGMA max_page_count = 100000")
    if how == "with the next":
        messages.append(alert(20))
        box.put(alert(20))
    elif how == "before one goes out":
        assert box.oldest().message == alert(1)
    assert bool(box._in_memory) == (how == "at the end")
    box.close()
    assert drain(opened(path)) == messages


def test_what_a_disk_has_no_room_for_until_the_end_is_counted_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = opened(tmp_path / "outbox.sqlite")
    box._db.execute(f"PRAGMA max_page_count = {box._db.execute('PRAGMA page_count').fetchone()[0]}")
    for seq in (1, 2):
        box.put(alert(seq).model_copy(update={"model": "m" * 10_000}))
    caplog.clear()
    for _ in range(3):
        box.oldest()
    assert not caplog.records, "the same trouble is told once"
    box.close()
    assert f"outbox {tmp_path / 'outbox.sqlite'}: 2 messages were never stored, and are lost" in caplog.text


def test_what_went_out_from_memory_opens_and_ends_incidents_on_the_disk_too(tmp_path: Path) -> None:
    """The disk is full while one incident ends and another begins; it has room again, and then the agent is killed."""
    path = tmp_path / "outbox.sqlite"
    box = opened(path)
    box.put(alert(1))
    box._db.execute(f"PRAGMA max_page_count = {box._db.execute('PRAGMA page_count').fetchone()[0]}")
    begun = [alert(seq).model_copy(update={"model": "m" * 400}) for seq in range(10, 30)]
    for message in (*begun, ended(1)):
        box.put(message)
    assert len(box._in_memory) > 1
    assert drain(box) == [alert(1), *begun, ended(1)]
    box._db.execute("PRAGMA max_page_count = 100000")
    for message in (alert(3), ended(3)):
        box.put(message)
    drain(box)
    box.close()
    box = opened(path)
    box.end_orphans()
    assert [(message.id, message.ended) for message in drain(box)] == [(message.id, "restarted") for message in begun]


def test_what_was_open_when_the_agent_was_killed_is_ended_once(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    box = opened(path)
    for message in (alert(1), ended(1), alert(2), alert(3)):
        box.put(message)
    assert len(drain(box)) == 4
    box.close()
    for expected in ([("b-2", "restarted"), ("b-3", "restarted")], []):
        box = opened(path)
        box.end_orphans()
        assert [(message.id, message.ended) for message in drain(box)] == expected
        box.close()


def test_an_open_incident_that_cannot_be_read_does_not_stop_the_start(tmp_path: Path) -> None:
    box = opened(tmp_path / "outbox.sqlite")
    box.put(alert(1))
    box.put(alert(2))
    box._db.execute("UPDATE open_incident SET payload = 'from another version' WHERE id = 'b-1'")
    drain(box)
    box.end_orphans()
    assert [(message.id, message.duration_s) for message in drain(box)] == [("b-2", None)]
    box.end_orphans()
    assert drain(box) == []


def test_a_row_that_cannot_be_read_is_dropped_and_counted(tmp_path: Path) -> None:
    box = opened(tmp_path / "outbox.sqlite")
    box.put(alert(1))
    box.put(alert(2))
    box._db.execute("UPDATE outbox SET payload = 'from another version' WHERE number = 1")
    assert drain(box) == [alert(2)]
    assert (box.lost, box.depth) == (1, 0)


def test_what_waits_under_the_name_that_a_camera_had_is_told_of_and_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("new", "cam7", "empty", "busy", "killed", "junk", "folder", "pipe")
    own, old, empty, busy, killed, junk, folder, pipe = (tmp_path / f"maskfleet.lobby.{name}.sqlite" for name in names)
    for path in (own, old, empty, busy):
        box = opened(path)
        for message in (alert(1), ended(1), alert(2)) if path != empty else ():
            box.put(message)
        if path != busy:  # an agent has it
            box.close()
    for end in ("", "-wal"):  # as a kill leaves them, and a copy without its lock
        shutil.copyfile(f"{busy}{end}", f"{killed}{end}")
    junk.write_bytes(b"no database")
    folder.mkdir()
    os.mkfifo(pipe)
    before = set(tmp_path.iterdir())
    warn_of_others(tmp_path, own)
    says = '4 messages of maskfleet.lobby.{} wait there; docs/camera.md, "Rename one", tells how to send them, with its certificate'
    told = [f"{path}: {says.format(name)}" for path, name in ((old, "cam7"), (killed, "killed"))]
    assert caplog.messages == told, "two alerts, two ends: nobody has told the second"
    assert set(tmp_path.iterdir()) <= before
    caplog.clear()
    with old.with_suffix(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # an agent that has not opened it yet
        warn_of_others(tmp_path, own)
    assert len(caplog.messages) == 1
    assert str(killed) in caplog.messages[0]
    caplog.clear()
    warn_of_others(tmp_path / "none", own)
    assert not caplog.messages
    for path in (old, killed):
        box = opened(path)
        box.end_orphans()
        assert [message.id for message in drain(box)] == ["b-1", "b-1", "b-2", "b-2"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_what_does_not_fit_on_a_disk_is_not_lost_and_what_was_told_is_not_told_again(small_disk: Path) -> None:
    box = opened(small_disk / "outbox.sqlite")
    alerts = [alert(seq).model_copy(update={"model": "m" * 400}) for seq in range(1, 601)]
    for message in alerts:
        box.put(message)
    assert len(box._in_memory) > 0
    assert drain(box) == alerts
    assert (box.depth, box.lost, box.oldest()) == (0, 0, None)
    box.close()


def test_an_agent_can_be_started_on_a_full_disk(small_disk: Path) -> None:
    """Its outbox is read as it was left, and what comes waits in memory."""
    box = opened(small_disk / "outbox.sqlite")
    for seq in (1, 2):
        box.put(alert(seq))
    box._db.execute("UPDATE open_incident SET payload = 'from another version' WHERE id = 'b-1'")
    box.close()
    with (small_disk / "all the rest").open("wb", buffering=0) as rest, suppress(OSError):
        while True:
            rest.write(bytes(100))
    box = opened(small_disk / "outbox.sqlite")
    box.end_orphans()
    box.put(alert(3))
    assert len(box._in_memory) == 2, "there is no room"
    assert [message.id for message in drain(box)] == ["b-1", "b-2", "b-2", "b-3"]
    box.close()
