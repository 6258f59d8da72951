"""Pictures for the detector: annotated frames and face crops, labelled once by the teacher at several sizes."""

import hashlib
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import DeviceError, Reason, Rejected
from trainer.data import read_index
from trainer.folder import write_whole
from trainer.frames import AnnotatedFrame, Floats, Image, read_frames, read_picture, scaled

SURE = 0.8
"""A face that only the teacher sees counts from this score on."""
MAYBE = 0.45
"""Between this and SURE it is a region to ignore."""
TEACHER_SIDES_PX = (400, 800, 1280)
CROP_SIDES_PX = (160, 256, 384)
EARLIER_SIDES_PX = (320, 480, 640)
"""An earlier detector is asked at the sizes at which it is used."""
CROP_PAD = 0.25
"""Border around a face crop, as a share of its side: tight crops cut the box that the teacher would draw."""
FRAMES_SOURCE = "andrewmvd-853"
"""The data set that the annotated frames, and some of the crops, come from."""
UNNOTED, NO_FACE = "", "no face"
FOCUS_SHARES = {"without_mask": 0.5, "with_mask": 0.2, "mask_weared_incorrect": 0.05, UNNOTED: 0.1, NO_FACE: 0.15}
"""How often a view is centred on which faces (UNNOTED: those that only the teacher sees), or on what an earlier detector took for one.
The frames hold five masked faces for a bare one, and drawn as they come, bare faces are found far less often."""
TOO_SURE = 0.9
"""What an earlier detector alone sees and is as sure of as this may be a face that nobody noted: to be ignored."""
PORTRAIT_SHARE = 0.1
"""How often a frame of one face is drawn, beside the others: a third of the frames are such, most of them two people's pictures of themselves."""
HELD_OUT_OF = 8
"""One frame in so many is for validation."""


@dataclass(frozen=True)
class Scene:
    """A picture and what is known about the faces in it."""

    image_HWC: Image
    """BGR."""
    boxes_M4: Floats
    """x, y, w, h in pixels."""
    landmarks_M10: Floats
    """Right eye, left eye, nose, right and left corner of the mouth (of the person), x and y; NaN where unknown."""
    is_face_M: NDArray[np.bool_]
    """False: a region that may or may not be a face."""


@dataclass(frozen=True)
class Library:
    """All that scenes are made of."""

    frames: tuple[Scene, ...]
    crops: tuple[Scene, ...]
    """Square pictures of one face each."""
    pictures: dict[str, int]
    """How many come from which data set."""
    focus: tuple[tuple[int, Floats], ...]
    """Frame and box of all that a view may be centred on."""
    focus_cumulated: NDArray[np.float64]
    """How often each is to be drawn, added up to 1."""


