import numpy as np
from drawn_faces import drawn_library
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.detector_data import Scene, overlaps
from trainer.detector_faces import add_faces, swap_faces
from trainer.detector_paint import SIZE_PX

LIBRARY = drawn_library()
SEEDS = st.integers(0, 2**32)


def ground_with(boxes, tone=120):
    boxes_M4 = np.array(boxes, np.float32).reshape(-1, 4)
    image = np.full((SIZE_PX, SIZE_PX, 3), tone, np.uint8)
    return Scene(image, boxes_M4, np.full((len(boxes_M4), 10), np.nan, np.float32), np.ones(len(boxes_M4), np.bool_))


def swapped(seed, boxes, tone=120):
    """The first scene of a row of draws in which the first face is another's."""
    rng = np.random.default_rng(seed)
    while True:
        scene = swap_faces(LIBRARY, ground_with(boxes, tone), rng)
        if not np.isnan(scene.landmarks_M10[0]).any():
            return scene


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_another_face_lies_where_the_first_one_was(seed):
    before = ground_with([[100, 120, 40, 50], [220, 30, 30, 30]])
    scene = swapped(seed, before.boxes_M4)
    assert scene.is_face_M.all()
    middles = scene.boxes_M4[:, :2] + scene.boxes_M4[:, 2:] / 2
    np.testing.assert_allclose(middles, [[120, 145], [235, 45]], atol=0.6)
    assert overlaps(scene.boxes_M4, before.boxes_M4).diagonal().min() > 0.5
    assert (scene.image_HWC[135:155, 110:130] != 120).any(), "no longer grey"
    assert (scene.image_HWC[250:] == 120).all(), "the ground stays"
    inside = (scene.landmarks_M10[0].reshape(5, 2) > [95, 115]) & (scene.landmarks_M10[0].reshape(5, 2) < [145, 175])
    assert inside.all(), "landmarks move with the face"


def test_a_face_at_the_edge_of_the_scene_stays_in_it():
    scene = swapped(1, [[0, 290, 30, 30]])
    assert (scene.boxes_M4[:, :2] >= 0).all()
    assert (scene.boxes_M4[:, :2] + scene.boxes_M4[:, 2:] <= SIZE_PX).all()


def test_faces_in_the_dark_are_darker():
    def brightness(tone):
        return np.mean([swapped(seed, [[130, 130, 60, 60]], tone).image_HWC[145:175, 145:175].mean() for seed in range(20)])

    assert brightness(20) < brightness(230) - 20


def test_a_region_that_may_or_may_not_be_a_face_is_left_alone():
    ground = ground_with([[100, 120, 40, 50]])
    unsure = Scene(ground.image_HWC, ground.boxes_M4, ground.landmarks_M10, np.zeros(1, np.bool_))
    for seed in range(10):
        scene = swap_faces(LIBRARY, unsure, np.random.default_rng(seed))
        assert (scene.image_HWC == 120).all()
        assert not scene.is_face_M.any()


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_faces_are_added_where_none_is(seed):
    known = [[40, 40, 240, 240]]
    scene = add_faces(LIBRARY, ground_with(known), np.random.default_rng(seed))
    np.testing.assert_array_equal(scene.boxes_M4[:1], known)
    assert not overlaps(scene.boxes_M4[1:], scene.boxes_M4[:1]).any()
    assert (scene.image_HWC[150:170, 150:170] == 120).all()


def test_added_faces_are_seen():
    scenes = [add_faces(LIBRARY, ground_with([]), np.random.default_rng(seed)) for seed in range(10)]
    assert all(len(scene.boxes_M4) for scene in scenes[:3])
    for scene in scenes:
        for (x, y, w, h), is_face in zip(scene.boxes_M4.astype(int), scene.is_face_M, strict=True):
            if is_face:
                assert (scene.image_HWC[y : y + h, x : x + w] != 120).any()
