"""A coordinator's book, and releases for its shelf."""

import shutil
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from made_releases import Made

from protocol.rollouts import UpdateState
from protocol.signature import TrustedKeys, public_text, trusted_keys
from trainer import keys
from trainer.book import Book
from trainer.journal import Journal
from trainer.rollout_state import Answered, Tick
from trainer.shelf import Shelf

KEY = Ed25519PrivateKey.generate()


TRUSTED = trusted_keys([public_text(KEY.public_key())])


OTHERS = trusted_keys([public_text(Ed25519PrivateKey.generate().public_key())])


class NextWeek(datetime):
    """A clock after the release has expired."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(days=7)


def book(folder: Path, trusted: TrustedKeys = TRUSTED) -> Book:
    """A coordinator's, as after a start; one that was there before was killed."""
    journal = Journal(folder / "rollouts.sqlite", lambda: 1000.0)
    assert journal.take() == ""
    own = Book(journal, Shelf(folder / "releases", trusted), lambda: 1000.0)
    own.load()
    return own


def release(folder: Path, classifier_release: Path, counter: int = 7, chunk_bytes: int = 32 * 1024) -> str:
    """The name of a release on the shelf that is good for a day."""
    copy = shutil.copytree(classifier_release, folder / f"signed-{counter}")
    keys.sign(copy, KEY, counter, datetime.now(UTC) + timedelta(days=1), "0", chunk_bytes)
    return Shelf(folder / "releases", TRUSTED).put(copy).name


def old_release(folder: Path, counter: int) -> str:
    """The name of another model's release on the shelf."""
    written = Made("classifier", "old", counter).write(folder / f"old-{counter}")
    keys.sign(written, KEY, counter, datetime.now(UTC) + timedelta(days=1), "0", 32 * 1024)
    return Shelf(folder / "releases", TRUSTED).put(written).name


def commit(own: Book, rollout: str, camera: str) -> None:
    """A camera takes what is asked of it, and the rollout ends."""
    digest = own.entries[rollout].state.plan.digest
    own.hear(Answered(1000.0, camera, rollout, 1, digest, UpdateState.COMMITTED, "b", 1))
    for second in range(1001, 5000, 400):
        own.hear(Tick(second))
