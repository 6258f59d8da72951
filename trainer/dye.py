"""A masked face -> the same face in a mask of another colour or pattern.

Data sets hold white, blue and black masks for the most part; a network that learns from few of them takes yellow or flowered cloth, the
colours of skin and lips, for a bare face. Shape, folds and edges stay those of the real mask.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Cloth = NDArray[np.float32]


def dye(image_HWC: Image, rng: Generator) -> Image:
    """The RGB picture of a face, cut as detectors cut them, with whatever has the colour of its mask, or of its mouth, dyed below the eyes."""
    size = image_HWC.shape[0]
    lab = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2LAB).astype(np.float32)
    x, y, half = int(size * rng.uniform(0.42, 0.58)), int(size * rng.uniform(0.64, 0.76)), size // 16
    colour = np.median(lab[y - half : y + half, x - half : x + half].reshape(-1, 3), 0)
    # Folds and shadows are of other lightness, not of another colour.
    distance_HW = np.sqrt(np.square((lab - colour) * np.array([0.35, 1, 1], np.float32)).sum(2))
    rows_H1 = np.arange(size, dtype=np.float32)[:, None] / size
    below_eyes_H1 = 1 / (1 + np.exp(-40 * (rows_H1 - rng.uniform(0.36, 0.46))))
    share_HW = np.exp(-np.square(distance_HW / rng.uniform(10, 22))) * below_eyes_H1
    share_HW1 = cv2.GaussianBlur(share_HW.astype(np.float32), (0, 0), 1.2)[..., None] * rng.uniform(0.75, 1)
    shade_HW1 = np.clip(lab[..., :1] / max(colour[0], 30.0), 0.45, 1.5)
    dyed = image_HWC * (1 - share_HW1) + np.clip(_cloth(size, rng) * shade_HW1, 0, 255) * share_HW1
    result: Image = np.clip(dyed, 0, 255).astype(np.uint8)
    return result


def _cloth(size: int, rng: Generator) -> Cloth:
    """Cloth [size, size, 3] of one colour, or of two in stripes, dots, checks or blots."""
    ground = _colour(rng)
    if rng.random() < 0.45:
        return np.broadcast_to(ground, (size, size, 3))
    print_3 = _colour(rng) if rng.random() < 0.5 else np.full(3, float(rng.choice([15, 240])), np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 26)
    along = np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
    across = np.sin(2 * np.pi / period * (y * np.cos(angle) - x * np.sin(angle)))
    match rng.integers(4):
        case 0:
            printed = along > rng.uniform(-0.5, 0.5)
        case 1:
            printed = along * across > rng.uniform(0.1, 0.6)
        case 2:
            printed = (along > 0) ^ (across > 0)
        case _:
            blots = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), rng.uniform(1, 4))
            printed = blots > rng.uniform(0, 1.2) * blots.std()
    cloth: Cloth = np.where(printed[..., None], print_3, ground).astype(np.float32)
    return cloth


def _colour(rng: Generator) -> Cloth:
    hsv = np.array([[[rng.integers(180), rng.integers(60, 256), rng.integers(70, 256)]]], np.uint8)
    colour: Cloth = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
    return colour
