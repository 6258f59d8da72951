"""The `demo:` camera: a real face walks about before a door, bare, then with a painted mask, then bare again.

The face is NASA's public-domain portrait of the astronaut Eileen Collins, as shipped with scikit-image.
"""

import math
from importlib.resources import files

import cv2
import numpy as np

from edge_agent.scene import Image

WIDTH, HEIGHT, FPS = 960, 540, 15.0
BARE_S, MASKED_S = 8.0, 8.0
"""The face is bare for so long, then masked for so long, and again."""

# Points of the portrait, in its pixels: upper edge of the mask from ear to ear over the nose, then along the jaw.
MASK_OUTLINE = (
    *((161, 118), (178, 119), (193, 114), (206, 110), (219, 114), (234, 118), (250, 117)),
    *((249, 140), (241, 158), (228, 174), (208, 183), (190, 175), (174, 160), (164, 142)),
)
LOOPS = (((161, 120), (155, 102)), ((165, 146), (156, 118)), ((250, 119), (256, 101)), ((248, 144), (256, 117)))
PLEATS = ((168, 134, 245), (173, 146, 241), (181, 158, 233))
"""x from, y, x to of each fold."""


def is_masked(time_s: float) -> bool:
    """Whether the demo's face wears its mask at a time."""
    return time_s % (BARE_S + MASKED_S) >= BARE_S


class DemoScene:
    """Draws the scene as it is at a time: the same picture for the same time."""

    def __init__(self) -> None:
        bare = _read_asset("astronaut.jpg", cv2.IMREAD_COLOR)
        self._people = {False: bare, True: paint_mask(bare)}
        self._alpha = _read_asset("astronaut_alpha.png", cv2.IMREAD_GRAYSCALE)
        self._backdrop = _draw_backdrop()

    def at(self, time_s: float) -> Image:
        """The BGR picture [540, 960, 3] at a time in seconds."""
        person = self._people[is_masked(time_s)]
        size = 1.15 + 0.12 * math.sin(time_s * 0.7)
        centre_x = WIDTH / 2 + 230 * math.sin(time_s * 0.45)
        sway = 3 * math.sin(time_s * 1.9)
        matrix = cv2.getRotationMatrix2D((200, 440), sway, size)
        matrix = matrix + np.array([[0, 0, centre_x - 200], [0, 0, HEIGHT + 15 - 440]])
        person_HWC = cv2.warpAffine(person, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        alpha_HW1 = cv2.warpAffine(self._alpha, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)[:, :, None].astype(np.uint16)
        blended = (person_HWC * alpha_HW1 + self._backdrop * (255 - alpha_HW1)) // 255
        return blended.astype(np.uint8)


def paint_mask(portrait_HWC: Image) -> Image:
    """The portrait with a surgical mask on: cloth that takes the face's own light and shadow, folds, and ear loops."""
    scale = 4  # drawn large and shrunk, for smooth edges
    size = (portrait_HWC.shape[1] * scale, portrait_HWC.shape[0] * scale)
    outline = np.array(MASK_OUTLINE) * scale
    shape = np.zeros(size[::-1], np.uint8)
    cv2.fillPoly(shape, [outline], 255)
    cloth = np.full((*size[::-1], 3), (222, 205, 176), np.uint8)
    for left, y, right in PLEATS:
        middle = ((left + right) // 2 * scale, (y + 5) * scale)
        curve = np.array(cv2.ellipse2Poly(middle, ((right - left) // 2 * scale, 6 * scale), 0, 180, 360, 5))
        cv2.polylines(cloth, [curve + np.array([0, 2])], False, (190, 172, 142), 2 * scale)
        cv2.polylines(cloth, [curve - np.array([0, scale])], False, (236, 224, 200), scale)
    cv2.polylines(cloth, [outline], True, (238, 230, 214), 2 * scale)
    loops = np.zeros(size[::-1], np.uint8)
    for start, end in LOOPS:
        cv2.line(loops, (start[0] * scale, start[1] * scale), (end[0] * scale, end[1] * scale), 255, scale + 2)
    small = portrait_HWC.shape[1::-1]
    shape_HW1, loops_HW1, cloth_HWC = (
        cv2.resize(layer, small, interpolation=cv2.INTER_AREA).reshape(*small[::-1], -1) / 255 for layer in (shape, loops, cloth)
    )
    light_HW1 = cv2.GaussianBlur(cv2.cvtColor(portrait_HWC, cv2.COLOR_BGR2GRAY), (0, 0), 9)[:, :, None] / 170
    shaded = np.clip(cloth_HWC * np.clip(light_HW1, 0.55, 1.1) * 255, 0, 255)
    painted = portrait_HWC * (1 - shape_HW1) + shaded * shape_HW1
    painted = painted * (1 - loops_HW1) + 235 * loops_HW1
    return painted.astype(np.uint8)


def _read_asset(name: str, how: int) -> Image:
    data = np.frombuffer((files("edge_agent") / "assets" / name).read_bytes(), np.uint8)
    image = cv2.imdecode(data, how)
    assert image is not None, f"{name} is part of the package"
    return image.astype(np.uint8, copy=False)


def _draw_backdrop() -> Image:
    """A wall, a floor and a door."""
    ramp = np.linspace(1.05, 0.8, HEIGHT)[:, None, None]
    wall = (np.array([178, 190, 196]) * ramp * np.ones((1, WIDTH, 1))).clip(0, 255).astype(np.uint8)
    wall[HEIGHT - 60 :] = (92, 104, 116)
    cv2.rectangle(wall, (560, 60), (800, HEIGHT - 60), (104, 128, 148), -1)
    cv2.rectangle(wall, (560, 60), (800, HEIGHT - 60), (70, 84, 98), 6)
    for top in (90, 290):
        cv2.rectangle(wall, (590, top), (770, top + 160), (92, 114, 132), 3)
    cv2.circle(wall, (778, 290), 8, (60, 170, 200), -1)
    cv2.putText(wall, "EXIT", (640, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (70, 140, 60), 3, cv2.LINE_AA)
    return wall
