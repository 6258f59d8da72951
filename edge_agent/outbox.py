"""Alerts and incidents on disk until the broker has acknowledged them.

Nothing else is stored: telemetry that cannot be sent at its time is worth nothing later, and takes no room from an alert.
"""

import contextlib
import fcntl
import logging
import sqlite3
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from protocol.errors import DeviceError, Rejected
from protocol.messages import Alert, IncidentEnded

log = logging.getLogger(__name__)

KINDS: dict[str, type[Alert] | type[IncidentEnded]] = {"alert": Alert, "incident": IncidentEnded}
TABLES = """
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, payload BLOB NOT NULL, kernel_boot TEXT NOT NULL, stored_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS open_incident (id TEXT PRIMARY KEY, payload BLOB NOT NULL, kernel_boot TEXT NOT NULL, stored_s REAL NOT NULL);
"""

EXCLUSIVE = "PRAGMA locking_mode=EXCLUSIVE"
LOCK = ".lock"

KERNEL_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Limits:
    """What an outbox may hold; beyond any of them the oldest message is dropped, and counted."""

    messages: int = 10_000
    size_bytes: int = 8_000_000
    age_s: float = 30 * 86_400
    """Since it was told; when the machine was restarted, since the outbox was opened: no clock knows better."""


@dataclass(frozen=True)
class Row:
    """A message that waits."""

    number: int
    """Rises from message to message; -1 for one that waits in memory."""
    message: Alert | IncidentEnded
    told_s: float | None
    """Since when it waits, on the monotonic clock; None when the machine was restarted since, for then no clock knows."""
    size_bytes: int


