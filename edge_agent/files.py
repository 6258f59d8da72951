"""Pictures and videos on disk: which files are some, what is in a picture, and whether a video is all there."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_agent.scene import Image
from protocol.errors import Reason, Rejected, in_one_line

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".ts", ".3gp", ".mpg", ".mpeg", ".wmv", ".flv"}


def pictures_in(folder: Path) -> list[Path]:
    """The files below a folder that are named like pictures; raises Rejected when there are none."""
    if not folder.is_dir():
        raise Rejected(Reason.BAD_SETTING, f"{folder}: no such folder")
    found = files_in(folder, PICTURE_SUFFIXES)
    if not found.files:
        raise found.refused[0] if found.refused else Rejected(Reason.BAD_INPUT, f"{folder}: holds no pictures")
    return found.files


@dataclass(frozen=True)
class Found:
    """What lies below a folder, in order."""

    files: list[Path]
    refused: list[Rejected]
    """One for each folder or file that cannot be looked into."""
    others: int = 0
    """So many files are named otherwise, or are pipes and the like, or links to folders."""


def files_in(folder: Path, suffixes: set[str]) -> Found:
    """The files below a folder with such names; links to folders are not followed."""
    files: list[Path] = []
    errors: list[OSError] = []
    others = 0
    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=errors.append):
        links = (name for name in folders if os.path.islink(os.path.join(place, name)))
        found += (Path(place, name) for name in (*names, *links))
    for path in sorted(found):
        try:
            if path.suffix.lower() in suffixes and stat.S_ISREG(path.stat().st_mode):
                files.append(path)
            else:
                others += 1
        except OSError as error:
            errors.append(error)
    errors.sort(key=lambda error: str(error.filename))
    return Found(files, [Rejected(Reason.BAD_INPUT, in_one_line(error)) for error in errors], others)


def read_picture(path: Path) -> Image | None:
    """The BGR picture in a file; None when it cannot be decoded. Raises Rejected when it is, or claims to be, too large."""
    try:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except OSError:
        return None
    except (MemoryError, cv2.error):  # OpenCV says None to other nonsense
        raise too_large(path) from None
    return None if image is None else image.astype(np.uint8, copy=False)


def too_large(path: Path) -> Rejected:
    return Rejected(Reason.TOO_LARGE, f"{path}: too large to be looked at here")


def is_cut(path: Path) -> bool:
    """Whether a file ends before its last part does; of the containers that tell how long their parts are, MP4 and AVI."""
    if path.suffix.lower() not in {".mp4", ".mov", ".m4v", ".3gp", ".avi"}:
        return False
    size, end = path.stat().st_size, 0
    with path.open("rb") as file:
        while end < size:
            file.seek(end)
            head = file.read(16)
            if head.startswith(b"RIFF"):
                length = 8 + int.from_bytes(head[4:8], "little")
            else:
                length = int.from_bytes(head[8:] if head.startswith(b"\0\0\0\1") else head[:4], "big")
            if length < 8:  # up to the end of the file, or nonsense
                return False
            end += length
    return end > size
