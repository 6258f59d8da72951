"""What is painted on a scene: grounds, things that are no faces, cover before faces; then the camera's light, blur, noise and JPEG."""

import cv2
import numpy as np
from numpy.random import Generator

from trainer.detector_data import overlaps
from trainer.frames import Floats, Image

SMALLEST_FACE_PX, SMALL_FACE_PX = 11, 32
SMALL_SHARE = 0.45
"""How often a face is to be one of the small ones: what a detector lacks beside its teacher, it lacks there."""


def face_px(rng: Generator, largest: float, smallest: float = SMALLEST_FACE_PX, small_share: float = SMALL_SHARE) -> float:
    """A size of face, log-uniform: small ones as often as large ones, or often one of SMALL_FACE_PX at most; never below `smallest`."""
    if smallest < SMALL_FACE_PX and rng.random() < small_share:
        largest = min(largest, SMALL_FACE_PX)
    return float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))


def background(rng: Generator, side_px: int) -> Image:
    """A plain colour, a ramp, stripes, or smooth or rough noise; as high as it is wide."""
    colours = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    kind = int(rng.integers(4))
    if kind == 0:
        share = along / side_px * rng.uniform(0, 1.5)
    elif kind == 1:
        share = np.sin(along / rng.uniform(2, 40)) * rng.uniform(0.5, 4) + 0.5
    else:
        side = int(rng.integers(2, 80))
        rough = rng.uniform(0, 1, (side, side)).astype(np.float32)
        share = np.asarray(cv2.resize(rough, (side_px, side_px), interpolation=cv2.INTER_CUBIC if kind == 2 else cv2.INTER_NEAREST), np.float32)
    ground: Image = (colours[0] + (colours[1] - colours[0]) * share.clip(0, 1)[:, :, None].astype(np.float32)).astype(np.uint8)
    return ground


def decoys(image: Image, boxes_M4: Floats, rng: Generator) -> Image:
    """Things that are no faces where none is: ovals in the colours of skin and hair (hands, backs of heads, balls), finger-like bars."""
    image = image.copy()
    size_XY = image.shape[1::-1]
    for _ in range(int(rng.integers(1, 5))):
        size = face_px(rng, 120, small_share=0)
        centre = rng.uniform(0, size_XY)
        box = np.array([[*(centre - size * 0.75), size * 1.5, size * 1.5]], np.float32)
        if len(boxes_M4) and overlaps(box, boxes_M4).max() > 0.01:
            continue
        tone = np.array([0.55, 0.7, 1.0]) * rng.uniform(20, 255) if rng.random() < 0.75 else rng.uniform(0, 255, 3)
        turn = float(rng.uniform(0, 180))
        axes = (int(size / 2), int(size / 2 * rng.uniform(0.6, 1.2)))
        cv2.ellipse(image, centre.astype(int).tolist(), axes, turn, 0, 360, tone.tolist(), -1, cv2.LINE_AA)
        for _ in range(int(rng.integers(0, 5))):
            start = centre + rng.uniform(-0.4, 0.4, 2) * size
            end = start + rng.uniform(-0.6, 0.6, 2) * size
            shade = np.clip(tone * rng.uniform(0.5, 1.2), 0, 255)
            thickness = max(1, int(size * rng.uniform(0.03, 0.25)))
            cv2.line(image, start.astype(int).tolist(), end.astype(int).tolist(), shade.tolist(), thickness, cv2.LINE_AA)
    return image


def cover_faces(image: Image, faces_M4: Floats, rng: Generator) -> Image:
    """Cloth, a cup or a hand before the lower half of some faces: they are faces all the same."""
    image = image.copy()
    for x, y, w, h in faces_M4:
        if rng.random() < 0.5:
            continue
        centre = (int(x + w * rng.uniform(0.3, 0.7)), int(y + h * rng.uniform(0.65, 0.85)))
        half = (max(1, int(w * rng.uniform(0.15, 0.5))), max(1, int(h * rng.uniform(0.1, 0.3))))
        colour = rng.uniform(0, 255, 3).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(image, centre, half, float(rng.uniform(-20, 20)), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (centre[0] - half[0], centre[1] - half[1]), (centre[0] + half[0], centre[1] + half[1]), colour, -1)
    return image


def light(image: Image, rng: Generator) -> Image:
    """Contrast, gamma, colour cast and brightness in one look-up table per channel; sometimes grey."""
    if rng.random() < 0.12:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.uint8, copy=False)
    table = np.linspace(0, 1, 256, dtype=np.float32)[:, None] ** rng.uniform(0.6, 1.7)
    table = (table - 0.5) * rng.uniform(0.5, 1.4) + 0.5 + rng.uniform(-0.2, 0.2)
    cast = rng.uniform(0.8, 1.2, 3) if rng.random() < 0.5 else np.ones(3)
    return cv2.LUT(image, np.clip(table * cast * 255, 0, 255).astype(np.uint8)[None]).astype(np.uint8, copy=False)


def degrade(image: Image, boxes_M4: Floats, rng: Generator) -> Image:
    """Fewer pixels, blur, noise, JPEG; never so much that the smallest face becomes a smudge."""
    side_px = image.shape[0]
    smallest = float(boxes_M4[:, 2:].min(initial=200))
    if rng.random() < 0.35 and smallest > 14:
        factor = float(rng.uniform(1, min(4.0, smallest / 11)))
        fewer = int(side_px / factor)
        image = cv2.resize(image, (fewer, fewer), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        up = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_CUBIC
        image = cv2.resize(image, (side_px, side_px), interpolation=up).astype(np.uint8, copy=False)
    elif rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.3 + smallest / 40))).astype(np.uint8, copy=False)
    if rng.random() < 0.25:
        # Noise of a quarter of the picture, four times: cheaper, and no network of this size sees the repetition.
        noise = rng.standard_normal((side_px // 2, side_px // 2, 3), dtype=np.float32) * rng.uniform(2, 14)
        image = np.clip(image + np.tile(noise, (2, 2, 1)), 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))])
        again = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert again is not None, "what was just encoded can be decoded"
        return again.astype(np.uint8, copy=False)
    return image