class Outbox:
    """A queue in an SQLite file (write-ahead log, synced at each change). Any thread may use it, one at a time.

    When the disk fails or is full, messages wait in memory until it is well again: they are sent all the same, in
    their order, and only the agent's end in that time could lose them.
    """

    def __init__(self, path: Path, limits: Limits = Limits()) -> None:
        """Opens or makes the file; raises DeviceError when that cannot be done."""
        self._path = path
        self._limits = limits
        self._opened_s = time.monotonic()
        self._kernel_boot = _kernel_boot()
        self._in_memory: deque[Row] = deque()
        self._unnoted: deque[Row] = deque(maxlen=limits.messages)
        """Messages that went out from memory: the disk has yet to learn which incidents they opened and ended."""
        self._removed_to = 0
        self._complaint = ""
        self.lost = 0
        """Messages dropped since the start: the outbox was full, they were too old, or could not be read."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path.with_suffix(LOCK))
            try:
                self._db = _open(path)
            except sqlite3.DatabaseError as error:
                if "not a database" not in str(error) and "malformed" not in str(error):
                    raise
                damaged = path.with_suffix(".damaged")
                log.warning("outbox %s: %s; kept as %s, a new one begins", path, error, damaged)
                path.replace(damaged)
                self._db = _open(path)
            held: tuple[int, int] = self._db.execute("SELECT count(*), coalesce(sum(length(payload)), 0) FROM outbox").fetchone()
            self._on_disk, self._bytes = held
        except (OSError, sqlite3.Error) as error:
            if hasattr(self, "_lock"):
                self._lock.close()
            raise DeviceError(f"outbox {path}: {error}") from None

    @property
    def depth(self) -> int:
        """How many messages wait."""
        return self._on_disk + len(self._in_memory)

    def put(self, message: Alert | IncidentEnded, told_s: float | None = None) -> None:
        """Stores a message that was told a moment ago (now, unless said otherwise); on a sound disk it survives a power cut from here on.

        The oldest goes when there are too many.
        """
        row = Row(-1, message, time.monotonic() if told_s is None else told_s, len(message.encode()))
        self._in_memory.append(row)
        self._bytes += row.size_bytes
        self._save()
        self._drop_excess()

    def oldest(self) -> Row | None:
        """The message that waits longest and is not too old; None when none waits, or none can be read now."""
        self._save()
        self._drop_excess()
        return self._first()

    def _drop_excess(self) -> None:
        """Drops the oldest messages until all limits are kept."""
        while (row := self._first()) is not None:
            age_s = time.monotonic() - (self._opened_s if row.told_s is None else row.told_s)
            if self.depth <= self._limits.messages and self._bytes <= self._limits.size_bytes and age_s <= self._limits.age_s:
                return
            self.remove(row)
            self.lost += 1

    def _first(self) -> Row | None:
        query = "SELECT number, kind, payload, kernel_boot, stored_s FROM outbox WHERE number > ? ORDER BY number LIMIT 1"
        while True:
            try:
                found = self._db.execute(query, (self._removed_to,)).fetchone()
            except sqlite3.Error as error:
                self._complain(error)
                found = None
            if found is None:
                return self._in_memory[0] if self._in_memory else None
            number, kind, payload, kernel_boot, stored_s = found
            is_of_this_boot = kernel_boot and kernel_boot == self._kernel_boot  # where none is told, nobody knows
            try:
                return Row(number, KINDS[kind].decode(payload), stored_s if is_of_this_boot else None, len(payload))
            except (Rejected, KeyError) as error:  # another version of the agent wrote it
                log.warning("outbox %s: a message cannot be read and is dropped: %s", self._path, error)
                self._forget(number, len(payload))
                self.lost += 1

    def remove(self, row: Row) -> None:
        """Forgets the oldest message: the broker has it. A full disk may keep the row, which is then passed over.

        A message that was dropped or moved to the disk meanwhile is left as it is: it may arrive twice, never not at all.
        """
        if row.number > self._removed_to:
            self._forget(row.number, row.size_bytes)
        elif self._in_memory and self._in_memory[0] is row:
            self._unnoted.append(self._in_memory.popleft())
            self._bytes -= row.size_bytes

    def end_orphans(self) -> None:
        """Ends the incidents that were open when the agent was killed: whoever heard their alert hears that they are over."""
        for id_, payload in self._db.execute("SELECT id, payload FROM open_incident ORDER BY stored_s").fetchall():
            try:
                alert = Alert.decode(payload)
            except Rejected as error:
                log.warning("outbox %s: an open incident cannot be read and is dropped: %s", self._path, error)
                self._delete("DELETE FROM open_incident WHERE id = ?", id_)
                continue
            self.put(
                IncidentEnded(
                    id=alert.id,
                    boot=alert.boot,
                    seq=alert.seq,
                    started=alert.started,
                    duration_s=None,
                    worst_p_no_mask=alert.p_no_mask,
                    frames=0,
                    ended="restarted",
                )
            )

    def close(self) -> None:
        """Lets the file go; what waits in memory is saved, or lost."""
        self._save()
        if self._in_memory:
            log.warning("outbox %s: %d messages were never stored, and are lost", self._path, len(self._in_memory))
        self._db.close()
        self._lock.close()

    def _forget(self, number: int, size_bytes: int) -> None:
        self._removed_to = number
        self._on_disk -= 1
        self._bytes -= size_bytes
        self._delete("DELETE FROM outbox WHERE number <= ?", number)

    def _delete(self, statement: str, which: int | str) -> None:
        """A full disk may keep what is deleted."""
        try:
            self._db.execute(statement, (which,))
        except sqlite3.Error as error:
            self._complain(error)

    def _save(self) -> None:
        """Moves what waits in memory to the disk, in order, as far as that goes."""
        try:
            while self._unnoted:
                self._note_open(self._unnoted[0])
                self._unnoted.popleft()
            while self._in_memory:
                row = self._in_memory[0]
                kind = next(name for name, own in KINDS.items() if isinstance(row.message, own))
                with self._db:  # both or neither
                    self._db.execute("BEGIN")
                    self._db.execute(
                        "INSERT INTO outbox(kind, payload, kernel_boot, stored_s) VALUES(?, ?, ?, ?)",
                        (kind, row.message.encode(), self._kernel_boot, row.told_s),
                    )
                    self._note_open(row)
                self._in_memory.popleft()
                self._on_disk += 1
                self._complaint = ""
        except sqlite3.Error as error:
            self._complain(error)

    def _note_open(self, row: Row) -> None:
        """Writes down which incident is open from now on, or is not any more."""
        if isinstance(row.message, Alert):
            values = (row.message.id, row.message.encode(), self._kernel_boot, row.told_s)
            self._db.execute("INSERT OR REPLACE INTO open_incident(id, payload, kernel_boot, stored_s) VALUES(?, ?, ?, ?)", values)
        else:
            self._db.execute("DELETE FROM open_incident WHERE id = ?", (row.message.id,))

    def _complain(self, error: sqlite3.Error) -> None:
        """Once of the same trouble: the disk is asked again before each message that goes out."""
        complaint = f"{error}; {len(self._in_memory)} messages wait in memory"
        log.log(logging.DEBUG if complaint == self._complaint else logging.WARNING, "outbox %s: %s", self._path, complaint)
        self._complaint = complaint


def warn_of_others(folder: Path, own: Path) -> None:
    """Warns of each other outbox in a folder in which something waits: of a camera that was renamed. One that an agent has open is left alone."""
    for path in sorted(folder.glob("*.*.*.sqlite")):
        try:
            held = 0 if path == own or not path.is_file() or _is_held(path.with_suffix(LOCK)) else _count(path)
        except (OSError, sqlite3.Error):  # it is another's, or not an outbox
            continue
        if held:
            how = 'docs/camera.md, "Rename one", tells how to send them, with its certificate'
            log.warning("%s: %d messages of %s wait there; %s", path, held, path.stem, how)


def _count(path: Path) -> int:
    """How many messages an agent that opens this outbox would have to send; raises sqlite3.Error. No file is left beside it that was not there."""
    was_killed = path.with_name(f"{path.name}-wal").exists()  # which holds its last messages: it is opened and closed as by its agent
    how = "mode=rw" if was_killed else "immutable=1"
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=0)) as db:
        db.execute(EXCLUSIVE)
        return int(db.execute("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM open_incident)").fetchone()[0])


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute(EXCLUSIVE)  # needs no file for shared memory, for which a full disk would have no room
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(TABLES)
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":  # else only the first message on a damaged page would find it
            raise sqlite3.DatabaseError(f"malformed: {found.splitlines()[-1]}")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _lock(path: Path) -> IO[str]:
    """Held as long as the outbox is open: two agents of one name would end each other's incidents."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DeviceError(f"{path}: another agent of this name is running on this machine") from None
    return file


def _is_held(path: Path) -> bool:
    """Whether an agent has this lock, which is let go at once. Raises OSError when that cannot be told."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _kernel_boot() -> str:
    """Changes when the machine restarts: the monotonic clock only means something within one value of it."""
    try:
        return KERNEL_BOOT_FILE.read_text().strip()
    except OSError:
        return ""
