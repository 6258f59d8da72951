"""A model is cut into chunks, each with its SHA-256 in the manifest, and joined again; a chunk is believed only when that fits.

A broker that refuses a whole chunk gets it in parts. Parts are not believed one by one: the chunk that they make is.
"""

from dataclasses import dataclass
from typing import Self

from protocol.errors import Reason, Rejected
from protocol.release import MAX_CHUNK_BYTES, Manifest, digest
from protocol.topics import PIECE

CHUNK_BYTES = 32 * 1024
"""The default of a release."""
MAX_PARTS = 48
"""A chunk in so many parts is some 1,000 bytes each: below that no broker is of use."""


@dataclass(frozen=True)
class Piece:
    """A whole chunk (part 0 of 1), or a part of one."""

    number: int
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts <= MAX_PARTS:
            raise Rejected(Reason.BAD_TOPIC, f"chunk {self}: no such part")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The piece that a topic names; raises Rejected."""
        if not PIECE.fullmatch(text):
            raise Rejected(Reason.BAD_TOPIC, f"chunk {text!r}: expected a number, or number-part-parts")
        return cls(*(int(number) for number in text.split("-")))

    def __str__(self) -> str:
        return str(self.number) if self.parts == 1 else f"{self.number}-{self.part}-{self.parts}"


def cut(data: bytes, chunk_bytes: int) -> tuple[bytes, ...]:
    """The data in chunks of this size; the last may be shorter."""
    if not 0 < chunk_bytes <= MAX_CHUNK_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"chunks of {chunk_bytes} bytes: expected 1 to {MAX_CHUNK_BYTES}")
    return tuple(data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))


def digests(model: bytes, chunk_bytes: int) -> tuple[str, ...]:
    """SHA-256 of each chunk, as the manifest holds them."""
    return tuple(digest(chunk) for chunk in cut(model, chunk_bytes))


def pieces(number: int, chunk: bytes, parts: int) -> tuple[tuple[Piece, bytes], ...]:
    """A chunk as it is sent: whole, or in this many parts of nearly one size."""
    part_bytes = -(-len(chunk) // parts)
    found = cut(chunk, max(1, part_bytes))
    return tuple((Piece(number, part, len(found)), data) for part, data in enumerate(found))


def check(manifest: Manifest, number: int, chunk: bytes) -> None:
    """Raises Rejected unless these bytes are that chunk of the model."""
    if not 0 <= number < len(manifest.chunks) or digest(chunk) != manifest.chunks[number]:
        raise Rejected(Reason.WRONG_DIGEST, f"chunk {number}: {len(chunk)} bytes whose SHA-256 is not the manifest's")


class Parts:
    """Puts parts of chunks together. At most one division of each chunk is kept, so a hostile sender fills no memory."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._kept: dict[int, dict[Piece, bytes]] = {}

    def add(self, piece: Piece, data: bytes) -> bytes | None:
        """The whole chunk, proven, once its last part is here; None before. Raises Rejected when what came is no such chunk."""
        if piece.number >= len(self._manifest.chunks):
            raise Rejected(Reason.WRONG_DIGEST, f"chunk {piece.number}: the model has {len(self._manifest.chunks)}")
        if piece.parts == 1:
            check(self._manifest, piece.number, data)
            self._kept.pop(piece.number, None)
            return data
        if len(data) > -(-self._manifest.chunk_bytes // piece.parts):
            raise Rejected(Reason.TOO_LARGE, f"chunk {piece}: {len(data)} bytes")
        kept = {own: part for own, part in self._kept.get(piece.number, {}).items() if own.parts == piece.parts}
        self._kept[piece.number] = kept
        kept[piece] = data
        if len(kept) < piece.parts:
            return None
        del self._kept[piece.number]
        chunk = b"".join(part for _, part in sorted(kept.items(), key=lambda own: own[0].part))
        check(self._manifest, piece.number, chunk)
        return chunk
