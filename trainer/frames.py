"""Whole pictures with a box around every face, as data sets give them: a COCO-style folder."""

import json
from dataclasses import dataclass, field
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
        faces: dict[int, list[tuple[list[float], str]]] = {picture["id"]: [] for picture in coco["images"]}
        ignored: dict[int, list[list[float]]] = {picture["id"]: [] for picture in coco["images"]}
        for mark in coco["annotations"]:
            if mark.get("iscrowd"):
                ignored[mark["image_id"]].append(mark["bbox"])
            else:
                faces[mark["image_id"]].append((mark["bbox"], names[mark["category_id"]]))
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


def _cause(error: Exception) -> str:
    """Why a file could not be understood, on one line."""
    what = (error.strerror or "") if isinstance(error, OSError) else str(error)
    return f"{type(error).__name__}: {what.splitlines()[0][:100]}" if what else type(error).__name__


def _read_unnoted(path: Path) -> dict[str, Floats]:
    try:
        return {str(file): _boxes(boxes) for file, boxes in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{path}: no JSON object of lists of boxes by file name ({_cause(error)})") from None


def _boxes(rows: list[list[float]]) -> Floats:
    """Boxes [N, 4]; raises ValueError for what is none, or has no area."""
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise ValueError("a box without an area")
    return boxes


def read_picture(path: Path) -> Image:
    """The BGR picture [H, W, 3] in a file; raises Rejected when it is none."""
    try:
        image = decode(path)
    except OSError:
        image = None
    if image is None:
        raise Rejected(Reason.BAD_INPUT, f"{path}: not a readable picture")
    return image
