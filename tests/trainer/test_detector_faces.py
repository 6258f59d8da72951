import numpy as np
from drawn_faces import drawn_library
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.detector_data import Scene, overlaps
from trainer.detector_faces import add_faces
from trainer.detector_scene import SIDE_PX

LIBRARY = drawn_library()
SEEDS = st.integers(0, 2**32)


def ground_with(boxes):
    boxes_M4 = np.array(boxes, np.float32).reshape(-1, 4)
    image = np.full((SIDE_PX, SIDE_PX, 3), 120, np.uint8)
    return Scene(image, boxes_M4, np.full((len(boxes_M4), 10), np.nan, np.float32), np.ones(len(boxes_M4), np.bool_))


@settings(max_examples=60)
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
