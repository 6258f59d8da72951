"""Pictures with drawn faces: enough for a network to learn something from, without real data."""

import cv2
import numpy as np

from trainer.detector import fit_detector
from trainer.detector_data import Library, Scene
from trainer.detector_recipe import DetectorRecipe

TINY = DetectorRecipe(size="small", steps=4, batch=2)


def drawn_scene(number, side=160, size=60):
    rng = np.random.default_rng(number)
    image = rng.integers(60, 120, (side, side, 3)).astype(np.uint8)
    x, y = (int(v) for v in rng.integers(5, side - size - 5, 2))
    at = lambda u, v: (int(x + u * size), int(y + v * size))  # noqa: E731
    cv2.ellipse(image, at(0.5, 0.5), (size // 2, size // 2), 0, 0, 360, (170, 190, 230), -1)
    points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.75), (0.65, 0.75)]
    for point in points:
        cv2.circle(image, at(*point), size // 12, (20, 20, 20), -1)
    landmarks = np.array([[c for point in points for c in at(*point)]], np.float32)
    return Scene(image, np.array([[x, y, size, size]], np.float32), landmarks, np.array([True]))


def drawn_library(number=8):
    scenes = tuple(drawn_scene(n) for n in range(number))
    return Library(
        scenes, scenes, {"drawn": number}, tuple((n, scene.boxes_M4[0]) for n, scene in enumerate(scenes)), np.arange(1, number + 1) / number
    )


def train(run, recipe=TINY, **settings):
    return list(fit_detector(drawn_library(), recipe, run, **settings))
