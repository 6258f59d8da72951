"""Scenes for a teacher that needs no boxes: askew, two in one, in other colours."""

import numpy as np
from drawn_faces import drawn_library
from numpy.random import Generator

from trainer import detector_odd
from trainer.detector_data import Scene
from trainer.detector_odd import odd_scenes
from trainer.detector_paint import SMALL_FACE_PX, face_px
from trainer.detector_scene import SIDE_PX

LIBRARY = drawn_library()


def draws(number: int, seed: int = 0) -> list[Generator]:
    return [np.random.default_rng([seed, each]) for each in range(number)]


def flat(colour: tuple[int, int, int], *faces: list[float]) -> Scene:
    boxes = np.array(faces, np.float32).reshape(-1, 4)
    return Scene(np.full((64, 64, 3), colour, np.uint8), boxes, np.full((len(boxes), 10), np.nan, np.float32), np.ones(len(boxes), np.bool_))


def test_half_of_the_scenes_are_askew() -> None:
    turned = [np.isnan(scene.landmarks_M10).all() for scene in odd_scenes(LIBRARY, draws(60), SIDE_PX, is_plain=True) if len(scene.boxes_M4)]
    assert 0.3 < np.mean(turned) < 0.7


def test_the_same_seeds_give_the_same_scenes() -> None:
    first, again = (odd_scenes(LIBRARY, draws(12), SIDE_PX) for _ in range(2))
    assert all(np.array_equal(one.image_HWC, other.image_HWC) for one, other in zip(first, again, strict=True))
    assert all(scene.image_HWC.shape == (SIDE_PX, SIDE_PX, 3) and scene.image_HWC.dtype == np.uint8 for scene in first)


def test_nothing_shines_through_a_plain_scene() -> None:
    alone, together = (odd_scenes(LIBRARY, draws(number), SIDE_PX, is_plain=True) for number in (1, 9))
    assert np.array_equal(alone[0].image_HWC, together[0].image_HWC)


def test_half_of_the_scenes_show_the_next_one_and_themselves_at_least_as_much_and_know_the_faces_of_both() -> None:
    one, other = flat((200, 200, 200), [1, 2, 20, 20]), flat((0, 0, 0), [30, 30, 20, 20], [5, 5, 9, 9])
    blended = [detector_odd._blended(one, other, rng) for rng in draws(80)]
    mixed = [scene for scene in blended if scene is not one]
    assert 0.3 < len(mixed) / len(blended) < 0.7
    levels = [int(scene.image_HWC.mean()) for scene in mixed]
    assert 100 <= min(levels) < 130
    assert 170 < max(levels) <= 200
    assert all(np.array_equal(scene.boxes_M4, np.concatenate([one.boxes_M4, other.boxes_M4])) for scene in mixed)
    assert one.image_HWC.min() == 200, "what another one shines through stays as it was"


def test_some_scenes_are_in_other_colours_and_what_is_grey_stays_grey() -> None:
    for colour, least in (((120, 120, 120), 0), ((10, 60, 200), 0.15)):
        scene = flat(colour, [1, 2, 20, 20])
        recoloured = [detector_odd._recoloured(scene, rng) for rng in draws(80)]
        is_other = [bool((made.image_HWC != scene.image_HWC).any()) for made in recoloured]
        assert least <= np.mean(is_other) <= least * 3
        assert all(np.array_equal(made.boxes_M4, scene.boxes_M4) for made in recoloured)


def test_half_of_the_faces_are_small() -> None:
    sizes = [face_px(np.random.default_rng(seed), 288) for seed in range(400)]
    assert 0.5 < np.mean([size < SMALL_FACE_PX for size in sizes]) < 0.75
    assert max(sizes) > 200
    assert min(face_px(np.random.default_rng(seed), 576, 120) for seed in range(50)) >= 120, "those of large scenes are large"
