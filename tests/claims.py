"""A file of a few dozen bytes that claims to be a huge picture."""

import struct
import zlib
from pathlib import Path


def write_claim(path: Path, side_px: int) -> Path:
    """A PNG whose head tells a square of that size, and that holds hardly anything."""
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path
