"""What a camera keeps of its models: a journal, and for each kind two slots, of which one is in use and the other is free.

FOLDER/journal.json                       the state of the update machine
FOLDER/classifier/a/  .../b/              a release each; `model.part` while it is being fetched
FOLDER/detector/a/    .../b/
"""

import logging
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from edge_agent.disk import Disk
from edge_agent.update_state import Release, Slot, State
from protocol.chunks import check
from protocol.errors import Reason, Rejected
from protocol.release import MANIFEST_FILE, MODEL_FILE, Manifest, digest
from protocol.rollouts import Kind

log = logging.getLogger(__name__)

JOURNAL = "journal.json"
PART_FILE = "model.part"


class Slots:
    """The models folder of one camera. All methods block on the disk and raise OSError when it fails."""

    def __init__(self, folder: Path, shipped: dict[Kind, tuple[Release, Path | None]], disk: Disk | None = None) -> None:
        """`shipped` are the models that need no slot, and the file of each where it has one."""
        self._folder = folder
        self._shipped = shipped
        self._disk = disk or Disk()

    def shipped(self, kind: Kind) -> Release:
        """The model of a kind that is always there."""
        return self._shipped[kind][0]

    def load(self) -> State:
        """The state in the journal; a fresh one when there is none, or none that can be read."""
        path = self._folder / JOURNAL
        try:
            return State.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            pass
        except (ValidationError, OSError) as error:
            log.error("%s cannot be read, so the models that ship are used: %s", path, str(error).splitlines()[0])  # noqa: TRY400
        return State(classifier=self.shipped("classifier"), detector=self.shipped("detector"))

    def save(self, state: State) -> None:
        """Returns when the state would survive a power cut."""
        self._make_dir(self._folder)
        self._disk.save(self._folder / JOURNAL, state.model_dump_json().encode())

    def folder(self, kind: Kind, slot: Slot) -> Path:
        """Where a slot lies."""
        return self._folder / kind / slot

    def has(self, manifest: Manifest, slot: Slot) -> bool:
        """Whether the whole model is on this disk, in either slot or among what ships."""
        return self._find(manifest, slot) is not None

    def part(self, manifest: Manifest, slot: Slot) -> "Part":
        """A slot into which the chunks of a model go; what it held of another model is removed."""
        folder = self.folder(manifest.kind, slot)
        self._make_dir(folder)
        if not self._is(folder / MODEL_FILE, manifest):
            self._disk.remove(folder / MODEL_FILE)
        return Part(folder / PART_FILE, manifest, self._disk)

    def prove(self, manifest: Manifest, manifest_bytes: bytes, slot: Slot) -> Path:
        """The slot's folder, now a whole release; raises Rejected when its chunks do not make the model of the manifest.

        Raises OSError when chunks that were right have changed on the disk: those are fetched again next time.
        """
        folder = self.folder(manifest.kind, slot)
        found = self._find(manifest, slot)
        if found is None:
            if Part(folder / PART_FILE, manifest, self._disk).missing():
                raise OSError(f"{folder / PART_FILE}: what was written is not what can be read")
            self._disk.remove(folder / PART_FILE)
            raise Rejected(Reason.WRONG_DIGEST, "the chunks are right, and yet do not make the model of the manifest")
        self._make_dir(folder)
        self._disk.save(folder / MANIFEST_FILE, manifest_bytes)
        if found != folder / MODEL_FILE:
            self._disk.save(folder / MODEL_FILE, found.read_bytes())
            self._disk.remove(folder / PART_FILE)
        return folder

    def _find(self, manifest: Manifest, slot: Slot) -> Path | None:
        folder = self.folder(manifest.kind, slot)
        shipped = self._shipped[manifest.kind][1]
        models = [self.folder(manifest.kind, own) / MODEL_FILE for own in get_args(Slot)]
        places = [folder / MODEL_FILE, folder / PART_FILE, *models, *([shipped] if shipped else [])]
        return next((path for path in places if self._is(path, manifest)), None)

    def _is(self, path: Path, manifest: Manifest) -> bool:
        try:
            return path.stat().st_size == manifest.size_bytes and digest(path.read_bytes()) == manifest.digest
        except FileNotFoundError:
            return False

    def _make_dir(self, folder: Path) -> None:
        if not folder.is_dir():
            self._disk.make_dir(folder)
            for above in (folder, *folder.parents)[:4]:  # the base of all lies in the state folder, which is older
                self._disk.sync_dir(above)


class Part:
    """A model on its way: which chunks are here is read from the file itself, so nothing else need be true after a power cut."""

    def __init__(self, path: Path, manifest: Manifest, disk: Disk) -> None:
        self._path = path
        self._manifest = manifest
        self._disk = disk
        if path.exists() and path.stat().st_size > manifest.size_bytes:
            disk.remove(path)

    def missing(self) -> tuple[int, ...]:
        """The numbers of the chunks that are not here, or not right."""
        data = self._path.read_bytes() if self._path.exists() else b""
        size = self._manifest.chunk_bytes
        found = (digest(data[number * size : (number + 1) * size]) for number in range(len(self._manifest.chunks)))
        return tuple(number for number, (own, right) in enumerate(zip(found, self._manifest.chunks, strict=True)) if own != right)

    def put(self, number: int, chunk: bytes) -> None:
        """Writes a chunk; raises Rejected when it is not that chunk."""
        check(self._manifest, number, chunk)
        self._disk.write_at(self._path, number * self._manifest.chunk_bytes, chunk)

    def finish(self) -> None:
        """All that was written is safe from here on."""
        self._disk.sync(self._path)
        self._disk.sync_dir(self._path.parent)
