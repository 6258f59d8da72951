from dataclasses import replace

import numpy as np
import pytest
from drawn_faces import drawn_library, drawn_scene
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import detector_scene
from trainer.detector_data import Library, Scene
from trainer.detector_place import clip, move, put
from trainer.detector_scene import LARGE_SIDE_PX, SIDE_PX, make_scene

LIBRARY = drawn_library()


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([SIDE_PX, LARGE_SIDE_PX]))
def test_every_scene_is_of_the_size_that_was_asked_for_and_its_faces_lie_in_it(seed, side):
    scene = make_scene(LIBRARY, np.random.default_rng(seed), side)
    faces = len(scene.boxes_M4)
    assert scene.image_HWC.shape == (side, side, 3)
    assert scene.image_HWC.dtype == np.uint8
    assert scene.landmarks_M10.shape == (faces, 10)
    assert scene.is_face_M.shape == (faces,)
    assert (scene.boxes_M4[:, :2] >= -0.01).all()
    assert (scene.boxes_M4[:, :2] + scene.boxes_M4[:, 2:] <= side + 0.01).all()


def test_large_scenes_hold_faces_that_the_others_have_no_room_for():
    sizes = [make_scene(LIBRARY, np.random.default_rng(seed), LARGE_SIDE_PX).boxes_M4[:, 2:].min(1).max(initial=0) for seed in range(80)]
    assert sum(size > SIDE_PX for size in sizes) >= 8


def test_some_plain_scenes_are_mosaics():
    """A view shows the one face of a drawn frame, a mosaic mostly more."""
    faces = [len(make_scene(LIBRARY, np.random.default_rng(seed), is_plain=True).boxes_M4) for seed in range(150)]
    assert 0.08 < np.mean([number > 1 for number in faces]) < 0.3
    assert any(number == 1 for number in faces)


def test_a_face_is_enlarged_too_far_only_where_there_is_no_other():
    small, large = (replace(drawn_scene(0), boxes_M4=np.float32([[10, 10, side, side]])) for side in (10, 100))
    both = Library((small, large), (), {}, ((0, small.boxes_M4[0]), (1, large.boxes_M4[0])), np.array([0.5, 1]))
    drawn = [detector_scene._focus(both, np.random.default_rng(seed), 120, 3.0) for seed in range(50)]
    assert all(frame is large and scale == pytest.approx(1.2) for frame, _, scale in drawn)
    alone = Library((small,), (), {}, ((0, small.boxes_M4[0]),), np.array([1.0]))
    assert detector_scene._focus(alone, np.random.default_rng(0), 120, 3.0)[2] == pytest.approx(12)


def test_the_same_seed_gives_the_same_scene():
    one, other = (make_scene(LIBRARY, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one.image_HWC, other.image_HWC)
    assert np.array_equal(one.boxes_M4, other.boxes_M4)


def test_a_mirrored_face_keeps_its_box_and_swaps_its_eyes():
    scene = drawn_scene(0)
    side = scene.image_HWC.shape[1]
    boxes, landmarks = move(scene, np.array([[-1.0, 0, side], [0, 1, 0]]), is_flipped=True)
    x, y, w, h = scene.boxes_M4[0]
    np.testing.assert_allclose(boxes[0], [side - x - w, y, w, h], atol=1e-4)
    assert landmarks[0, 0] < landmarks[0, 2], "the first eye stays left of the second in the picture"
    np.testing.assert_allclose(landmarks[0, :2], [side - scene.landmarks_M10[0, 2], scene.landmarks_M10[0, 3]], atol=1e-4)


def test_a_turned_round_face_keeps_its_size():
    angle = np.deg2rad(30)
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    scene = drawn_scene(0)
    boxes, _ = move(scene, matrix, is_flipped=False)
    np.testing.assert_allclose(boxes[0, 2:], scene.boxes_M4[0, 2:], rtol=1e-5)


def test_what_is_cut_off_is_ignored_and_then_forgotten():
    boxes = np.array([[10, 10, 20, 20], [-9, 10, 20, 20], [-19, 10, 20, 20], [40, 40, 6, 6]], np.float32)
    kept, landmarks, is_face = clip(boxes, np.zeros((4, 10), np.float32), np.ones(4, np.bool_), np.zeros(2, np.float32), np.full(2, 64, np.float32))
    assert kept[:, 2].tolist() == [20, 11, 6]
    assert is_face.tolist() == [True, False, False], "half a face, and a face too small to see, may or may not be found"
    assert len(landmarks) == 3


@pytest.mark.parametrize("scale", [0.3, 0.5, 1, 2, 6])
@pytest.mark.parametrize("is_flipped", [False, True], ids=["as it is", "mirrored"])
def test_boxes_lie_where_their_pictures_do(scale, is_flipped):
    """To a fraction of a pixel: a face of 12 px is overlapped a sixth less by a box that is one pixel off."""
    image = np.zeros((200, 200, 3), np.uint8)
    image[80:100, 60:90] = 255
    scene = Scene(image, np.float32([[60, 80, 30, 20]]), np.full((1, 10), np.nan, np.float32), np.ones(1, np.bool_))
    linear = scale * np.diag([-1.0 if is_flipped else 1.0, 1.0])
    matrix = np.concatenate([linear, (np.array([150, 150]) - linear @ [75, 90])[:, None]], 1)
    drawn = put(np.zeros((300, 300, 3), np.uint8), scene, matrix, is_flipped, (0, 0), (300, 300))
    shares = drawn.image_HWC[:, :, 0].astype(float)
    middle = [(shares.sum(axis) * (np.arange(300) + 0.5)).sum() / shares.sum() for axis in (0, 1)]
    x, y, w, h = drawn.boxes_M4[0]
    assert middle == pytest.approx([x + w / 2, y + h / 2], abs=0.3)
