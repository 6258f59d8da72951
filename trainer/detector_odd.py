"""Scenes odder than any camera sees: askew, two in one, in colours that are not theirs. For a teacher that needs no boxes.

A student that has to say of such scenes, too, what its teacher says learns what the teacher does, not what a few hundred pictures
show: Beyer et al., Knowledge distillation: a good teacher is patient and consistent (arXiv 2106.05237).
"""

import cv2
import numpy as np
from numpy.random import Generator

from trainer.detector_data import Library, Scene
from trainer.detector_place import askew, join
from trainer.detector_scene import make_scene

ASKEW_SHARE, BLENDED_SHARE, RECOLOURED_SHARE = 0.5, 0.5, 0.3
LARGEST_THROUGH = 0.5
"""How much of the other scene shines through at most."""
CROSSTALK = 0.25
"""Standard deviation of what a colour gets of each other one."""


def odd_scenes(library: Library, draws: list[Generator], side_px: int, *, is_plain: bool = False) -> list[Scene]:
    """One scene of `side_px` x `side_px` for each generator, half of them askew.

    Unless they are plain, the next one shines through half of them, and some are recoloured. Boxes are no longer exact, and some
    frame what hardly shows: they say in which regions annotators know a face.
    """
    scenes = [_turned(make_scene(library, rng, side_px, is_plain=is_plain), rng) for rng in draws]
    if is_plain:
        return scenes
    return [_recoloured(_blended(scene, other, rng), rng) for scene, other, rng in zip(scenes, scenes[1:] + scenes[:1], draws, strict=True)]


def _turned(scene: Scene, rng: Generator) -> Scene:
    return askew(scene, rng) if rng.random() < ASKEW_SHARE else scene


def _blended(scene: Scene, other: Scene, rng: Generator) -> Scene:
    if rng.random() >= BLENDED_SHARE:
        return scene
    through = float(rng.uniform(0, LARGEST_THROUGH))
    return join(cv2.addWeighted(scene.image_HWC, 1 - through, other.image_HWC, through, 0).astype(np.uint8, copy=False), [scene, other])


def _recoloured(scene: Scene, rng: Generator) -> Scene:
    """The scene as it is, or with its colours in another order, or each with something of the others."""
    if rng.random() >= RECOLOURED_SHARE:
        return scene
    mix_33 = np.eye(3)[rng.permutation(3)] if rng.random() < 0.5 else np.eye(3) + rng.normal(0, CROSSTALK, (3, 3))
    image = cv2.transform(scene.image_HWC, mix_33 / mix_33.sum(1, keepdims=True)).astype(np.uint8, copy=False)
    return Scene(image, scene.boxes_M4, scene.landmarks_M10, scene.is_face_M)
