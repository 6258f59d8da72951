"""Faces as a camera's detector cuts them out of frames, which is not quite as a data set cuts them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import DeviceError, Reason, Rejected
from trainer.data import Pictures, decode
from trainer.models import INPUT_PX, LABELS

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""
Detect = Callable[[Image], list[Box]]

MARGIN = 1.2
SMALLEST_PX = 24
"""Annotated faces with a shorter side are not looked for."""
SAME_IOU = 0.35
"""From this overlap on, a detection is the annotated face."""
ANNOTATIONS_FILE = "annotations.json"


@dataclass(frozen=True)
class Cut:
    """The annotated faces of a folder of frames that a detector found."""

    pictures: Pictures
    annotated: dict[str, int]
    """Faces by class, found or not."""


def cut(folder: Path, detect: Detect) -> Cut:
    """Every annotated face that is found, cut from the detector's box; raises Rejected without readable COCO annotations."""
    try:
        coco = json.loads((folder / ANNOTATIONS_FILE).read_bytes())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        faces = [(a["image_id"], names[a["category_id"]], _box(a["bbox"])) for a in coco["annotations"]]
        frames = {image["id"]: image["file_name"] for image in coco["images"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{folder / ANNOTATIONS_FILE}: no readable COCO annotations ({type(error).__name__})") from None
    images: list[Image] = []
    classes: list[int] = []
    files: list[str] = []
    annotated = dict.fromkeys(LABELS, 0)
    for frame, file in frames.items():
        wanted = [(label, box) for image, label, box in faces if image == frame and label in LABELS and min(box[2:]) >= SMALLEST_PX]
        if not wanted:
            continue
        image = decode(folder / file)
        if image is None:
            raise Rejected(Reason.BAD_INPUT, f"{folder / file}: cannot be read as a picture")
        found = detect(image)
        for label, box in wanted:
            annotated[label] += 1
            best = max(found, key=lambda other: iou(box, other), default=None)
            if best is not None and iou(box, best) >= SAME_IOU:
                images.append(crop(image, best, MARGIN, INPUT_PX))
                classes.append(LABELS.index(label))
                files.append(f"{file}#{len(files)}")
    stacked = np.stack(images) if images else np.empty((0, INPUT_PX, INPUT_PX, 3), np.uint8)
    return Cut(Pictures(stacked, np.array(classes, int), tuple(files), ("frames",) * len(files), ()), annotated)


def crop(image_HWC: Image, box: Box, margin: float, px: int) -> Image:
    """The square of `margin` x the longer side around a box of a BGR picture, as RGB [px, px, 3]; edge pixels are repeated outside."""
    height, width = image_HWC.shape[:2]
    x, y, w, h = box
    half = max(1.0, max(w, h) * margin / 2)
    left, top = round(x + w / 2 - half), round(y + h / 2 - half)
    right, bottom = round(x + w / 2 + half), round(y + h / 2 + half)
    inside = image_HWC[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if inside.size == 0:
        return np.zeros((px, px, 3), np.uint8)
    missing = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    whole = cv2.copyMakeBorder(inside, *missing, cv2.BORDER_REPLICATE)
    how = cv2.INTER_AREA if whole.shape[0] > px else cv2.INTER_LINEAR
    return cv2.cvtColor(cv2.resize(whole, (px, px), interpolation=how), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def yunet(model: Path, score: float = 0.6, width_px: int = 640) -> Detect:
    """A detector in YuNet's format, on frames of at most `width_px`; raises Rejected when the file is none."""
    try:
        network = cv2.FaceDetectorYN.create(str(model), "", (32, 32), score_threshold=score)
    except cv2.error:
        raise Rejected(Reason.BAD_INPUT, f"{model}: not a detector in YuNet's format") from None

    def detect(image_HWC: Image) -> list[Box]:
        scale = min(1.0, width_px / image_HWC.shape[1])
        small = cv2.resize(image_HWC, None, fx=scale, fy=scale) if scale < 1 else image_HWC
        filled = cv2.copyMakeBorder(small, 0, -small.shape[0] % 32, 0, -small.shape[1] % 32, cv2.BORDER_CONSTANT)
        network.setInputSize((filled.shape[1], filled.shape[0]))
        _, rows = network.detect(filled)
        return [] if rows is None else [(x / scale, y / scale, w / scale, h / scale) for x, y, w, h in rows[:, :4].tolist()]

    return detect


def haar() -> Detect:
    """OpenCV's frontal-face cascade, as the original loop used it; raises DeviceError when OpenCV came without it."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))
    if cascade.empty():
        raise DeviceError("OpenCV's cascade file is missing; install opencv-python-headless below version 5")

    def detect(image_HWC: Image) -> list[Box]:
        boxes = cascade.detectMultiScale(cv2.cvtColor(image_HWC, cv2.COLOR_BGR2GRAY), 1.1, 4, minSize=(24, 24))
        return [(float(x), float(y), float(w), float(h)) for x, y, w, h in np.asarray(boxes).reshape(-1, 4).tolist()]

    return detect


def _box(numbers: list[float]) -> Box:
    x, y, w, h = map(float, numbers)
    return x, y, w, h


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    w = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    h = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (one[2] * one[3] + other[2] * other[3] - w * h)
