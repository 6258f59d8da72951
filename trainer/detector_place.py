"""Pictures put into pictures: where they come to lie, and what becomes of their faces."""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.detector_data import Scene
from trainer.frames import Floats, Image, scaled

MIN_FACE_PX = 10
"""Smaller faces are regions to ignore."""
FLIPPED = (1, 0, 2, 4, 3)
"""Order of the five landmarks in a mirror."""


def move(scene: Scene, matrix_23: NDArray[np.float64], is_flipped: bool) -> tuple[Floats, Floats]:
    """Boxes and landmarks of a scene after an affine map; a turned box is the frame of the ellipse that was in it."""
    linear, shift = matrix_23[:, :2], matrix_23[:, 2]
    before = scene.boxes_M4[:, 2:] / 2
    centre = (scene.boxes_M4[:, :2] + before) @ linear.T + shift
    half = np.sqrt(np.square(before) @ np.square(linear).T)
    points: NDArray[np.float64] = scene.landmarks_M10.reshape(-1, 5, 2).astype(np.float64)
    if is_flipped:
        points = points[:, FLIPPED]
    points = points @ linear.T + shift
    return np.concatenate([centre - half, 2 * half], 1).astype(np.float32), points.reshape(-1, 10).astype(np.float32)


def clip(
    boxes_M4: Floats, landmarks_M10: Floats, is_face_M: NDArray[np.bool_], low: Floats, high: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """What is left of faces inside a window (corners `low`, `high`): less than a tenth is dropped, less than 60 % is to be ignored."""
    first = np.clip(boxes_M4[:, :2], low, high)
    last = np.clip(boxes_M4[:, :2] + boxes_M4[:, 2:], low, high)
    seen = (last - first).prod(1) / np.maximum(boxes_M4[:, 2:].prod(1), 1e-6)
    kept = seen >= 0.1
    boxes = np.concatenate([first, last - first], 1)[kept].astype(np.float32)
    is_face = is_face_M[kept] & (seen[kept] >= 0.6) & (boxes[:, 2:].min(1, initial=1e9) >= MIN_FACE_PX)
    return boxes, landmarks_M10[kept], is_face


def put(canvas: Image, scene: Scene, matrix: NDArray[np.float64], is_flipped: bool, low: tuple[int, int], high: tuple[int, int]) -> Scene:
    """Draws a scene through `matrix` into the window of the canvas between two corners (x, y); returns what is in that window."""
    window = canvas[low[1] : high[1], low[0] : high[0]]
    inner = matrix.copy()
    inner[:, 2] -= low
    drawn = np.ascontiguousarray(window)
    image, inner = shrink_first(scene.image_HWC, inner)
    size = (drawn.shape[1], drawn.shape[0])
    cv2.warpAffine(image, of_centres(inner), size, dst=drawn, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
    window[:] = drawn
    boxes, landmarks = move(scene, matrix, is_flipped)
    boxes, landmarks, is_face = clip(boxes, landmarks, scene.is_face_M, np.array(low, np.float32), np.array(high, np.float32))
    return Scene(canvas, boxes, landmarks, is_face)


def of_centres(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """The map [2, 3] or [3, 3] for OpenCV's warps: they count pixels from the middle of the first one, boxes count from its edge."""
    to_edge = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    whole = np.concatenate([matrix, [[0, 0, 1]]]) if len(matrix) == 2 else matrix
    moved: NDArray[np.float64] = np.linalg.inv(to_edge) @ whole @ to_edge
    return moved[: len(matrix)]


def shrink_first(image: Image, matrix_23: NDArray[np.float64]) -> tuple[Image, NDArray[np.float64]]:
    """The picture and its map, with much of a shrinking done beforehand by area: a plain warp would skip pixels."""
    shrink = float(np.sqrt(abs(np.linalg.det(matrix_23[:, :2]))))
    if shrink >= 0.6:
        return image, matrix_23
    small = scaled(image, shrink, cv2.INTER_AREA)
    matrix = matrix_23.copy()
    matrix[:, :2] = matrix[:, :2] @ np.diag([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
    return small, matrix


def placing(point: NDArray[np.floating], target: NDArray[np.floating], scale: float, is_flipped: bool, rng: Generator) -> NDArray[np.float64]:
    """Maps `point` of a scene to `target` at a scale, turned and stretched a little, mirrored if so said."""
    angle = np.deg2rad(rng.normal(0, 7) if rng.random() < 0.88 else rng.uniform(-30, 30))
    stretch = np.exp(rng.uniform(-0.1, 0.1))
    linear = scale * _turn(angle) @ np.diag([(-1 if is_flipped else 1) * stretch, 1 / stretch])
    return np.concatenate([linear, (target - linear @ point)[:, None]], 1)


def _turn(angle: float) -> NDArray[np.float64]:
    """Turns by an angle in radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def join(canvas: Image, parts: list[Scene]) -> Scene:
    return Scene(
        canvas,
        np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes_M4 for part in parts)]),
        np.concatenate([np.zeros((0, 10), np.float32), *(part.landmarks_M10 for part in parts)]),
        np.concatenate([np.zeros(0, np.bool_), *(part.is_face_M for part in parts)]),
    )


def askew(scene: Scene, rng: Generator) -> Scene:
    """The scene turned, sheared and in perspective; boxes become the frames of what they were."""
    side_px = scene.image_HWC.shape[0]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * side_px
    middle = np.float32(side_px / 2)
    turn = _turn(rng.uniform(-0.6, 0.6)) @ np.diag(np.exp(rng.uniform(-0.35, 0.35, 2)))
    there = (corners - middle) @ turn.T + middle + rng.uniform(-0.12, 0.12, (4, 2)) * side_px
    matrix = np.asarray(cv2.getPerspectiveTransform(corners, there.astype(np.float32)), np.float64)
    image = cv2.warpPerspective(scene.image_HWC, of_centres(matrix), (side_px, side_px), borderMode=cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
    edges = np.concatenate([scene.boxes_M4[:, :2], scene.boxes_M4[:, :2] + scene.boxes_M4[:, 2:]], 1)[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    moved = cv2.perspectiveTransform(edges.reshape(-1, 1, 2), matrix).reshape(-1, 4, 2) if len(edges) else np.zeros((0, 4, 2), np.float32)
    low, high = moved.min(1), moved.max(1)
    return Scene(image, np.concatenate([low, high - low], 1).astype(np.float32), np.full_like(scene.landmarks_M10, np.nan), scene.is_face_M)
