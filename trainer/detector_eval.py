"""How well detectors find annotated faces: recall at equal false positives, by size and by mask, average precision, and time.

A face is found when a box overlaps it by an IoU of 0.35 (`IOU`), as in the project's end-to-end score: annotators and detectors
frame faces differently, and the classifier cuts its own square. Each detection, the best first, takes the free face that it
overlaps most. A detection on no annotated face is a false positive from `min_px` on; many of them are real faces that the
annotators left out, so their number means something only beside another detector's on the same frames, or where those
faces are known and ignored: a detection of which half lies in one (`HALF`) counts as nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import DeviceError, Reason, Rejected
from trainer.detector_data import lying_in, overlaps
from trainer.evaluate import wilson
from trainer.folder import read_release
from trainer.frames import AnnotatedFrame, Floats, Image, read_frames, scaled
from trainer.measure import latencies

IOU = 0.35
HALF = 0.5
LABELS = ("with_mask", "without_mask")
SIZE_EDGES_PX = (12, 24, 48, 96, 10_000)
SHOWN_EDGES_PX = (8, 12, 16, 20, 24, 32, 48, 96, 192, 288, 384, 10_000)
STRIDE = 32
WIDTHS_PX = (320, 480, 640)
LARGE_WIDTH_PX = 1280
"""Where faces become as large as a camera shows them that is given one who stands before it."""
NATIVE = 0
"""Stands for a frame's own width: what a camera does with frames that are not wider than its limit."""

Detect = Callable[[Image], Floats]
"""A BGR picture [H, W, 3] -> rows [M, 5]: x, y, w, h, score."""


def yunet_format(model: Path, least_score: float = 0.02) -> Detect:
    """Any network in YuNet's format, decoded by OpenCV; raises DeviceError for a missing file, Rejected for another kind of network."""
    if not model.is_file():
        raise DeviceError(f"{model}: no such file")
    try:
        network = cv2.FaceDetectorYN.create(str(model), "", (STRIDE, STRIDE), least_score, 0.3, 5000)
        network.detect(np.zeros((STRIDE, STRIDE, 3), np.uint8))
    except cv2.error as error:
        raise Rejected(Reason.WRONG_KIND, f"{model}: not a network in YuNet's format ({str(error.err).splitlines()[0]})") from None

    def detect(image_HWC: Image) -> Floats:
        height, width = image_HWC.shape[:2]
        filled = cv2.copyMakeBorder(image_HWC, 0, -height % STRIDE, 0, -width % STRIDE, cv2.BORDER_CONSTANT)
        network.setInputSize((filled.shape[1], filled.shape[0]))
        rows = network.detect(filled)[1]
        return np.zeros((0, 5), np.float32) if rows is None else np.asarray(rows[:, [0, 1, 2, 3, 14]], np.float32)

    return detect


def load_cascade() -> cv2.CascadeClassifier:
    """The cascade file that comes with OpenCV; raises DeviceError when it did not."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))
    if cascade.empty():
        raise DeviceError("OpenCV's cascade file is missing; install opencv-python-headless below version 5")
    return cascade


def haar() -> Detect:
    """OpenCV's frontal-face cascade with its usual settings (scale 1.1, 4 neighbours, its own 24 px window).

    The weight of the last stage stands for a score. Raises DeviceError when OpenCV came without it.
    """
    cascade = load_cascade()

    def detect(image_HWC: Image) -> Floats:
        grey = cv2.cvtColor(image_HWC, cv2.COLOR_BGR2GRAY)
        boxes, _, weights = cascade.detectMultiScale3(grey, 1.1, 4, minSize=(24, 24), outputRejectLevels=True)
        if not len(boxes):
            return np.zeros((0, 5), np.float32)
        return np.concatenate([np.asarray(boxes, np.float32), np.asarray(weights, np.float32).reshape(-1, 1)], 1)

    return detect


@dataclass(frozen=True)
class Findings:
    """What a detector found on annotated frames."""

    pictures: int
    found_M: Floats
    """For each annotated face the score of the detection that found it, -inf where none did."""
    labels_M: NDArray[np.str_]
    sizes_M: Floats
    """Shorter side of each annotated face in pixels of the frame."""
    shown_M: Floats
    """The same in pixels of the picture that the detector was given."""
    false_K: Floats
    """Scores of the detections that found no annotated face, those of at least min_px."""

    def counted(self, min_px: float, label: str | None = None) -> NDArray[np.bool_]:
        """The faces that count: large enough, and of a label (without one: of either label)."""
        return (self.sizes_M >= min_px) & (np.isin(self.labels_M, LABELS) if label is None else self.labels_M == label)

    def threshold_for(self, false_positives: int) -> float:
        """The lowest score from which on there are at most so many false positives."""
        worst_first = np.sort(self.false_K)[::-1]
        return float(np.nextafter(worst_first[false_positives], np.inf)) if len(worst_first) > false_positives else 0.0


def find(detect: Detect, frames: list[AnnotatedFrame], width_px: int, min_px: float = 24) -> Findings:
    """Runs a detector on annotated frames, each resized to a width (NATIVE: as it is)."""
    found: list[Floats] = []
    labels: list[str] = []
    sizes: list[Floats] = []
    shown: list[Floats] = []
    false: list[Floats] = []
    for frame in frames:
        image = frame.image_HWC
        scale = width_px / image.shape[1] if width_px else 1.0
        rows = detect(scaled(image, scale) if width_px else image)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        rows[:, :4] /= scale
        scores_M, is_false_K = match(rows, frame.boxes_M4)
        found.append(scores_M)
        labels += frame.labels
        sizes.append(frame.boxes_M4[:, 2:].min(1))
        shown.append(sizes[-1] * scale)
        counts_K = (rows[:, 2:4].min(1, initial=1e9) >= min_px) & (lying_in(rows[:, :4], frame.ignored_K4).max(1, initial=0) < HALF)
        false.append(rows[is_false_K & counts_K, 4])
    return Findings(len(frames), np.concatenate(found), np.array(labels), *(np.concatenate(each) for each in (sizes, shown, false)))


def match(rows_K5: Floats, boxes_M4: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Score that found each face [M], and which of the detections [K] (sorted, best first) found none."""
    scores = np.full(len(boxes_M4), -np.inf, np.float32)
    is_false = np.ones(len(rows_K5), np.bool_)
    overlap = overlaps(rows_K5[:, :4], boxes_M4)
    for row in range(len(rows_K5)):
        free = np.where(np.isneginf(scores), overlap[row], 0)
        if len(free) and free.max() >= IOU:
            scores[int(free.argmax())] = rows_K5[row, 4]
            is_false[row] = False
    return scores, is_false