class Teacher:
    """A YuNet-format detector that labels pictures at several sizes."""

    def __init__(self, path: Path) -> None:
        """Raises DeviceError when OpenCV cannot load the file, or it is no such detector."""
        try:
            self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), MAYBE, 0.4, 1000)
            self._net.detect(np.zeros((320, 320, 3), np.uint8))
            self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except (cv2.error, OSError) as error:
            raise DeviceError(f"{path}: not a face detector that OpenCV can load ({str(error).splitlines()[0][:120]})") from None

    def label(self, image_HWC: Image, sides_px: tuple[int, ...]) -> Floats:
        """Rows [M, 15] as `cv2.FaceDetectorYN` gives them (box, landmarks, score), the best first, from all sizes together."""
        found = [self._at(image_HWC, side / max(image_HWC.shape[:2])) for side in sides_px]
        rows = np.concatenate(found)
        return rows[_suppress(rows, 0.4)]

    def _at(self, image: Image, scale: float) -> Floats:
        resized = scaled(image, scale, cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        self._net.setInputSize((resized.shape[1], resized.shape[0]))
        rows = self._net.detect(resized)[1]
        if rows is None:
            return np.zeros((0, 15), np.float32)
        return np.asarray(rows / np.array([scale] * 14 + [1.0]), np.float32)


def overlaps(a_M4: Floats, b_K4: Floats) -> Floats:
    """IoU [M, K] of boxes x, y, w, h."""
    both = _common(a_M4, b_K4)
    areas = a_M4[:, None, 2:4].prod(2) + b_K4[None, :, 2:4].prod(2)
    return np.asarray(both / (areas - both + 1e-7), np.float32)


def lying_in(a_M4: Floats, b_K4: Floats) -> Floats:
    """Which part [M, K] of each box `a` lies in each region `b`."""
    return np.asarray(_common(a_M4, b_K4) / (a_M4[:, None, 2:4].prod(2) + 1e-7), np.float32)


def _common(a_M4: Floats, b_K4: Floats) -> Floats:
    """Areas [M, K] that boxes x, y, w, h have in common."""
    low = np.maximum(a_M4[:, None, :2], b_K4[None, :, :2])
    high = np.minimum(a_M4[:, None, :2] + a_M4[:, None, 2:4], b_K4[None, :, :2] + b_K4[None, :, 2:4])
    return np.asarray(np.clip(high - low, 0, None).prod(2), np.float32)


def _suppress(rows: Floats, threshold: float) -> list[int]:
    kept: list[int] = []
    for row in np.argsort(-rows[:, 14], kind="stable"):
        if not kept or overlaps(rows[row : row + 1], rows[kept]).max() < threshold:
            kept.append(int(row))
    return kept


def is_held_out(file: str) -> bool:
    """Whether a training frame is kept for validation: by its name, so that the split never moves."""
    return zlib.crc32(file.encode()) % HELD_OUT_OF == 0


def build_library(data: Path, teacher: Teacher, cache: Path, earlier: Teacher | None = None, *, holds_out: bool = True) -> Library:
    """Frames of `data`/frames_train, all but those to be held out, and crops of `data`/faces, all but the test's, with the teacher's labels.

    The labels are kept in `cache`, so that a training that is resumed does not make them again. Crops that were cut from the
    frames are left out: some would show held-out frames. Views are also centred on what an `earlier` detector wrongly finds.
    Raises Rejected when a folder is missing or not as expected, before anything is labelled where it can.
    """
    labels = _Labels(teacher, cache)
    annotated = [frame for frame in read_frames(data / "frames_train") if not (holds_out and is_held_out(frame.file))]
    known = [label for label in FOCUS_SHARES if label not in (UNNOTED, NO_FACE)]
    unknown = {label for frame in annotated for label in frame.labels if label not in known}
    if unknown:
        raise Rejected(Reason.BAD_INPUT, f"{data / 'frames_train'}: category {min(unknown)!r} is none of {', '.join(known)}")
    frames, mistakes = [], []
    for frame in annotated:
        rows = labels.of(f"frame/{frame.file}", frame.image_HWC, TEACHER_SIDES_PX)
        doubted, wrong = _doubt(_merge(frame, rows), earlier)
        frames.append(doubted)
        mistakes.append(wrong)
    crops, sources = [], [FRAMES_SOURCE] * len(frames)
    for file, source, image in _read_crops(data / "faces", {"train", "val"}):
        scene = _crop_scene(image, labels.of(f"crop/{file}", image, CROP_SIDES_PX))
        if scene is not None:
            crops.append(scene)
            sources.append(source)
    labels.save()
    if not crops:
        raise Rejected(
            Reason.BAD_INPUT, f"{data / 'faces'}: holds no crop to train on in which the teacher sees a face; scenes are made of frames and crops"
        )
    focus, cumulated = _focus(frames, annotated, mistakes)
    return Library(tuple(frames), tuple(crops), dict(sorted(Counter(sources).items())), focus, cumulated)


def _doubt(scene: Scene, earlier: Teacher | None) -> tuple[Scene, Floats]:
    """The scene, with regions to ignore where an earlier detector alone is too sure; and the boxes [K, 4] that it wrongly finds."""
    rows = earlier.label(scene.image_HWC, EARLIER_SIDES_PX) if earlier else np.zeros((0, 15), np.float32)
    rows = rows[overlaps(rows, scene.boxes_M4[scene.is_face_M]).max(1, initial=0) < 0.1]
    is_unsaid = (rows[:, 14] >= TOO_SURE) & (overlaps(rows, scene.boxes_M4).max(1, initial=0) < 0.1)
    unsaid = Scene(
        scene.image_HWC,
        np.concatenate([scene.boxes_M4, rows[is_unsaid, :4]]),
        np.concatenate([scene.landmarks_M10, rows[is_unsaid, 4:14]]),
        np.concatenate([scene.is_face_M, np.zeros(int(is_unsaid.sum()), np.bool_)]),
    )
    return unsaid, rows[~is_unsaid, :4]


def _focus(
    frames: list[Scene], annotated: list[AnnotatedFrame], mistakes: list[Floats]
) -> tuple[tuple[tuple[int, Floats], ...], NDArray[np.float64]]:
    """What to centre views on: each label its share, within it each frame the same, portraits of one face PORTRAIT_SHARE of that."""
    by_label: dict[str, dict[int, list[Floats]]] = {label: {} for label in FOCUS_SHARES}
    for number, (scene, frame, wrong) in enumerate(zip(frames, annotated, mistakes, strict=True)):
        labels = [*frame.labels, *[UNNOTED] * (len(scene.is_face_M) - len(frame.labels))]  # what the teacher alone sees comes last
        for box, label, is_face in zip(scene.boxes_M4, labels, scene.is_face_M, strict=True):
            if is_face:
                by_label[label].setdefault(number, []).append(box)
        if len(wrong):
            by_label[NO_FACE][number] = list(wrong)
    focus, chances = [], []
    for label, share in FOCUS_SHARES.items():
        weights = {number: PORTRAIT_SHARE if frames[number].is_face_M.sum() == 1 else 1.0 for number in by_label[label]}
        for number, boxes in by_label[label].items():
            focus += [(number, box) for box in boxes]
            chances += [share * weights[number] / sum(weights.values()) / len(boxes)] * len(boxes)
    cumulated = np.cumsum(np.array(chances, np.float64))
    return tuple(focus), cumulated / cumulated[-1:]


def held_out(data: Path) -> list[AnnotatedFrame]:
    """The frames of `data`/frames_train that no training which holds out frames sees."""
    return [frame for frame in read_frames(data / "frames_train") if is_held_out(frame.file)]


class _Labels:
    """The teacher's rows by picture, from a file where they stand there."""

    def __init__(self, teacher: Teacher, cache: Path) -> None:
        self._teacher, self._cache = teacher, cache
        self._rows, self._is_new = _stored(cache, teacher.digest), False

    def of(self, name: str, image: Image, sides_px: tuple[int, ...]) -> Floats:
        if name not in self._rows:
            self._rows[name], self._is_new = self._teacher.label(image, sides_px), True
        return self._rows[name]

    def save(self) -> None:
        """Writes the file again where it lacks something."""
        if not self._is_new:
            return
        written = io.BytesIO()
        np.savez_compressed(written, digest=np.array(self._teacher.digest), **self._rows)  # type: ignore[arg-type]
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._cache, written.getvalue())


