"""Reads a release folder; writes files of one, and of a run."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from protocol.errors import Reason, Rejected, naming
from protocol.release import MANIFEST_FILE, MODEL_FILE, SIGNATURE_FILE, Manifest


def read_release(folder: Path, kind: Literal["classifier", "detector"] | None = None) -> tuple[Manifest, Path]:
    """The manifest and the model file of a release (of a kind, if one is named), its digest checked; raises Rejected."""
    with naming(folder):
        if not (folder / MANIFEST_FILE).is_file() or not (folder / MODEL_FILE).is_file():
            raise Rejected(Reason.BAD_RELEASE, f"not a release folder (needs {MODEL_FILE} and {MANIFEST_FILE})")
        manifest = Manifest.parse((folder / MANIFEST_FILE).read_bytes())
        if kind is not None and manifest.kind != kind:
            raise Rejected(Reason.WRONG_KIND, f"a {manifest.kind}, not a {kind}")
        manifest.check_model((folder / MODEL_FILE).read_bytes())
    return manifest, folder / MODEL_FILE


def make_release_folder(folder: Path) -> None:
    """Makes the folder of a new release; raises Rejected when it holds one that is signed, for that is never replaced."""
    if (folder / SIGNATURE_FILE).exists():
        raise Rejected(Reason.BAD_INPUT, f"{folder}: holds a signed release; name another folder")
    folder.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file as a whole or not at all, whenever the power fails; raises OSError, which names it."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        sync(part)
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def sync(path: Path) -> None:
    """A file, or the names in a folder, outlive a power cut from here on; raises OSError."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process holds this lock file; a process that dies lets go."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
