"""A disk whose power fails: at a chosen step, with what was not synced kept, lost, or half written."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edge_agent.disk import Disk

Loss = Literal["kept", "lost", "torn"]


class PowerCut(BaseException):
    """Nothing that runs may catch this."""


class FlimsyDisk(Disk):
    """Counts its steps, and fails before step `cut_at`; `settle` then leaves on disk what a real one might."""

    def __init__(self, cut_at: int = -1, loss: Loss = "kept") -> None:
        self.steps = 0
        self._cut_at = cut_at
        self._loss = loss
        self._contents: list[tuple[Path, Callable[[], None]]] = []
        self._names: list[tuple[Path, Callable[[], None]]] = []

    def _step(self) -> None:
        if self._cut_at >= 0 and self.steps >= self._cut_at:
            raise PowerCut
        self.steps += 1

    def _is_last(self) -> bool:
        return self.steps == self._cut_at

    def settle(self) -> None:
        """After the cut: what was not synced is undone, the latest first, where this disk loses it."""
        if self._loss == "lost":
            for _, undo in reversed(self._contents + self._names):
                undo()

    def make_dir(self, path: Path) -> None:
        self._step()
        super().make_dir(path)

    def write(self, path: Path, data: bytes) -> None:
        self._step()
        self._contents.append((path, _restore(path)))
        super().write(path, data[: len(data) // 2] if self._loss == "torn" and self._is_last() else data)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        self._step()
        self._contents.append((path, _restore(path)))
        super().write_at(path, offset, data[: len(data) // 2] if self._loss == "torn" and self._is_last() else data)

    def sync(self, path: Path) -> None:
        self._step()
        super().sync(path)
        self._contents = [own for own in self._contents if own[0] != path]

    def sync_dir(self, path: Path) -> None:
        self._step()
        super().sync_dir(path)
        self._names = [own for own in self._names if own[0].parent != path]

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        undo_old, undo_new = _restore(old), _restore(new)
        self._names += [(new, undo_new), (old, undo_old)]
        if any(path == old for path, _ in self._contents):  # the name may be safe before the content is: an empty file
            self._contents = [own for own in self._contents if own[0] != old]
            self._contents.append((new, lambda: _put(new, b"") if new.exists() else None))
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._step()
        if path.exists():
            self._names.append((path, _restore(path)))
        super().remove(path)


def _restore(path: Path) -> Callable[[], None]:
    """Puts a file back as it is now."""
    if not path.exists():
        return lambda: path.unlink(missing_ok=True)
    before = path.read_bytes()
    return lambda: _put(path, before)


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
