"""Labelled pictures -> endless new scenes: views, mosaics and pasted faces of every size."""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.detector_data import Floats, Image, Library, Scene, overlaps
from trainer.detector_paint import SIZE_PX, background, cover_faces, decoys, degrade, face_px, light

MIN_FACE_PX = 10
"""Smaller faces are regions to ignore."""
LARGEST_FACE_PX = 290
FLIPPED = (1, 0, 2, 4, 3)
"""Order of the five landmarks in a mirror."""


def make_scene(library: Library, rng: Generator, *, is_plain: bool = False) -> Scene:
    """One scene of SIZE_PX x SIZE_PX; the same for the same state of `rng`.

    A plain one is a view of one frame with nothing painted on it: what a camera sees, for the end of a training.
    """
    if is_plain:
        scene = _view(library, background(rng), rng)
        return Scene(degrade(light(scene.image_HWC, rng), scene.boxes_M4, rng), scene.boxes_M4, scene.landmarks_M10, scene.is_face_M)
    draw = rng.random()
    if draw < 0.55:
        scene = _views(library, rng)
    elif draw < 0.8:
        scene = _mosaic(library, rng)
    else:
        scene = _paste_faces(library, _views(library, rng) if rng.random() < 0.8 else _empty(rng), rng)
    image = scene.image_HWC
    if rng.random() < 0.35:
        image = decoys(image, scene.boxes_M4, rng)
    if rng.random() < 0.25:
        image = cover_faces(image, scene.boxes_M4[scene.is_face_M], rng)
    return Scene(degrade(light(image, rng), scene.boxes_M4, rng), scene.boxes_M4, scene.landmarks_M10, scene.is_face_M)


def odd_scene(library: Library, rng: Generator, *, is_plain: bool = False) -> Scene:
    """A scene as `make_scene` makes them, half of them as if seen askew: for a teacher that needs no boxes, which are no longer exact."""
    scene = make_scene(library, rng, is_plain=is_plain)
    return askew(scene, rng) if rng.random() < 0.5 else scene


# --- geometry


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


