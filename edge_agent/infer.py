"""`infer`: pictures, folders and videos -> the faces in them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from edge_agent.files import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Found, files_in, is_cut, read_picture, too_large
from edge_agent.load import Eyes
from edge_agent.scene import Frame, Image, Reading
from edge_agent.sources import open_video
from protocol.errors import DeviceError, Reason, Rejected, in_one_line


def infer(eyes: Eyes, path: Path) -> Iterator[dict[str, Any] | Rejected | str]:
    """One result for each picture, or frame of a video, below `path`; a Rejected for each file or folder that cannot be read.

    A text says how many of what is in a folder were passed over.
    """
    found = files_in(path, PICTURE_SUFFIXES | VIDEO_SUFFIXES) if os.path.isdir(path) else Found([path], [])
    yield from found.refused
    if not found.files and not found.refused:
        yield Rejected(Reason.BAD_INPUT, f"{path}: holds no pictures or videos")
    elif found.others:
        yield f"{path}: passed over, for they are neither pictures nor videos: {found.others}"
    for file in found.files:
        try:
            for number, image in enumerate(_images(file)):
                frame = Frame(image, 0.0, 0.0)
                readings = eyes.classify(frame, eyes.detect(frame))
                yield {"file": str(file), "frame": number, "faces": [_face(reading) for reading in readings]}
        except Rejected as error:
            yield error
        except DeviceError as error:
            yield Rejected(Reason.BAD_INPUT, f"{file}: {error}")
        except OSError as error:
            yield Rejected(Reason.BAD_INPUT, in_one_line(error))
        except (MemoryError, cv2.error):
            yield too_large(file)


def _images(file: Path) -> Iterator[Image]:
    """The picture in a file, or the frames of a video; raises Rejected when there is none, and after the frames of a video that is cut short."""
    if not file.is_file():
        raise Rejected(Reason.BAD_INPUT, f"{file}: no such file or folder")
    if file.suffix.lower() in VIDEO_SUFFIXES:
        video = open_video(file)
        try:
            count = 0
            while (image := video.read()) is not None:
                count += 1
                yield image
            if not count:
                raise Rejected(Reason.BAD_INPUT, f"{file}: holds no frame that can be read")
            if count < video.frames and is_cut(file):
                raise Rejected(Reason.BAD_INPUT, f"{file}: ends after {count} of {video.frames} frames: is it whole?")
        finally:
            video.close()
        return
    image = read_picture(file)
    if image is None:
        kind = "a readable picture" if file.suffix.lower() in PICTURE_SUFFIXES else "a picture or video"
        raise Rejected(Reason.BAD_INPUT, f"{file}: not {kind}")
    yield image


def _face(reading: Reading) -> dict[str, Any]:
    box = reading.face.box
    return {
        "box": [round(side, 1) for side in (box.x, box.y, box.w, box.h)],
        "score": round(reading.face.score, 4),
        "label": reading.label.value,
        "p_no_mask": round(reading.p_no_mask, 4),
    }
