"""Alerts and incidents on disk until the broker has acknowledged them."""

import logging
import sqlite3
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import DeviceError, Rejected
from protocol.messages import Alert, IncidentEnded

log = logging.getLogger(__name__)

KINDS: dict[str, type[Alert] | type[IncidentEnded]] = {"alert": Alert, "incident": IncidentEnded}
MAX_ROWS = 10_000
TABLE = """CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, payload BLOB NOT NULL, kernel_boot TEXT NOT NULL, stored_s REAL NOT NULL
)"""

KERNEL_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Row:
    """A message that waits."""

    number: int
    """Rises from message to message; -1 for one that waits in memory."""
    message: Alert | IncidentEnded
    stored_s: float | None
    """On the monotonic clock; None when the machine was restarted since, for then no clock knows."""


class Outbox:
    """A queue in an SQLite file (write-ahead log, synced at each change). Any thread may use it, one at a time.

    When the disk fails or is full, messages wait in memory until it is well again: they are sent all the same, in
    their order, and only a crash in that time could lose them.
    """

    def __init__(self, path: Path, max_rows: int = MAX_ROWS) -> None:
        """Opens or makes the file; raises DeviceError when that cannot be done."""
        self._path = path
        self._max_rows = max_rows
        self._kernel_boot = _kernel_boot()
        self._in_memory: deque[Row] = deque()
        self._removed_to = 0
        self.lost = 0
        """Messages dropped since the start because the outbox was full."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(TABLE)
            self._on_disk = self._count()
        except (OSError, sqlite3.Error) as error:
            raise DeviceError(f"outbox {path}: {error}") from None

    @property
    def depth(self) -> int:
        """How many messages wait."""
        return self._on_disk + len(self._in_memory)

    def put(self, message: Alert | IncidentEnded) -> None:
        """Stores a message; on a sound disk it survives a power cut from here on. The oldest goes when there are too many."""
        self._in_memory.append(Row(-1, message, time.monotonic()))
        self._save()
        if self.depth > self._max_rows:
            oldest = self.oldest()
            if oldest is not None:
                self.remove(oldest)
                self.lost += 1

    def oldest(self) -> Row | None:
        """The message that waits longest; None when none waits."""
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
            try:
                return Row(number, KINDS[kind].decode(payload), stored_s if kernel_boot == self._kernel_boot else None)
            except (Rejected, KeyError) as error:  # another version of the agent wrote it
                log.warning("outbox %s: a message cannot be read and is dropped: %s", self._path, error)
                self._forget(number)
                self.lost += 1

    def remove(self, row: Row) -> None:
        """Forgets the oldest message: the broker has it. A full disk may keep the row, which is then passed over."""
        if row.number < 0:
            self._in_memory.popleft()
        else:
            self._forget(row.number)

    def close(self) -> None:
        self._db.close()

    def _forget(self, number: int) -> None:
        self._removed_to = number
        self._on_disk -= 1
        try:
            self._db.execute("DELETE FROM outbox WHERE number <= ?", (number,))
        except sqlite3.Error as error:
            self._complain(error)

    def _save(self) -> None:
        """Moves what waits in memory to the disk, in order, as far as that goes."""
        while self._in_memory:
            row = self._in_memory[0]
            kind = next(name for name, own in KINDS.items() if isinstance(row.message, own))
            values = (kind, row.message.encode(), self._kernel_boot, row.stored_s)
            try:
                self._db.execute("INSERT INTO outbox(kind, payload, kernel_boot, stored_s) VALUES(?, ?, ?, ?)", values)
            except sqlite3.Error as error:
                self._complain(error)
                return
            self._in_memory.popleft()
            self._on_disk += 1

    def _complain(self, error: sqlite3.Error) -> None:
        log.warning("outbox %s: %s; %d messages wait in memory", self._path, error, len(self._in_memory))

    def _count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM outbox").fetchone()[0])


def _kernel_boot() -> str:
    """Changes when the machine restarts: the monotonic clock only means something within one value of it."""
    try:
        return KERNEL_BOOT_FILE.read_text().strip()
    except OSError:
        return ""
