"""Batches of scenes with what is known of them, made one after another while the last one is learned from."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from trainer.detector_data import Library, Scene
from trainer.detector_dense import DenseTeacher
from trainer.detector_loss import Targets
from trainer.detector_odd import odd_scenes
from trainer.detector_recipe import DetectorRecipe
from trainer.detector_scene import LARGE_SIDE_PX, SIDE_PX, make_scene
from trainer.detector_teach import Answers

AHEAD = 2
"""Batches that wait for use, beside those that are being made."""


@dataclass(frozen=True)
class Batch:
    """Scenes: the first are learned from the teacher's answers, the others from the boxes in them."""

    images_NHWC: Tensor
    """BGR, uint8: a quarter of what is to be handed over otherwise."""
    answers: Answers
    """Of the teacher, on the first T."""
    taught: Targets
    """The regions of the first T."""
    annotated: Targets
    """The regions of the others, counted from T."""

    @property
    def images_NCHW(self) -> Tensor:  # noqa: N802  # the name says the axes
        """BGR in 0 to 1."""
        return (self.images_NHWC.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)


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
    taught = odd_scenes(library, draws[:count], side_px, is_plain=is_plain)
    annotated = [make_scene(library, rng, side_px, is_plain=is_plain) for rng in draws[count:]]
    images_NHWC = torch.from_numpy(np.stack([scene.image_HWC for scene in (*taught, *annotated)]))
    return Batch(images_NHWC, _ask(teacher, taught), _targets(taught), _targets(annotated))


def numbered_batch(library: Library, recipe: DetectorRecipe, teacher: DenseTeacher | None, index: int) -> Batch:
    """One batch of a training, made from the seed and its number alone: a resumed training sees what it would have seen."""
    is_plain = index >= recipe.steps * (1 - recipe.plain_share)
    # Large scenes are as many times fewer as they are larger, so that each step costs the same.
    is_large = np.random.default_rng([recipe.seed, index, recipe.batch]).random() < recipe.large_share
    side_px = LARGE_SIDE_PX if is_large else SIDE_PX
    count = max(1, recipe.batch * SIDE_PX**2 // side_px**2)
    draws = [np.random.default_rng([recipe.seed, index, number]) for number in range(count)]
    return make_batch(library, teacher, draws, recipe.taught_share, side_px, is_plain=is_plain)


_worker = threading.local()


def _keep(make: Callable[[int], Batch]) -> None:
    """What a worker makes batches with, handed over once. A worker that is a process ends with the training, however that ends."""
    _worker.make = make
    if training := parent_process():
        threading.Thread(target=_end_with, args=(training,), daemon=True).start()


def _end_with(training: BaseProcess) -> None:
    training.join()
    os._exit(1)


def _make(index: int) -> Batch:
    made: Batch = _worker.make(index)
    return made


def made_ahead(make: Callable[[int], Batch], indices: range, workers: int) -> Iterator[Batch]:
    """The batches of these numbers; the next ones are made while one is used.

    One worker is a thread, for OpenCV and torch let go of the interpreter's lock. More are processes.
    """
    pool = (
        ThreadPoolExecutor(1, initializer=_keep, initargs=(make,))
        if workers == 1
        else ProcessPoolExecutor(workers, get_context("spawn"), initializer=_keep, initargs=(make,))
    )
    ahead = AHEAD + workers
    with pool:
        waiting = deque(pool.submit(_make, index) for index in indices[:ahead])
        later = iter(indices[ahead:])
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(_make, index) for index in islice(later, 1))
            yield ready


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with all its tensors on a device."""
    moved: Batch = _moved(batch, device)
    return moved


def _moved(held: Any, device: torch.device) -> Any:
    """A tensor, or a dataclass of tensors and of such dataclasses, on a device."""
    if isinstance(held, Tensor):
        return held.to(device)
    return type(held)(**{field.name: _moved(getattr(held, field.name), device) for field in fields(held)})


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