def _stored(cache: Path, digest: str) -> dict[str, Floats]:
    """The rows that this teacher left; none where the file is missing, another teacher's or damaged: labels can be made again."""
    try:
        with np.load(io.BytesIO(cache.read_bytes()), allow_pickle=False) as stored:
            is_this_teachers = str(stored["digest"]) == digest
            return {name: stored[name] for name in stored.files if name != "digest"} if is_this_teachers else {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}


def _read_crops(folder: Path, splits: set[str]) -> Iterator[tuple[str, str, Image]]:
    """File, source and picture of the crops of some splits, each with a border of repeated edge pixels."""
    index = read_index(folder)
    if not {"split", "source"} <= set().union(*index.values()):
        raise Rejected(Reason.BAD_INPUT, f"{folder}: no index.csv with file, split and source")
    for name, row in index.items():
        source = row["source"]
        if row["split"] not in splits or source == FRAMES_SOURCE:
            continue
        image = read_picture(folder / name)
        pad = int(image.shape[0] * CROP_PAD)
        yield name, source, cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)


def _merge(frame: AnnotatedFrame, rows: Floats) -> Scene:
    """Annotated boxes, with the teacher's box and landmarks where both see the face, what the teacher alone sees, and what is to be ignored."""
    boxes, landmarks, is_face = [], [], []
    truth_M4, left = frame.boxes_M4, list(range(len(rows)))
    match = overlaps(truth_M4, rows)
    for number, box in enumerate(truth_M4):
        best = max(left, key=lambda row: float(match[number, row]), default=None)
        if best is not None and match[number, best] >= 0.45:
            left.remove(best)
            # The middle of the two: annotators draw tighter than the teacher, and the classifier's crops come from either.
            boxes.append((box + rows[best, :4]) / 2)
            landmarks.append(rows[best, 4:14])
        else:
            boxes.append(box)
            landmarks.append(np.full(10, np.nan, np.float32))
        is_face.append(True)
    for row in left:
        if len(truth_M4) and match[:, row].max() > 0.3:
            continue
        boxes.append(rows[row, :4])
        landmarks.append(rows[row, 4:14])
        is_face.append(bool(rows[row, 14] >= SURE))
    for region in frame.ignored_K4:
        boxes.append(region)
        landmarks.append(np.full(10, np.nan, np.float32))
        is_face.append(False)
    return Scene(
        frame.image_HWC,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(landmarks, np.float32).reshape(-1, 10),
        np.array(is_face, np.bool_),
    )


def _crop_scene(image: Image, rows: Floats) -> Scene | None:
    """A crop with its faces, or None when the teacher sees none in the middle of it."""
    middle = image.shape[0] / 2
    away = np.abs(rows[:, :2] + rows[:, 2:4] / 2 - middle).max(1)
    central = np.flatnonzero((away < middle / 3) & (rows[:, 14] >= 0.5))
    if not len(central):
        return None
    # Rows are sorted by score: the first central one is the face that the crop was cut for, and comes first.
    order = [int(central[0]), *(row for row in range(len(rows)) if row != central[0])]
    rows = rows[order]
    is_face = rows[:, 14] >= SURE
    is_face[0] = True
    return Scene(image, rows[:, :4].copy(), rows[:, 4:14].copy(), is_face)
