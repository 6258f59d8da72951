"""A video whose frames have the times that a test wants: OpenCV writes even ones only."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def _element(name: str, *content: bytes) -> bytes:
    """An element of Matroska: its id in hexadecimal, its length in eight bytes, its content."""
    body = b"".join(content)
    return bytes.fromhex(name) + (len(body) | 1 << 56).to_bytes(8, "big") + body


def _number(name: str, value: int) -> bytes:
    return _element(name, value.to_bytes(4, "big"))


def write_timed(path: Path, times_ms: Sequence[int], width: int = 64, height: int = 48) -> Path:
    """A Matroska file of grey JPEG frames, each a little lighter than the one before."""
    video = _element("e0", _number("b0", width), _number("ba", height))
    track = _element("ae", _number("d7", 1), _number("73c5", 1), _number("83", 1), _element("86", b"V_MJPEG"), video)
    clusters = []
    for number, time_ms in enumerate(times_ms):
        _, jpeg = cv2.imencode(".jpg", np.full((height, width, 3), number * 5 % 256, np.uint8))
        clusters.append(_element("1f43b675", _number("e7", time_ms), _element("a3", b"\x81\0\0\x80", jpeg.tobytes())))
    info = _element("1549a966", _number("2ad7b1", 1_000_000))
    head = _element("1a45dfa3", _element("4282", b"matroska"))
    path.write_bytes(head + _element("18538067", info, _element("1654ae6b", track), *clusters))
    return path
