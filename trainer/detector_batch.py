"""Batches of scenes with what is known of them, made one after another while the last one is learned from."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from trainer.detector_data import Library, Scene
from trainer.detector_loss import Targets
from trainer.detector_recipe import DetectorRecipe
from trainer.detector_scene import LARGE_SIDE_PX, SIDE_PX, make_scene, odd_scene
from trainer.detector_teach import Answers, DenseTeacher

AHEAD = 3
"""Batches that are made in advance."""


@dataclass(frozen=True)
class Batch:
    """Scenes: the first are learned from the teacher's answers, the others from the boxes in them."""

    images_NCHW: Tensor
    """BGR in 0 to 1."""
    answers: Answers
    """Of the teacher, on the first T."""
    taught: Targets
    """The regions of the first T."""
    annotated: Targets
    """The regions of the others, counted from T."""


def make_batch(
    library: Library,
    teacher: DenseTeacher | None,
    draws: list[Generator],
    taught_share: float = 0.0,
    side_px: int = SIDE_PX,
    *,
    is_plain: bool = False,
) -> Batch:
    """One scene for each generator; the same for the same states. Without a teacher nothing is taught."""
    count = round(len(draws) * taught_share) if teacher else 0
    taught = [odd_scene(library, rng, side_px, is_plain=is_plain) for rng in draws[:count]]
    annotated = [make_scene(library, rng, side_px, is_plain=is_plain) for rng in draws[count:]]
    images_NHWC = torch.from_numpy(np.stack([scene.image_HWC for scene in (*taught, *annotated)]))
    return Batch(
        (images_NHWC.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last),
        _ask(teacher, taught),
        _targets(taught),
        _targets(annotated),
    )


def batches(library: Library, recipe: DetectorRecipe, teacher: DenseTeacher | None, start: int) -> Iterator[Batch]:
    """The batches from number `start` on, each made from the seed and its number alone: a resumed training sees what it would have seen.

    The next ones are made while one is used; a thread does, for OpenCV and torch let go of the interpreter's lock.
    """

    def make(index: int) -> Batch:
        is_plain = index >= recipe.steps * (1 - recipe.plain_share)
        # Large scenes are as many times fewer as they are larger, so that each step costs the same.
        is_large = np.random.default_rng([recipe.seed, index]).random() < recipe.large_share
        side_px = LARGE_SIDE_PX if is_large else SIDE_PX
        count = max(1, recipe.batch * SIDE_PX**2 // side_px**2)
        draws = [np.random.default_rng([recipe.seed, index, number]) for number in range(count)]
        return make_batch(library, teacher, draws, recipe.taught_share, side_px, is_plain=is_plain)

    with ThreadPoolExecutor(max_workers=1) as ahead:
        waiting = deque(ahead.submit(make, index) for index in range(start, min(start + AHEAD, recipe.steps)))
        for index in range(start + AHEAD, recipe.steps + AHEAD):
            ready = waiting.popleft().result()
            if index < recipe.steps:
                waiting.append(ahead.submit(make, index))
            yield ready


def _ask(teacher: DenseTeacher | None, scenes: list[Scene]) -> Answers:
    if not teacher or not scenes:
        return Answers(torch.zeros(0, 0), torch.zeros(0, 0, 4))
    score_TP, bbox_TP4 = (np.stack(part) for part in zip(*(teacher.look(scene.image_HWC) for scene in scenes), strict=True))
    return Answers(torch.from_numpy(score_TP), torch.from_numpy(bbox_TP4))


def _targets(scenes: list[Scene]) -> Targets:
    """All regions of some scenes, faces and regions to ignore apart."""
    picture_M = torch.from_numpy(np.repeat(np.arange(len(scenes)), [len(scene.boxes_M4) for scene in scenes]))
    boxes_M4 = torch.from_numpy(np.concatenate([np.zeros((0, 4), np.float32), *(scene.boxes_M4 for scene in scenes)]))
    landmarks_M10 = torch.from_numpy(np.concatenate([np.zeros((0, 10), np.float32), *(scene.landmarks_M10 for scene in scenes)]))
    is_face_M = torch.from_numpy(np.concatenate([np.zeros(0, np.bool_), *(scene.is_face_M for scene in scenes)]))
    return Targets(picture_M[is_face_M], boxes_M4[is_face_M], landmarks_M10[is_face_M], picture_M[~is_face_M], boxes_M4[~is_face_M])