def _put(canvas: Image, scene: Scene, matrix: NDArray[np.float64], is_flipped: bool, low: tuple[int, int], high: tuple[int, int]) -> Scene:
    """Draws a scene through `matrix` into the window of the canvas between two corners (x, y); returns what is in that window."""
    window = canvas[low[1] : high[1], low[0] : high[0]]
    inner = matrix.copy()
    inner[:, 2] -= low
    drawn = np.ascontiguousarray(window)
    shrink = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    image = scene.image_HWC
    if shrink < 0.6:  # a plain warp would skip pixels
        small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        inner[:, :2] = inner[:, :2] @ np.diag([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
        image = small.astype(np.uint8, copy=False)
    cv2.warpAffine(image, inner, (drawn.shape[1], drawn.shape[0]), dst=drawn, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
    window[:] = drawn
    boxes, landmarks = move(scene, matrix, is_flipped)
    boxes, landmarks, is_face = clip(boxes, landmarks, scene.is_face_M, np.array(low, np.float32), np.array(high, np.float32))
    return Scene(canvas, boxes, landmarks, is_face)


def _matrix(point: NDArray[np.floating], target: NDArray[np.floating], scale: float, is_flipped: bool, rng: Generator) -> NDArray[np.float64]:
    """Maps `point` of a scene to `target` at a scale, turned and stretched a little, mirrored if so said."""
    angle = np.deg2rad(rng.normal(0, 7) if rng.random() < 0.88 else rng.uniform(-30, 30))
    stretch = np.exp(rng.uniform(-0.1, 0.1))
    linear = scale * _turn(angle) @ np.diag([(-1 if is_flipped else 1) * stretch, 1 / stretch])
    return np.concatenate([linear, (target - linear @ point)[:, None]], 1)


def _turn(angle: float) -> NDArray[np.float64]:
    """Turns by an angle in radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _join(canvas: Image, parts: list[Scene]) -> Scene:
    return Scene(
        canvas,
        np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes_M4 for part in parts)]),
        np.concatenate([np.zeros((0, 10), np.float32), *(part.landmarks_M10 for part in parts)]),
        np.concatenate([np.zeros(0, np.bool_), *(part.is_face_M for part in parts)]),
    )


def askew(scene: Scene, rng: Generator) -> Scene:
    """The scene turned, sheared and in perspective; boxes become the frames of what they were."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * SIZE_PX
    middle = np.float32(SIZE_PX / 2)
    turn = _turn(rng.uniform(-0.6, 0.6)) @ np.diag(np.exp(rng.uniform(-0.35, 0.35, 2)))
    there = (corners - middle) @ turn.T + middle + rng.uniform(-0.12, 0.12, (4, 2)) * SIZE_PX
    matrix = cv2.getPerspectiveTransform(corners, there.astype(np.float32))
    image = cv2.warpPerspective(scene.image_HWC, matrix, (SIZE_PX, SIZE_PX), borderMode=cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
    edges = np.concatenate([scene.boxes_M4[:, :2], scene.boxes_M4[:, :2] + scene.boxes_M4[:, 2:]], 1)[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    moved = cv2.perspectiveTransform(edges.reshape(-1, 1, 2), matrix).reshape(-1, 4, 2) if len(edges) else np.zeros((0, 4, 2), np.float32)
    low, high = moved.min(1), moved.max(1)
    return Scene(image, np.concatenate([low, high - low], 1).astype(np.float32), np.full_like(scene.landmarks_M10, np.nan), scene.is_face_M)


# --- three kinds of scene


def _view(library: Library, canvas: Image, rng: Generator, low: tuple[int, int] = (0, 0), high: tuple[int, int] = (SIZE_PX, SIZE_PX)) -> Scene:
    """Part of a frame in a window of the canvas, at a scale that gives one of its faces, or of its mistakes, a drawn size."""
    window = np.array(high) - low
    if rng.random() < 0.95 and library.focus:
        number, box = library.focus[int(np.searchsorted(library.focus_cumulated, rng.random()))]
        frame = library.frames[number]
        point: NDArray[np.floating] = box[:2] + box[2:] / 2
        scale = face_px(rng, min(LARGEST_FACE_PX, window.min() * 0.9)) / float(np.sqrt(box[2] * box[3]))
    else:
        frame = library.frames[int(rng.integers(len(library.frames)))]
        point, scale = rng.uniform(0, 1, 2) * frame.image_HWC.shape[1::-1], float(rng.uniform(0.5, 3))
    size = np.array(frame.image_HWC.shape[1::-1])
    scale = float(np.clip(scale, 0.2, 6))
    is_flipped = bool(rng.random() < 0.5)
    # The frame covers the window, or lies within it: a view that shows less than it could is a waste.
    reach = scale * (point if not is_flipped else np.array([size[0] - point[0], point[1]]))
    slack = window - scale * size
    corner = np.clip(rng.uniform(0, 1, 2) * window - reach, np.minimum(slack, 0), np.maximum(slack, 0))
    matrix = _matrix(point, (corner + reach + low).astype(np.float32), scale, is_flipped, rng)
    return _put(canvas, frame, matrix, is_flipped, low, high)


def _views(library: Library, rng: Generator) -> Scene:
    """One frame, or four around a drawn point."""
    canvas = background(rng)
    if rng.random() < 0.55:
        return _view(library, canvas, rng)
    x, y = (int(v) for v in rng.uniform(0.25, 0.75, 2) * SIZE_PX)
    windows = [((0, 0), (x, y)), ((x, 0), (SIZE_PX, y)), ((0, y), (x, SIZE_PX)), ((x, y), (SIZE_PX, SIZE_PX))]
    return _join(canvas, [_view(library, canvas, rng, low, high) for low, high in windows])


def _mosaic(library: Library, rng: Generator) -> Scene:
    """A grid of tiles, each a face crop or a part of a frame."""
    canvas = background(rng)
    tiles = int(rng.choice([1, 2, 3, 4, 6, 8], p=[0.15, 0.25, 0.25, 0.2, 0.1, 0.05]))
    edges = np.linspace(0, SIZE_PX, tiles + 1).astype(int)
    parts = []
    for row in range(tiles):
        for column in range(tiles):
            low, high = (int(edges[column]), int(edges[row])), (int(edges[column + 1]), int(edges[row + 1]))
            draw = rng.random()
            if draw < 0.3 and tiles <= 3:
                parts.append(_view(library, canvas, rng, low, high))
            elif draw < 0.92:
                parts.append(_crop_tile(library, canvas, rng, low, high))
    return _join(canvas, parts)


def _crop_tile(library: Library, canvas: Image, rng: Generator, low: tuple[int, int], high: tuple[int, int]) -> Scene:
    crop = library.crops[int(rng.integers(len(library.crops)))]
    side = high[0] - low[0]
    middle = np.array(crop.image_HWC.shape[1::-1], np.float32) / 2
    target = (np.array(low) + np.array(high)) / 2 + rng.uniform(-0.15, 0.15, 2) * side
    is_flipped = bool(rng.random() < 0.5)
    matrix = _matrix(middle, target.astype(np.float32), side / crop.image_HWC.shape[0] * float(rng.uniform(0.7, 1.5)), is_flipped, rng)
    return _put(canvas, crop, matrix, is_flipped, low, high)


def _paste_faces(library: Library, scene: Scene, rng: Generator) -> Scene:
    """Face crops laid over a scene, with soft oval edges, where no face is yet."""
    canvas = scene.image_HWC
    parts = [scene]
    for _ in range(int(rng.integers(1, 6))):
        crop = library.crops[int(rng.integers(len(library.crops)))]
        size = face_px(rng, 160)
        box = crop.boxes_M4[0]
        scale = size / float(np.sqrt(box[2] * box[3]))
        is_flipped = bool(rng.random() < 0.5)
        matrix = _matrix(box[:2] + box[2:] / 2, rng.uniform(0, SIZE_PX, 2).astype(np.float32), scale, is_flipped, rng)
        boxes, landmarks = move(crop, matrix, is_flipped)
        if any(len(part.boxes_M4) and overlaps(boxes[:1], part.boxes_M4).max() > 0.02 for part in parts):
            continue
        _blend(canvas, crop, matrix)
        window = np.zeros(2, np.float32), np.full(2, SIZE_PX, np.float32)
        parts.append(Scene(canvas, *clip(boxes[:1], landmarks[:1], crop.is_face_M[:1], *window)))
    return _join(canvas, parts)


def _blend(canvas: Image, crop: Scene, matrix: NDArray[np.float64]) -> None:
    size = canvas.shape[1], canvas.shape[0]
    height, width = crop.image_HWC.shape[:2]
    box = crop.boxes_M4[0]
    alpha = np.zeros((height, width), np.float32)
    centre = (int(box[0] + box[2] / 2), int(box[1] + box[3] * 0.48))
    cv2.ellipse(alpha, centre, (int(box[2] * 0.62), int(box[3] * 0.66)), 0, 0, 360, 1.0, -1)
    mask = cv2.warpAffine(cv2.GaussianBlur(alpha, (0, 0), 5), matrix, size)[:, :, None]
    image = cv2.warpAffine(crop.image_HWC, matrix, size)
    canvas[:] = (canvas * (1 - mask) + image * mask).astype(np.uint8)


def _empty(rng: Generator) -> Scene:
    return _join(background(rng), [])
