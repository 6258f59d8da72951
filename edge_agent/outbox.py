"""Alerts and incidents on disk until the broker has acknowledged them."""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import DeviceError
from protocol.messages import Alert, IncidentEnded

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
    message: Alert | IncidentEnded
    age_s: float | None
    """Since it was stored; None when the machine was restarted since, for then no clock knows."""


class Outbox:
    """A queue in an SQLite file (write-ahead log, synced at each change). Any thread may use it, one at a time."""

    def __init__(self, path: Path, max_rows: int = MAX_ROWS) -> None:
        """Opens or makes the file; raises DeviceError when that cannot be done."""
        self._path = path
        self._max_rows = max_rows
        self._kernel_boot = _kernel_boot()
        self.lost = 0
        """Messages dropped since the start because the outbox was full."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(TABLE)
            self.depth = self._count()
        except (OSError, sqlite3.Error) as error:
            raise DeviceError(f"outbox {path}: {error}") from None

    def put(self, message: Alert | IncidentEnded) -> None:
        """Stores a message; when it returns, the message survives a power cut. The oldest goes when there are too many."""
        kind = next(name for name, own in KINDS.items() if isinstance(message, own))
        try:
            self._db.execute(
                "INSERT INTO outbox(kind, payload, kernel_boot, stored_s) VALUES(?, ?, ?, ?)",
                (kind, message.encode(), self._kernel_boot, time.monotonic()),
            )
            excess = self._count() - self._max_rows
            if excess > 0:
                self._db.execute("DELETE FROM outbox WHERE number IN (SELECT number FROM outbox ORDER BY number LIMIT ?)", (excess,))
                self.lost += excess
            self.depth = self._count()
        except sqlite3.Error as error:
            raise DeviceError(f"outbox {self._path}: {error}") from None

    def oldest(self) -> Row | None:
        """The message that waits longest; None when none waits."""
        try:
            row = self._db.execute("SELECT number, kind, payload, kernel_boot, stored_s FROM outbox ORDER BY number LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise DeviceError(f"outbox {self._path}: {error}") from None
        if row is None:
            return None
        number, kind, payload, kernel_boot, stored_s = row
        age_s = max(0.0, time.monotonic() - stored_s) if kernel_boot == self._kernel_boot else None
        return Row(number, KINDS[kind].decode(payload), age_s)

    def remove(self, number: int) -> None:
        """Forgets a message that the broker has."""
        try:
            self._db.execute("DELETE FROM outbox WHERE number = ?", (number,))
            self.depth = self._count()
        except sqlite3.Error as error:
            raise DeviceError(f"outbox {self._path}: {error}") from None

    def close(self) -> None:
        self._db.close()

    def _count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM outbox").fetchone()[0])


def _kernel_boot() -> str:
    """Changes when the machine restarts: the monotonic clock only means something within one value of it."""
    try:
        return KERNEL_BOOT_FILE.read_text().strip()
    except OSError:
        return ""
