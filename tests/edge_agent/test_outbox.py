import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.outbox import Outbox
from protocol.errors import DeviceError
from protocol.messages import Alert, IncidentEnded

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def alert(seq: int) -> Alert:
    return Alert(id=f"b-{seq}", boot="b", seq=seq, started=NOW, p_no_mask=0.9, votes="5/5", faces=1, model="m")


def ended(seq: int) -> IncidentEnded:
    return IncidentEnded(id=f"b-{seq}", boot="b", seq=seq, started=NOW, duration_s=1, worst_p_no_mask=0.9, frames=5, ended="left")


def test_first_in_first_out_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "state" / "outbox.sqlite"
    box = Outbox(path)
    for message in (alert(1), ended(1), alert(2)):
        box.put(message)
    box.close()
    box = Outbox(path)
    assert box.depth == 3
    told = []
    while (row := box.oldest()) is not None:
        told.append(row.message)
        assert 0 <= time.monotonic() - row.stored_s < 60
        box.remove(row)
    assert told == [alert(1), ended(1), alert(2)]
    assert (box.depth, box.lost) == (0, 0)


def test_when_full_the_oldest_goes_and_is_counted(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.sqlite", max_rows=3)
    for seq in range(1, 6):
        box.put(alert(seq))
    assert (box.depth, box.lost) == (3, 2)
    assert box.oldest().message == alert(3)


def test_after_a_restart_of_the_machine_nobody_knows_the_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Outbox(tmp_path / "outbox.sqlite")
    box.put(alert(1))
    box.close()
    monkeypatch.setattr("edge_agent.outbox.KERNEL_BOOT_FILE", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("another")
    assert Outbox(tmp_path / "outbox.sqlite").oldest().stored_s is None


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
        assert Outbox(path).depth >= last
        last = Outbox(path).depth


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite").write_bytes(b"not a database, certainly not one " * 100)
    with pytest.raises(DeviceError, match=r"outbox .*outbox\.sqlite: "):
        Outbox(tmp_path / "outbox.sqlite")


def drain(box: Outbox) -> list[Alert | IncidentEnded]:
    told = []
    while (row := box.oldest()) is not None:
        told.append(row.message)
        box.remove(row)
    return told


def test_on_a_full_disk_messages_wait_in_memory_in_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = Outbox(tmp_path / "outbox.sqlite")
    box.put(alert(1))
    box._db.execute(f"PRAGMA max_page_count = {box._db.execute('PRAGMA page_count').fetchone()[0]}")
    big = [alert(seq).model_copy(update={"model": "m" * 10_000}) for seq in (2, 3)]
    for message in (*big, ended(1)):
        box.put(message)
    assert "full" in caplog.text
    assert box.depth == 4
    assert drain(box) == [alert(1), *big, ended(1)]
    assert box.depth == 0


def test_what_waited_in_memory_is_saved_when_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    box = Outbox(path)
    box.put(alert(1))
    pages = box._db.execute("PRAGMA page_count").fetchone()[0]
    box._db.execute(f"PRAGMA max_page_count = {pages}")
    later = [alert(seq).model_copy(update={"model": "m" * 500}) for seq in range(2, 20)]
    for message in later:
        box.put(message)
    assert box._in_memory
    box._db.execute("PRAGMA max_page_count = 100000")
    box.put(alert(20))
    assert not box._in_memory
    box.close()
    assert drain(Outbox(path)) == [alert(1), *later, alert(20)]


def test_a_row_that_cannot_be_read_is_dropped_and_counted(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.sqlite")
    box.put(alert(1))
    box.put(alert(2))
    box._db.execute("UPDATE outbox SET payload = 'from another version' WHERE number = 1")
    assert drain(box) == [alert(2)]
    assert (box.lost, box.depth) == (1, 0)


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file system of 256 kB: what does not fit is not lost, what was told is not told again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        box = Outbox(disk / "outbox.sqlite")
        alerts = [alert(seq).model_copy(update={"model": "m" * 400}) for seq in range(1, 601)]
        for message in alerts:
            box.put(message)
        assert len(box._in_memory) > 0
        assert drain(box) == alerts
        assert (box.depth, box.lost, box.oldest()) == (0, 0, None)
        box.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