def check_countable(frames: list[AnnotatedFrame], min_px: float = 24) -> None:
    """Raises Rejected when nothing could be found, and so nothing be said, on these frames."""
    if not any(label in LABELS and min(box[2:]) >= min_px for frame in frames for label, box in zip(frame.labels, frame.boxes_M4, strict=True)):
        raise Rejected(Reason.BAD_INPUT, f"no face of at least {min_px:g} px in {len(frames)} frames is annotated as {' or '.join(LABELS)}")


def average_precision(findings: Findings, min_px: float = 24) -> float:
    """Area under precision over recall of the faces that count, precision made falling from the right (as in PASCAL VOC 2010)."""
    hits = findings.found_M[findings.counted(min_px)]
    total, hits = len(hits), hits[~np.isneginf(hits)]
    scores = np.concatenate([hits, findings.false_K])
    is_hit = np.concatenate([np.ones(len(hits)), np.zeros(len(findings.false_K))])[np.argsort(-scores, kind="stable")]
    recall = is_hit.cumsum() / max(1, total)
    precision = np.maximum.accumulate((is_hit.cumsum() / np.arange(1, len(is_hit) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def threshold_like(ours: Path, reference: Path, frames: list[AnnotatedFrame], times_false: float, reference_score: float = 0.6) -> float:
    """The score from which on ours has `times_false` times the false positives of the reference, over all widths together."""
    widths = (*WIDTHS_PX, NATIVE)
    false = sum(int((find(yunet_format(reference), frames, width).false_K >= reference_score).sum()) for width in widths)
    own = [find(yunet_format(ours), frames, width) for width in widths]
    return replace(own[0], false_K=np.concatenate([findings.false_K for findings in own])).threshold_for(round(times_false * false))


def summary(findings: Findings, threshold: float | None, min_px: float = 24) -> dict[str, Any]:
    """Figures of one detector at one threshold (None: all it says), as a JSON document; each recall with its 95 % Wilson interval."""
    least = np.finfo(np.float32).min if threshold is None else threshold  # a face that nothing found has -inf
    is_found = findings.found_M >= least
    false = int((findings.false_K >= least).sum())
    return {
        "threshold": None if threshold is None else round(threshold, 4),
        "recall": {label: _recall(is_found[findings.counted(min_px, label)]) for label in LABELS},
        "recall_all": _recall(is_found[findings.counted(min_px)]),
        "recall_by_size_px": {size: _recall(part) for size, part in _by_size(is_found, findings.sizes_M, findings.counted(0), SIZE_EDGES_PX)},
        "false_positives": false,
        "false_positives_per_picture": round(false / max(1, findings.pictures), 4),
        "average_precision": round(average_precision(findings, min_px), 4),
    }


def by_shown_size(found: list[Findings], threshold: float) -> dict[str, Any]:
    """Which faces of at least 12 px in the frame one detector finds, at all widths together, by their size in the picture that it was given.

    A face counts once at each width, so an interval, which takes each for another face, would be too narrow: none is given.
    """
    parts = [(findings.found_M >= threshold, findings.shown_M, findings.counted(SIZE_EDGES_PX[0])) for findings in found]
    is_found_M, shown_M, counts_M = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {size: _share(part) for size, part in _by_size(is_found_M, shown_M, counts_M, SHOWN_EDGES_PX)}


def _by_size(
    is_found_M: NDArray[np.bool_], sizes_M: Floats, counts_M: NDArray[np.bool_], edges: tuple[int, ...]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for low, high in pairwise(edges):
        yield f"{low}-{high}" if high < edges[-1] else f"{low}+", is_found_M[counts_M & (sizes_M >= low) & (sizes_M < high)]


def _recall(is_found: NDArray[np.bool_]) -> dict[str, Any]:
    """Of faces that are all different ones: the interval takes each for one that was drawn by itself."""
    low, high = wilson(int(is_found.sum()), len(is_found)) if len(is_found) else (0.0, 1.0)
    return {**_share(is_found), "low": round(low, 4), "high": round(high, 4)}


def _share(is_found: NDArray[np.bool_]) -> dict[str, Any]:
    found, n = int(is_found.sum()), len(is_found)
    return {"n": n, "found": found, "share": round(found / n, 4) if n else None}


def evaluate_release(release: Path, folder: Path, reference: Path | None = None, unnoted: Path | None = None) -> dict[str, Any]:
    """A release of kind `detector` on a COCO-style folder of frames, beside a reference in YuNet's format if one is given, and Haar.

    `unnoted` as in `read_frames`. Returns the document of `compare`; raises Rejected for a release of another kind or a folder that
    is not as expected.
    """
    manifest, model = read_release(release, "detector")
    return compare(model, manifest.threshold, reference, read_frames(folder, unnoted))


def compare(
    ours: Path, threshold: float, reference: Path | None, frames: list[AnnotatedFrame], reference_score: float = 0.6, min_px: float = 24
) -> dict[str, Any]:
    """Ours, a reference in YuNet's format and the Haar cascade on the same frames, as a JSON document.

    Per width: ours at its own threshold, and `ours_at_reference`: ours at the threshold that gives it as many false positives as
    the reference has at `reference_score`. `recall_by_shown_px`: by the size of the face in the resized picture, over the widths
    and one more that makes faces large together, without the cascade and without intervals. `time_ms` is measured in turns, one thread, on one
    frame per width. Raises Rejected when no annotated face counts.
    """
    check_countable(frames, min_px)
    cv2.setNumThreads(1)
    detectors = _detectors(ours, 0.02, reference, 0.02)
    thresholds = {"ours": threshold} | ({"reference": reference_score} if reference else {})
    widths: dict[str, Any] = {}
    found_at: dict[int, dict[str, Findings]] = {LARGE_WIDTH_PX: {name: find(detectors[name], frames, LARGE_WIDTH_PX, min_px) for name in thresholds}}
    for width in (*WIDTHS_PX, NATIVE):
        found_at[width] = found = {name: find(detect, frames, width, min_px) for name, detect in detectors.items()}
        rows = {"ours": summary(found["ours"], threshold, min_px), "haar": summary(found["haar"], None, min_px)}
        if reference:
            rows["reference"] = summary(found["reference"], reference_score, min_px)
            equal = found["ours"].threshold_for(rows["reference"]["false_positives"])
            rows["ours_at_reference"] = summary(found["ours"], equal, min_px)
        widths[str(width) if width else "native"] = rows
    shown_px = (*WIDTHS_PX, LARGE_WIDTH_PX)
    return {
        "frames": len(frames),
        "min_px": min_px,
        "iou": IOU,
        "reference_score": reference_score,
        "widths": widths,
        "recall_by_shown_px": {name: by_shown_size([found_at[width][name] for width in shown_px], least) for name, least in thresholds.items()},
        "time_ms": times(_detectors(ours, threshold, reference, reference_score), frames),
    }


def _detectors(ours: Path, ours_score: float, reference: Path | None, reference_score: float) -> dict[str, Detect]:
    detectors = {"ours": yunet_format(ours, ours_score), "haar": haar()}
    return {**detectors, "reference": yunet_format(reference, reference_score)} if reference else detectors


def times(detectors: dict[str, Detect], frames: list[AnnotatedFrame]) -> dict[str, Any]:
    """Milliseconds for a frame of 5:3 at each width: mean, p50 and p95 of each detector, in turns."""
    busiest = max(frames, key=lambda frame: len(frame.labels)).image_HWC
    result: dict[str, Any] = {}
    for width in WIDTHS_PX:
        frame = cv2.resize(busiest, (width, width * 3 // 5)).astype(np.uint8, copy=False)
        runs: dict[str, Callable[[], object]] = {name: partial(detect, frame) for name, detect in detectors.items()}
        result[str(width)] = {name: {part: round(ms, 2) for part, ms in asdict(latency).items()} for name, latency in latencies(runs).items()}
    return result
