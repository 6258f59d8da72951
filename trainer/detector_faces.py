"""Faces of other pictures laid over a scene, where no face is."""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.detector_data import CROP_PAD, Library, Scene, overlaps
from trainer.detector_paint import face_px
from trainer.detector_place import clip, join, move, of_centres, placing, shrink_first
from trainer.frames import Floats, Image


def add_faces(library: Library, scene: Scene, rng: Generator) -> Scene:
    """Face crops laid over a scene, with soft oval edges, where no face is yet."""
    canvas = scene.image_HWC
    size_XY = np.array(canvas.shape[1::-1], np.float32)
    parts = [scene]
    for _ in range(int(rng.integers(1, 6))):
        crop = library.crops[int(rng.integers(len(library.crops)))]
        size = face_px(rng, canvas.shape[0] / 2)
        box = crop.boxes_M4[0]
        scale = size / float(np.sqrt(box[2] * box[3]))
        is_flipped = bool(rng.random() < 0.5)
        matrix = placing(box[:2] + box[2:] / 2, rng.uniform(0, size_XY).astype(np.float32), scale, is_flipped, rng)
        boxes, landmarks = move(crop, matrix, is_flipped)
        if any(len(part.boxes_M4) and overlaps(boxes[:1], part.boxes_M4).any() for part in parts):
            continue
        _blend(canvas, crop, matrix)
        parts.append(Scene(canvas, *clip(boxes[:1], landmarks[:1], crop.is_face_M[:1], np.zeros_like(size_XY), size_XY)))
    return join(canvas, parts)


def _blend(canvas: Image, crop: Scene, matrix: NDArray[np.float64]) -> None:
    """Draws the face of a crop through `matrix` onto the canvas."""
    height, width = crop.image_HWC.shape[:2]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ matrix[:, :2].T + matrix[:, 2]
    low, high = (np.clip(edge, 0, canvas.shape[1::-1]).astype(int) for edge in (corners.min(0), np.ceil(corners.max(0))))
    size = int(high[0] - low[0]), int(high[1] - low[1])
    if min(size) == 0:
        return
    inner = matrix.copy()
    inner[:, 2] -= low
    share = cv2.warpAffine(_oval(crop), of_centres(inner), size)[:, :, None]
    image, inner = shrink_first(crop.image_HWC, inner)
    face = cv2.warpAffine(image, of_centres(inner), size)
    window = canvas[low[1] : high[1], low[0] : high[0]]
    window[:] = (window * (1 - share) + face * share).astype(np.uint8)


def _oval(crop: Scene) -> Floats:
    """How much of each pixel of a crop is to be seen, [H, W]: the head, with soft edges, without the border of repeated pixels."""
    height, width = crop.image_HWC.shape[:2]
    x, y, w, h = crop.boxes_M4[0]
    share = np.zeros((height, width), np.float32)
    cv2.ellipse(share, (int(x + w / 2), int(y + h * 0.48)), (int(w * 0.62), int(h * 0.66)), 0, 0, 360, 1.0, -1)
    border = int(height * CROP_PAD / (1 + 2 * CROP_PAD))
    share[:border] = share[-border:] = share[:, :border] = share[:, -border:] = 0
    return np.asarray(cv2.GaussianBlur(share, (0, 0), 5), np.float32)
