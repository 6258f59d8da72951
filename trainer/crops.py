"""Faces as a camera's detector cuts them out of frames, which is not quite as a data set cuts them; and what it cuts by mistake."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from protocol.errors import Reason, Rejected
from trainer.data import Pictures
from trainer.detector_data import lying_in
from trainer.detector_eval import HALF, load_cascade, yunet_format
from trainer.folder import write_whole
from trainer.frames import AnnotatedFrame, Image, read_frames, scaled
from trainer.models import INPUT_PX, LABELS

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""
Detect = Callable[[Image], list[Box]]

MARGIN = 1.2
SMALLEST_PX = 24
"""Annotated faces with a shorter side are not looked for."""
SAME_IOU = 0.35
"""From this overlap on, a detection is the annotated face."""


@dataclass(frozen=True)
class Cut:
    """The annotated faces of a folder of frames that a detector found."""

    pictures: Pictures
    annotated: dict[str, int]
    """Faces by class, found or not."""


def cut(folder: Path, detect: Detect) -> Cut:
    """Every annotated face that is found, cut from the detector's box; raises Rejected without readable COCO annotations."""
    images: list[Image] = []
    classes: list[int] = []
    files: list[str] = []
    annotated = dict.fromkeys(LABELS, 0)
    for frame in read_frames(folder):
        boxes = zip(frame.labels, map(_box, frame.boxes_M4.tolist()), strict=True)
        wanted = [(label, box) for label, box in boxes if label in LABELS and min(box[2:]) >= SMALLEST_PX]
        found = detect(frame.image_HWC) if wanted else []
        for label, box in wanted:
            annotated[label] += 1
            best = max(found, key=lambda other: iou(box, other), default=None)
            if best is not None and iou(box, best) >= SAME_IOU:
                images.append(crop(frame.image_HWC, best, MARGIN, INPUT_PX))
                classes.append(LABELS.index(label))
                files.append(f"{frame.file}#{len(files)}")
    stacked = np.stack(images) if images else np.empty((0, INPUT_PX, INPUT_PX, 3), np.uint8)
    return Cut(Pictures(stacked, np.array(classes, int), tuple(files), ("frames",) * len(files), ()), annotated)


def mistakes(folder: Path, detect: Detect, most: int, seed: int) -> list[Image]:
    """What a detector finds where no face is annotated, as RGB crops [128, 128, 3]: at most so many, drawn at random.

    What lies in a region to be ignored is none. Raises Rejected without readable COCO annotations, or when there is nothing.
    """
    images = []
    for frame in read_frames(folder):
        faces = [_box(box) for box in frame.boxes_M4.tolist()]
        found = [box for box in detect(frame.image_HWC) if not any(_touch(box, face) for face in faces) and not _is_ignored(box, frame)]
        images += [crop(frame.image_HWC, box, MARGIN, INPUT_PX) for box in found]
    if not images:
        raise Rejected(Reason.BAD_INPUT, f"{folder}: the detector makes no mistake here")
    drawn = np.random.default_rng(seed).permutation(len(images))[:most]
    return [images[number] for number in sorted(drawn)]


def write_pictures(images: list[Image], source: str, folder: Path) -> None:
    """Writes RGB pictures, and an index.csv that says which data set they are of; raises Rejected where other files are."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):  # older pictures would be in no index, and so of no data set that can be held out
        raise Rejected(Reason.BAD_SETTING, f"{folder}: holds files already; name a new folder")
    names = [f"{number:05}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        write_whole(folder / name, cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
    write_whole(folder / "index.csv", "\n".join(["file,source", *(f"{name},{source}" for name in names), ""]).encode())


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
    how = cv2.INTER_AREA if whole.shape[0] >= 2 * px else cv2.INTER_LINEAR
    return cv2.cvtColor(cv2.resize(whole, (px, px), interpolation=how), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def yunet(model: Path, score: float = 0.6, width_px: int = 640) -> Detect:
    """A detector in YuNet's format, on frames of at most `width_px`; raises as `yunet_format`."""
    find = yunet_format(model, score)

    def detect(image_HWC: Image) -> list[Box]:
        scale = min(1.0, width_px / image_HWC.shape[1])
        small = scaled(image_HWC, scale) if scale < 1 else image_HWC
        return [(x / scale, y / scale, w / scale, h / scale) for x, y, w, h, _ in find(small).tolist()]

    return detect


def haar() -> Detect:
    """OpenCV's frontal-face cascade, as the original loop used it; raises DeviceError when OpenCV came without it."""
    cascade = load_cascade()

    def detect(image_HWC: Image) -> list[Box]:
        boxes = cascade.detectMultiScale(cv2.cvtColor(image_HWC, cv2.COLOR_BGR2GRAY), 1.1, 4, minSize=(24, 24))
        return [(float(x), float(y), float(w), float(h)) for x, y, w, h in np.asarray(boxes).reshape(-1, 4).tolist()]

    return detect


def _touch(one: Box, other: Box) -> bool:
    """Whether two boxes overlap at all to speak of, or one has its middle in the other."""
    return iou(one, other) >= 0.05 or _is_within(one, other) or _is_within(other, one)


def _is_within(one: Box, other: Box) -> bool:
    x, y = one[0] + one[2] / 2, one[1] + one[3] / 2
    return other[0] <= x <= other[0] + other[2] and other[1] <= y <= other[1] + other[3]


def _is_ignored(box: Box, frame: AnnotatedFrame) -> bool:
    return bool(lying_in(np.array([box], np.float32), frame.ignored_K4).max(initial=0) >= HALF)


def _box(numbers: list[float]) -> Box:
    x, y, w, h = numbers
    return x, y, w, h


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    w = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    h = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (one[2] * one[3] + other[2] * other[3] - w * h)
