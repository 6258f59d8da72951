"""Labelled pictures -> endless new scenes: views, mosaics, and added faces, of every size."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.detector_data import Library, Scene
from trainer.detector_faces import add_faces
from trainer.detector_paint import SMALLEST_FACE_PX, background, cover_faces, decoys, degrade, face_px, light
from trainer.detector_place import join, placing, put
from trainer.frames import Floats, Image

SIDE_PX, LARGE_SIDE_PX = 320, 640
"""Of a scene, and of one for large faces: what is larger than a scene can never be learned from it."""
SMALLEST_LARGE_PX = 120
"""Of the faces that views in a large scene are centred on; smaller ones have the others."""
LARGEST_SCALE, LARGEST_PLAIN_SCALE = 6.0, 3.0
"""A face that is enlarged further is a smudge, such as cameras show seldom."""
DRAWS = 12
"""So often another face is drawn where one would have to be enlarged too far."""
PLAIN_CROPS_SHARE = 0.2
"""Of the plain scenes that are mosaics: most bare faces are known from crops alone."""


def make_scene(library: Library, rng: Generator, side_px: int = SIDE_PX, *, is_plain: bool = False) -> Scene:
    """One scene of `side_px` x `side_px`; the same for the same state of `rng`.

    A plain one is a view of one frame, or a mosaic, with nothing painted on it: what a camera sees, for the end of a training.
    """
    if is_plain:
        is_mosaic = rng.random() < PLAIN_CROPS_SHARE
        scene = (
            _mosaic(library, rng, side_px, LARGEST_PLAIN_SCALE)
            if is_mosaic
            else _view(library, background(rng, side_px), rng, largest_scale=LARGEST_PLAIN_SCALE)
        )
        return Scene(degrade(light(scene.image_HWC, rng), scene.boxes_M4, rng), scene.boxes_M4, scene.landmarks_M10, scene.is_face_M)
    draw = rng.random()
    if draw < 0.55:
        scene = _views(library, rng, side_px)
    elif draw < 0.8:
        scene = _mosaic(library, rng, side_px)
    else:
        scene = add_faces(library, _views(library, rng, side_px) if rng.random() < 0.8 else _empty(rng, side_px), rng)
    image = scene.image_HWC
    if rng.random() < 0.35:
        image = decoys(image, scene.boxes_M4, rng)
    if rng.random() < 0.25:
        image = cover_faces(image, scene.boxes_M4[scene.is_face_M], rng)
    return Scene(degrade(light(image, rng), scene.boxes_M4, rng), scene.boxes_M4, scene.landmarks_M10, scene.is_face_M)


def _view(
    library: Library,
    canvas: Image,
    rng: Generator,
    low: tuple[int, int] = (0, 0),
    high: tuple[int, int] | None = None,
    largest_scale: float = LARGEST_SCALE,
) -> Scene:
    """Part of a frame in a window of the canvas (all of it), at a scale that gives one of its faces, or of its mistakes, a drawn size."""
    side_px = canvas.shape[0]
    high = high or (side_px, side_px)
    window = np.array(high) - low
    if rng.random() < 0.95 and library.focus:
        smallest_px = SMALLEST_LARGE_PX if side_px > SIDE_PX else SMALLEST_FACE_PX
        frame, box, scale = _focus(library, rng, face_px(rng, window.min() * 0.9, smallest_px), largest_scale)
        half: NDArray[np.floating] = box[2:] / 2
        point: NDArray[np.floating] = box[:2] + half
    else:
        frame = library.frames[int(rng.integers(len(library.frames)))]
        point, scale = rng.uniform(0, 1, 2) * frame.image_HWC.shape[1::-1], float(rng.uniform(0.5, 3))
        half = np.zeros(2)
    size = np.array(frame.image_HWC.shape[1::-1])
    scale = float(np.clip(scale, 0.2, LARGEST_SCALE))
    is_flipped = bool(rng.random() < 0.5)
    margin = np.minimum(scale * half, window / 2)  # what the view is centred on lies in the window whole
    # The frame covers the window, or lies within it: a view that shows less than it could is a waste.
    reach = scale * (point if not is_flipped else np.array([size[0] - point[0], point[1]]))
    slack = window - scale * size
    corner = np.clip(rng.uniform(margin, window - margin) - reach, np.minimum(slack, 0), np.maximum(slack, 0))
    matrix = placing(point, (corner + reach + low).astype(np.float32), scale, is_flipped, rng)
    return put(canvas, frame, matrix, is_flipped, low, high)


def _focus(library: Library, rng: Generator, size_px: float, largest_scale: float) -> tuple[Scene, Floats, float]:
    """A frame, the box in it to centre a view on, and the scale that gives that a size: if possible, one that need not be enlarged too far."""
    for _ in range(DRAWS):
        number, box = library.focus[int(np.searchsorted(library.focus_cumulated, rng.random()))]
        scale = size_px / float(np.sqrt(box[2] * box[3]))
        if scale <= largest_scale:
            break
    return library.frames[number], box, scale


def _views(library: Library, rng: Generator, side_px: int) -> Scene:
    """One frame, or four around a drawn point."""
    canvas = background(rng, side_px)
    if rng.random() < 0.55:
        return _view(library, canvas, rng)
    x, y = (int(v) for v in rng.uniform(0.25, 0.75, 2) * side_px)
    windows = [((0, 0), (x, y)), ((x, 0), (side_px, y)), ((0, y), (x, side_px)), ((x, y), (side_px, side_px))]
    return join(canvas, [_view(library, canvas, rng, low, high) for low, high in windows])


def _mosaic(library: Library, rng: Generator, side_px: int, largest_scale: float = LARGEST_SCALE) -> Scene:
    """A grid of tiles, each a face crop or a part of a frame."""
    canvas = background(rng, side_px)
    tiles = int(rng.choice([1, 2, 3, 4, 6, 8], p=[0.15, 0.25, 0.25, 0.2, 0.1, 0.05]))
    edges = np.linspace(0, side_px, tiles + 1).astype(int)
    parts = []
    for row in range(tiles):
        for column in range(tiles):
            low, high = (int(edges[column]), int(edges[row])), (int(edges[column + 1]), int(edges[row + 1]))
            draw = rng.random()
            if draw < 0.3 and tiles <= 3:
                parts.append(_view(library, canvas, rng, low, high, largest_scale))
            elif draw < 0.92:
                parts.append(_crop_tile(library, canvas, rng, low, high))
    return join(canvas, parts)


def _crop_tile(library: Library, canvas: Image, rng: Generator, low: tuple[int, int], high: tuple[int, int]) -> Scene:
    crop = library.crops[int(rng.integers(len(library.crops)))]
    side = high[0] - low[0]
    middle = np.array(crop.image_HWC.shape[1::-1], np.float32) / 2
    target = (np.array(low) + np.array(high)) / 2 + rng.uniform(-0.15, 0.15, 2) * side
    is_flipped = bool(rng.random() < 0.5)
    matrix = placing(middle, target.astype(np.float32), side / crop.image_HWC.shape[0] * float(rng.uniform(0.7, 1.5)), is_flipped, rng)
    return put(canvas, crop, matrix, is_flipped, low, high)


def _empty(rng: Generator, side_px: int) -> Scene:
    return join(background(rng, side_px), [])
