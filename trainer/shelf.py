"""Signed releases that may be shipped: a folder of release folders, and nothing that is not signed."""

import hashlib
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from protocol.errors import Reason, Rejected, naming
from protocol.release import CARD_FILE, MANIFEST_FILE, MODEL_FILE, SIGNATURE_FILE, Manifest
from protocol.rollouts import Desired
from protocol.signature import Signature, Statement, TrustedKeys, key_id
from protocol.topics import SEGMENT, SHORT_DIGEST
from trainer.folder import alone, read_release, sync
from trainer.keys import LONGEST_ROLLOUT, read_private, sign

FILES = (MANIFEST_FILE, SIGNATURE_FILE, MODEL_FILE, CARD_FILE)
HALF = ".part"


@dataclass(frozen=True)
class Shipment:
    """A signed release as it was read; whether it may be shipped today is for `check` to say."""

    manifest: Manifest
    manifest_bytes: bytes = field(repr=False)
    signature: Signature = field(repr=False)
    model: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """What the release is called on the shelf: the same model, signed anew by any key, is another release."""
        signed = hashlib.sha256(self.manifest_bytes + self.signature.encode()).hexdigest()
        return f"{self.manifest.kind}-{self.manifest.counter}-{signed[:12]}"

    @property
    def short_digest(self) -> str:
        """What the model is called in topics."""
        return self.manifest.digest[:SHORT_DIGEST]

    def check(self, trusted: TrustedKeys, now: datetime) -> None:
        """Raises Rejected unless the release is signed by one of the trusted keys (if any are given), in date, and fit to be asked for."""
        if trusted:
            self.signature.check(self.manifest_bytes, trusted, now)
        if not self.manifest.chunks:
            raise Rejected(Reason.BAD_RELEASE, f"release {self.manifest.name} {self.manifest.version}: its manifest names no chunks; sign it again")
        self.manifest.check_date(now)
        self.desired(LONGEST_ROLLOUT, 2**31, hold=True)

    def desired(self, rollout: str, attempt: int, hold: bool) -> Desired:
        """What is said to a camera that should have it."""
        return Desired.of(rollout, attempt, self.manifest_bytes, self.signature, hold)


def read_shipment(folder: Path) -> Shipment:
    """A signed release, its digest checked, its signature and its date not; raises Rejected."""
    manifest, model = read_release(folder)
    signature_file = folder / SIGNATURE_FILE
    if not signature_file.is_file():
        raise Rejected(Reason.BAD_SIGNATURE, f"{folder}: not signed; `maskfleet-trainer sign {folder} --key KEY` does that")
    manifest_bytes = (folder / MANIFEST_FILE).read_bytes()
    with naming(folder):
        signature = Signature.parse(signature_file.read_bytes())
    return Shipment(manifest, manifest_bytes, signature, model.read_bytes())


class Shelf:
    """The releases of one coordinator on disk; those that were read stay in memory."""

    def __init__(self, folder: Path, trusted: TrustedKeys) -> None:
        self._folder = folder
        self._trusted = trusted
        self._read: dict[str, Shipment] = {}

    def put(self, folder: Path) -> Shipment:
        """Copies a release onto the shelf, whole or not at all; raises Rejected when it may not be shipped."""
        shipment = read_shipment(folder)
        shipment.check(self._trusted, datetime.now(UTC))
        if not self.holds(shipment.name):
            files = {file.name: file.read_bytes() for name in FILES if (file := folder / name).is_file()}
            self._folder.mkdir(parents=True, exist_ok=True)
            with alone(self._folder.with_suffix(".lock")):
                if not self.holds(shipment.name):  # nor has another process put it there meanwhile
                    self._write(shipment.name, files)
        return shipment

    def _write(self, name: str, files: dict[str, bytes]) -> None:
        """Makes a release's folder in place of a damaged one; raises OSError, which names the shelf. Halves of killed processes are removed."""
        target = self._folder / name
        half = target.with_suffix(HALF)
        try:
            for left in (target, *self._folder.glob(f"*{HALF}")):
                shutil.rmtree(left, ignore_errors=True)
            half.mkdir()
            for own, data in files.items():
                (half / own).write_bytes(data)
                sync(half / own)
            sync(half)
            half.rename(target)
            sync(self._folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._folder)) from None
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def holds(self, name: str) -> bool:
        """Whether a release is there, and whole."""
        try:
            self.read(name)
        except Rejected:
            return False
        return True

    def highest_counter(self) -> int:
        """Of all releases that are there, and whole; 0 without one."""
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        return max((self.read(name).manifest.counter for name in names if self.holds(name)), default=0)

    def get(self, name: str) -> Shipment:
        """A release that is to be shipped from now on; raises Rejected when it is not there, or may not be shipped any more."""
        shipment = self.read(name)
        if shipment.name != name:  # under which it is looked for when the coordinator starts again
            raise Rejected(Reason.BAD_RELEASE, f"release {name!r}: its folder on the shelf must be called {shipment.name}")
        shipment.check(self._trusted, datetime.now(UTC))
        return shipment

    def check_back(self, back: Shipment, bad: Shipment) -> None:
        """Raises Rejected when cameras that believed a release may not believe the one that is to take its place.

        Whom they trust is what `bad` tells, within the keys that are trusted here, if any are given.
        """
        lost = bad.signature.roots() - back.signature.roots(datetime.now(UTC))
        if self._trusted:
            lost &= self._trusted.keys()
        if lost:
            raise Rejected(
                Reason.UNKNOWN_KEY,
                f"the way back is signed by key {back.signature.key}, and cameras may know {', '.join(sorted(lost))} alone: sign with that, or give"
                " the statement that vouches (`--sign-trust`); if no camera knows that key any more, start `watch` with `--trust` for the others",
            )

    def read(self, name: str) -> Shipment:
        """A release that was found good when its rollout began, whatever has expired since; raises Rejected when it is not there, or damaged."""
        if not SEGMENT.fullmatch(name) or not (self._folder / name).is_dir():
            raise Rejected(Reason.BAD_RELEASE, f"release {name!r}: not on the shelf {self._folder}")
        if name not in self._read:
            self._read[name] = read_shipment(self._folder / name)
        return self._read[name]


def put_again(shelf: Shelf, folder: Path, key: Path, statements: tuple[Statement, ...]) -> Shipment:
    """Puts a copy of a release on the shelf, signed with a counter that is higher than any before: the time; raises Rejected.

    Without statements, those stay that the release was signed with by the same key.
    """
    signer = read_private(key)
    if not statements and (folder / SIGNATURE_FILE).is_file():
        old = Signature.parse((folder / SIGNATURE_FILE).read_bytes())
        statements = old.statements if old.key == key_id(signer.public_key()) else ()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "release"
        manifest, model = read_release(folder)
        copy.mkdir()
        (copy / MANIFEST_FILE).write_bytes(manifest.encode())
        shutil.copyfile(model, copy / MODEL_FILE)
        counter = max(int(time.time()), manifest.counter + 1, shelf.highest_counter() + 1)
        sign(copy, signer, counter, None, manifest.minimum_agent, manifest.chunk_bytes, statements)
        return shelf.put(copy)
