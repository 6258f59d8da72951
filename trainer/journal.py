"""The coordinator's memory: rollouts, their cameras and their record in SQLite; and the lease that lets one coordinator write.

Each start of a coordinator is an epoch. Whoever writes must hold the lease of the latest epoch; one that was thought dead and
comes back finds that it does not, and stops.
"""

import contextlib
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from protocol.errors import DeviceError, Reason, Rejected, one_line
from protocol.messages import MAX_TEXT, utc
from protocol.rollouts import RolloutLog
from trainer.rollout_state import Camera, Note, Rollout

LEASE_S = 15.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (one INTEGER PRIMARY KEY CHECK (one = 1), host TEXT, pid INTEGER, epoch INTEGER, until_s REAL);
CREATE TABLE IF NOT EXISTS rollout (id TEXT PRIMARY KEY, place INTEGER UNIQUE, shipment TEXT, head TEXT, is_open INTEGER);
CREATE TABLE IF NOT EXISTS camera (rollout TEXT, name TEXT, state TEXT, PRIMARY KEY (rollout, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS desired (camera TEXT PRIMARY KEY, rollout TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY AUTOINCREMENT, rollout TEXT, epoch INTEGER, at_s REAL, event TEXT, camera TEXT,
                                text TEXT, is_sent INTEGER DEFAULT 0);
CREATE INDEX IF NOT EXISTS log_unsent ON log (seq) WHERE is_sent = 0;
"""


class Journal:
    """`take` first, then `load`; every write is whole or not at all. Raises DeviceError when the disk fails or the lease is lost."""

    def __init__(self, file: Path, clock: Callable[[], float]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._clock = clock
        self._me = (socket.gethostname(), os.getpid())
        self.epoch = 0
        self._seen_s = self._seen_at_s = 0.0
        try:
            self._db = sqlite3.connect(file, isolation_level=None, timeout=5)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise DeviceError(f"journal {file}: {error}") from None

    def take(self) -> str:
        """Takes the lease, and begins an epoch; returns who holds it when that is somebody else who may be alive."""
        with self.together():
            row = self._db.execute("SELECT host, pid, epoch, until_s FROM lease").fetchone()
            host, pid, epoch, until_s = row or ("", 0, 0, 0.0)
            if until_s > self._clock() and not self._is_dead(host, pid) and not self._stands_still(until_s):
                return f"{host}, process {pid}"
            self.epoch = epoch + 1
            self._db.execute("REPLACE INTO lease VALUES (1, ?, ?, ?, ?)", (*self._me, self.epoch, self._clock() + LEASE_S))
        return ""

    def renew(self) -> None:
        """Holds the lease for longer."""
        with self.together():
            self._check()
            self._db.execute("UPDATE lease SET until_s = ?", (self._clock() + LEASE_S,))

    def close(self) -> None:
        """Lets the lease go."""
        with self.together():
            self._db.execute("UPDATE lease SET until_s = 0 WHERE epoch = ?", (self.epoch,))
        self._db.close()

    def load(self) -> list[tuple[Rollout, str]]:
        """The rollouts that are not over, the oldest first, and what each ships; raises Rejected when one cannot be read."""
        found = []
        for name, shipment, head in self._read("SELECT id, shipment, head FROM rollout WHERE is_open ORDER BY place"):
            cameras = self._read("SELECT name, state FROM camera WHERE rollout = ? ORDER BY name", name)
            try:
                rollout = Rollout.model_validate_json(head)
                found.append((rollout.model_copy(update={"cameras": {own: Camera.model_validate_json(state) for own, state in cameras}}), shipment))
            except ValidationError as error:
                raise Rejected(Reason.BAD_INPUT, f"journal {self._file}: rollout {name} cannot be read ({one_line(error)})") from None
        return found

    def knows(self, rollout: str) -> bool:
        """Whether there was ever a rollout of this name."""
        return bool(self._read("SELECT 1 FROM rollout WHERE id = ?", rollout))

    def latest(self, most: int) -> set[str]:
        """The names of the last rollouts, open or not."""
        return {name for (name,) in self._read("SELECT id FROM rollout ORDER BY place DESC LIMIT ?", most)}

    def save(self, before: Rollout | None, after: Rollout, shipment: str, notes: Iterable[Note], at_s: float, is_open: bool) -> None:
        """Writes down what changed in a rollout, and the notes on it."""
        name = after.plan.rollout
        known = before.cameras if before else {}
        cameras = [(name, own, state.model_dump_json()) for own, state in after.cameras.items() if known.get(own) is not state]
        gone = [(name, own) for own in known.keys() - after.cameras.keys()]
        lines = [(name, self.epoch, at_s, note.event, note.camera, note.text) for note in notes]
        with self.together():
            self._check()
            self._db.execute(
                "INSERT INTO rollout VALUES (?, (SELECT COALESCE(MAX(place), 0) + 1 FROM rollout), ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET head = excluded.head, is_open = excluded.is_open",
                (name, shipment, after.model_dump_json(exclude={"cameras"}), is_open),
            )
            self._db.executemany("REPLACE INTO camera VALUES (?, ?, ?)", cameras)
            self._db.executemany("DELETE FROM camera WHERE rollout = ? AND name = ?", gone)
            self._db.executemany("INSERT INTO log (rollout, epoch, at_s, event, camera, text) VALUES (?, ?, ?, ?, ?, ?)", lines)

    def load_desired(self) -> dict[str, str]:
        """By camera: the rollout whose wish was said to it last."""
        return dict(self._read("SELECT camera, rollout FROM desired"))

    def save_desired(self, rollouts: Mapping[str, str]) -> None:
        """Writes down whose wishes are said to some cameras."""
        with self.together():
            self._check()
            self._db.executemany("REPLACE INTO desired VALUES (?, ?)", rollouts.items())

    def unsent(self, most: int = 100) -> list[tuple[str, RolloutLog]]:
        """Lines of the record that the broker has not acknowledged, the oldest first, each with its rollout.

        A text that is too long for a message is cut here too: one line of an old journal must not silence all that follow.
        """
        rows = self._read("SELECT rollout, epoch, seq, at_s, event, camera, text FROM log WHERE is_sent = 0 ORDER BY seq LIMIT ?", most)
        return [(row[0], RolloutLog(epoch=row[1], seq=row[2], at=utc(row[3]), event=row[4], camera=row[5], text=row[6][:MAX_TEXT])) for row in rows]

    def mark_sent(self, seq: int) -> None:
        """The broker has all lines up to this one."""
        with self.together():
            self._db.execute("UPDATE log SET is_sent = 1 WHERE is_sent = 0 AND seq <= ?", (seq,))

    def _read(self, query: str, *values: object) -> list[Any]:
        """All rows at once."""
        with self._one_error():
            return self._db.execute(query, values).fetchall()

    def _check(self) -> None:
        host, pid, epoch = self._db.execute("SELECT host, pid, epoch FROM lease").fetchone()
        if epoch != self.epoch:
            raise DeviceError(f"another coordinator has taken over ({host}, process {pid}, epoch {epoch}): this one stops")

    def _is_dead(self, host: str, pid: int) -> bool:
        """Whether the holder of a lease is surely gone: a process of this machine that is no more, or had our own number."""
        if host != self._me[0]:
            return False
        return pid == self._me[1] or not Path(f"/proc/{pid}").exists()

    def _stands_still(self, until_s: float) -> bool:
        """Whether a lease has not been renewed for as long as we have waited: its end cannot be trusted when the clock was set back."""
        if until_s != self._seen_s:
            self._seen_s, self._seen_at_s = until_s, time.monotonic()
        return time.monotonic() - self._seen_at_s >= LEASE_S

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Begun as the writer, and kept or taken back at the end; within another one, with that."""
        if self._db.in_transaction:
            yield
            return
        with self._one_error():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _one_error(self) -> Iterator[None]:
        """Whatever SQLite raises, to read or to write, is a failure of the disk."""
        try:
            yield
        except sqlite3.Error as error:
            raise DeviceError(f"journal {self._file}: {error}") from None
