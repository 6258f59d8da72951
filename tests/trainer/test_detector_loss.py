import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.detector_loss import Targets, assign, candidates, corners, decode, detection_loss, eiou_loss, iou, priors
from trainer.detector_usual import Usual

SIZE = 128
NAN = float("nan")


def targets(*boxes, ignore=(), landmarks=None):
    faces = torch.tensor([list(map(float, b)) for b in boxes]).reshape(-1, 4)
    regions = torch.tensor([list(map(float, b)) for b in ignore]).reshape(-1, 4)
    points = torch.full((len(faces), 10), NAN) if landmarks is None else landmarks
    zeros = torch.zeros(len(faces), dtype=torch.long)
    return Targets(zeros, faces, points, torch.zeros(len(regions), dtype=torch.long), regions)


def perfect_maps(places, box):
    """Maps whose every place answers with the box, unsure of there being a face."""
    x, y, w, h = box
    maps = torch.zeros(1, len(places), 16)
    maps[0, :, 2:4] = (torch.tensor([x + w / 2, y + h / 2]) - places[:, :2]) / places[:, 2:]
    maps[0, :, 4:6] = (torch.tensor([float(w), float(h)]) / places[:, 2:]).log()
    return maps


def test_priors_run_row_by_row_through_the_strides():
    places = priors(64)
    assert places.shape == (64 + 16 + 4, 3)
    assert places[9].tolist() == [8, 8, 8]
    assert places[64 + 1].tolist() == [16, 0, 16]
    assert places[-1].tolist() == [32, 32, 32]


@given(st.floats(0, 100), st.floats(0, 100), st.floats(4, 100), st.floats(4, 100))
def test_decoding_what_was_encoded_gives_the_box(x, y, w, h):
    places = priors(SIZE)
    boxes = decode(perfect_maps(places, (x, y, w, h))[0, :, 2:6], places)
    expected = torch.tensor([x, y, x + w, y + h], dtype=torch.float32)
    torch.testing.assert_close(boxes, expected.expand_as(boxes), rtol=1e-3, atol=0.05)


def test_iou_and_its_loss_know_the_simple_cases():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    assert iou(a, b).tolist() == pytest.approx([1, 1 / 3, 0], abs=1e-5)
    loss = eiou_loss(a, b)
    assert loss[0] < 1e-4
    assert loss[0] < loss[1] < loss[2]
    assert loss[1] == pytest.approx(1 - 1 / 3 + 25 / (15**2 + 10**2), abs=1e-4)


def test_priors_of_equal_sides_answer_for_a_face_at_most_25_at_each_stride():
    rows, allowed = candidates(torch.tensor([[40.0, 40, 60, 60]]), SIZE)
    assert rows.shape == (1, 75)
    x, y, stride = priors(SIZE)[rows[0][allowed[0]]].T
    assert ((x - 70).abs() <= 2.5 * stride).all()
    assert ((y - 70).abs() <= 2.5 * stride).all()
    assert [(stride == s).sum() for s in (8, 16, 32)] == [25, 25, 16], "a window of 5 x 5, less what is beyond the picture"


def test_the_places_around_a_small_face_may_answer_for_it():
    """A network whose places look a little to one side sees a face of 12 px best from beside it."""
    rows, allowed = candidates(torch.tensor([[42.0, 42, 12, 12]]), SIZE)
    near = priors(SIZE)[rows[0][allowed[0]]]
    assert any(place == (40.0, 40.0, 8.0) for place in map(tuple, near.tolist()))
    assert any(place == (32.0, 32.0, 16.0) for place in map(tuple, near.tolist()))


@pytest.mark.parametrize("box", [(30, 30, 16, 16), (10, 20, 90, 90), (60, 5, 30, 40)])
def test_the_priors_that_answer_are_around_the_face_and_none_answers_twice(box):
    places = priors(SIZE)
    flat, face = assign(perfect_maps(places, box), places, targets(box), SIZE)
    assert len(flat) == len(set(flat.tolist()))
    assert (face == 0).all()
    assert 1 <= len(flat) <= 10
    x, y, stride = places[flat].T
    assert ((x - box[0] - box[2] / 2).abs() <= 2.5 * stride).all()
    assert ((y - box[1] - box[3] / 2).abs() <= 2.5 * stride).all()


def test_of_two_faces_that_want_the_same_prior_the_one_it_serves_better_has_it():
    places = priors(SIZE)
    # Without a word from the network the one box that touches both is that of stride 32 at 64, 64: it lies more over the second.
    flat, face = assign(torch.zeros(1, len(places), 16), places, targets((40, 48, 30, 30), (52, 48, 30, 30)), SIZE)
    assert len(flat) == len(set(flat.tolist()))
    assert face[places[flat, 2] == 32].tolist() == [1]


def test_a_batch_without_faces_has_a_loss_of_silence_only():
    places = priors(SIZE)
    loss, parts = detection_loss(torch.full((2, len(places), 16), -9.0), places, targets(), SIZE, Usual())
    assert parts["cls"] == parts["box"] == parts["kps"] == 0
    assert 0 <= float(loss) < 1


def test_an_answer_in_a_region_to_ignore_costs_nothing():
    places = priors(SIZE)
    maps = torch.full((1, len(places), 16), -9.0)
    inside = (places[:, 0] >= 32) & (places[:, 0] <= 96) & (places[:, 1] >= 32) & (places[:, 1] <= 96)
    maps[0, inside, 1] = 9.0
    heard = detection_loss(maps, places, targets(), SIZE, Usual())[1]["obj"]
    ignored = detection_loss(maps, places, targets(ignore=[(32, 32, 64, 64)]), SIZE, Usual())[1]["obj"]
    assert heard > 100
    assert ignored < 1


def test_the_right_answer_costs_less_than_a_wrong_one():
    places, box = priors(SIZE), (40, 40, 40, 40)
    right = perfect_maps(places, box)
    wrong = right.clone()
    wrong[..., 2:6] += 0.7
    assert detection_loss(right, places, targets(box), SIZE, Usual())[1]["box"] < detection_loss(wrong, places, targets(box), SIZE, Usual())[1]["box"]


def test_unknown_landmarks_cost_nothing_and_known_ones_do():
    places, box = priors(SIZE), (40, 40, 40, 40)
    maps = perfect_maps(places, box)
    assert detection_loss(maps, places, targets(box), SIZE, Usual())[1]["kps"] == 0
    known = targets(box, landmarks=torch.full((1, 10), 60.0))
    loss, parts = detection_loss(maps, places, known, SIZE, Usual())
    assert parts["kps"] > 0
    assert math.isfinite(float(loss))


def test_corners():
    assert corners(torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[1, 2, 4, 6]]
