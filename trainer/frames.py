"""Whole pictures with a box around every face, as data sets give them: a COCO-style folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.errors import Reason, Rejected
from trainer.data import decode

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

ANNOTATIONS_FILE = "annotations.json"


@dataclass(frozen=True)
class AnnotatedFrame:
    """A picture as its annotators see it."""

    file: str
    image_HWC: Image
    """BGR."""
    boxes_M4: Floats
    """x, y, w, h in pixels."""
    labels: tuple[str, ...]
    """`with_mask`, `without_mask` or `mask_weared_incorrect`."""


def read_frames(folder: Path) -> list[AnnotatedFrame]:
    """Every picture that a folder's annotations name, in their order.

    Raises Rejected without readable COCO annotations, when they name no picture, or when one cannot be read.
    """
    try:
        coco = json.loads((folder / ANNOTATIONS_FILE).read_bytes())
        names = {category["id"]: str(category["name"]) for category in coco["categories"]}
        marks: dict[int, list[tuple[list[float], str]]] = {picture["id"]: [] for picture in coco["images"]}
        for mark in coco["annotations"]:
            marks[mark["image_id"]].append((mark["bbox"], names[mark["category_id"]]))
        files = [(str(picture["file_name"]), picture["id"]) for picture in coco["images"]]
        boxes = {number: np.array([box for box, _ in known], np.float32).reshape(-1, 4) for number, known in marks.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{folder / ANNOTATIONS_FILE}: no readable COCO annotations ({type(error).__name__})") from None
    if not files:
        raise Rejected(Reason.BAD_INPUT, f"{folder / ANNOTATIONS_FILE}: names no picture")
    return [AnnotatedFrame(file, read_picture(folder / file), boxes[number], tuple(label for _, label in marks[number])) for file, number in files]


def read_picture(path: Path) -> Image:
    """The BGR picture [H, W, 3] in a file; raises Rejected when it is none."""
    try:
        image = decode(path)
    except OSError:
        image = None
    if image is None:
        raise Rejected(Reason.BAD_INPUT, f"{path}: not a readable picture")
    return image
