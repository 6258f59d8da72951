"""Whole pictures with a box around every face, as data sets give them: a COCO-style folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import Reason, Rejected
from trainer.data import decode

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

ANNOTATIONS_FILE = "annotations.json"
LARGEST = float(np.finfo(np.float32).max)
"""Of a box's numbers; JSON holds any."""


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
    ignored_K4: Floats = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """x, y, w, h of regions with faces that have no box of their own: what is found there is neither right nor wrong."""


def read_frames(folder: Path, unnoted: Path | None = None) -> list[AnnotatedFrame]:
    """Every picture that a folder's annotations name, in their order.

    To be ignored are the regions that the annotations call a crowd (COCO's `iscrowd`) and the faces in `unnoted`, a JSON object
    of lists of boxes by file name: those that the annotators left out. Raises Rejected without readable COCO annotations or
    `unnoted`, when they name no picture, or when one cannot be read.
    """
    try:
        coco = json.loads((folder / ANNOTATIONS_FILE).read_bytes())
        names = {category["id"]: str(category["name"]) for category in coco["categories"]}
        faces: dict[int, list[tuple[Floats, str]]] = {picture["id"]: [] for picture in coco["images"]}
        ignored: dict[int, list[Floats]] = {picture["id"]: [] for picture in coco["images"]}
        for row, mark in enumerate(coco["annotations"]):
            box = _box(mark["bbox"], f"annotation {mark.get('id', row)!r}")
            if mark.get("iscrowd"):
                ignored[mark["image_id"]].append(box)
            else:
                faces[mark["image_id"]].append((box, names[mark["category_id"]]))
        files = [(str(picture["file_name"]), picture["id"]) for picture in coco["images"]]
        boxes = {number: _boxes([box for box, _ in known]) for number, known in faces.items()}
        crowds = {number: _boxes(known) for number, known in ignored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{folder / ANNOTATIONS_FILE}: no readable COCO annotations ({_cause(error)})") from None
    if not files:
        raise Rejected(Reason.BAD_INPUT, f"{folder / ANNOTATIONS_FILE}: names no picture")
    left_out = _read_unnoted(unnoted) if unnoted else {}
    return [
        AnnotatedFrame(
            file,
            read_picture(folder / file),
            boxes[number],
            tuple(label for _, label in faces[number]),
            np.concatenate([crowds[number], left_out.get(file, _boxes([]))]),
        )
        for file, number in files
    ]


def scaled(image_HWC: Image, scale: float, interpolation: int = cv2.INTER_LINEAR) -> Image:
    """The picture made larger or smaller; a very thin one keeps one pixel."""
    height, width = (round(side * scale) for side in image_HWC.shape[:2])
    if min(height, width) < 1:
        return cv2.resize(image_HWC, (max(1, width), max(1, height)), interpolation=interpolation).astype(np.uint8, copy=False)
    return cv2.resize(image_HWC, None, fx=scale, fy=scale, interpolation=interpolation).astype(np.uint8, copy=False)


def _cause(error: Exception) -> str:
    """Why a file could not be understood, on one line."""
    what = (error.strerror or "") if isinstance(error, OSError) else str(error)
    return f"{type(error).__name__}: {what.splitlines()[0][:100]}" if what else type(error).__name__


def _read_unnoted(path: Path) -> dict[str, Floats]:
    try:
        return {str(file): _boxes([_box(box, file) for box in boxes]) for file, boxes in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{path}: no JSON object of lists of boxes by file name ({_cause(error)})") from None


def _box(raw: Any, what: str) -> Floats:
    """A box [4] of JSON; raises ValueError, which names `what` it is of, for anything but four finite numbers with an area."""
    is_box = isinstance(raw, list) and len(raw) == 4 and all(isinstance(number, int | float) and abs(number) <= LARGEST for number in raw)
    if is_box and (box_4 := np.array(raw, np.float32))[2:].min() > 0:
        return box_4
    raise ValueError(f"{what}: a box that is not four numbers with an area")


def _boxes(boxes: list[Floats]) -> Floats:
    return np.array(boxes, np.float32).reshape(-1, 4)


def read_picture(path: Path) -> Image:
    """The BGR picture [H, W, 3] in a file; raises Rejected when it is none."""
    image = decode(path)
    if image is None:
        raise Rejected(Reason.BAD_INPUT, f"{path}: not a readable picture")
    return image
