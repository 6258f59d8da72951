"""Learning from a teacher's scores and boxes. The teacher here is the detector that ships: it has YuNet's format."""

import numpy as np
import pytest
import torch
from drawn_faces import drawn_library
from rig import ROOT

from trainer.detector_batch import make_batch
from trainer.detector_data import Scene
from trainer.detector_dense import DenseTeacher
from trainer.detector_loss import Targets, corners, decode, priors
from trainer.detector_place import askew
from trainer.detector_scene import SIDE_PX
from trainer.detector_teach import MOVED, SIZED, Answers, teaching_loss
from trainer.detector_usual import Usual

SHIPPED = ROOT / "edge_agent" / "models" / "detector" / "model.onnx"
SIZE = 128
PLACES = priors(SIZE)
NOTHING = Targets(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), torch.zeros(0, 10), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))


def maps_of(score_NP: torch.Tensor) -> torch.Tensor:
    """A student's maps that give these scores."""
    maps_NPC = torch.zeros(*score_NP.shape, 16)
    maps_NPC[..., :2] = score_NP.clamp(1e-5, 1 - 1e-5).logit()[..., None]
    return maps_NPC.requires_grad_()


def like(maps_NPC: torch.Tensor, score_NP: torch.Tensor, regions: Targets) -> torch.Tensor:
    """What it costs a student that its scores differ from these."""
    return teaching_loss(maps_NPC, Answers(score_NP, torch.zeros(*score_NP.shape, 4)), PLACES, regions, Usual())["like"]


@pytest.fixture(scope="module")
def teacher() -> DenseTeacher:
    return DenseTeacher(SHIPPED)


def test_a_student_that_agrees_costs_nothing_and_any_other_is_drawn_to_the_teacher() -> None:
    taught_NP = torch.full((1, len(PLACES)), 0.02)
    taught_NP[0, 37] = 0.8
    assert like(maps_of(taught_NP), taught_NP, NOTHING).item() == pytest.approx(0, abs=1e-3)
    student = maps_of(torch.full_like(taught_NP, 0.3))
    loss = like(student, taught_NP, NOTHING)
    loss.backward()
    assert loss > 1
    assert (student.grad[0, 37, :2] < 0).all(), "the score rises where the teacher sees a face"
    assert (student.grad[0, :37, :2] > 0).all(), "and falls where it sees none"
    assert (student.grad[..., 2:] == 0).all()


def test_boxes_are_drawn_to_where_the_library_would_have_the_teachers() -> None:
    score_NP, bbox_NP4 = torch.full((1, len(PLACES)), 0.02), torch.zeros(1, len(PLACES), 4)
    score_NP[0, 37] = 0.8
    bbox_NP4[0, 37] = torch.tensor([0.2, -0.1, 1.0, 1.2])
    x1, y1, x2, y2 = decode(bbox_NP4[0, 37:38], PLACES[37:38])[0].tolist()
    w, h = x2 - x1, y2 - y1
    middle, side = ((x1 + x2) / 2 + MOVED[0] * w, (y1 + y2) / 2 + MOVED[1] * h), (w * SIZED[0], h * SIZED[1])
    wanted = corners(torch.tensor([[middle[0] - side[0] / 2, middle[1] - side[1] / 2, *side]]))[0]
    student = torch.zeros(1, len(PLACES), 16, requires_grad=True)
    optimizer = torch.optim.Adam([student], 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss = teaching_loss(student, Answers(score_NP, bbox_NP4), PLACES, NOTHING, Usual())["where"]
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    torch.testing.assert_close(decode(student[0, 37:38, 2:6], PLACES[37:38])[0].detach(), wanted, atol=0.5, rtol=0)
    assert (student[0, :37, 2:] == 0).all(), "where it sees no face, its boxes mean nothing"
    assert (student[0, :, 6:] == 0).all(), "landmarks are learned elsewhere"


@pytest.mark.parametrize("is_face", [True, False], ids=["a known face", "a region that annotated scenes ignore"])
def test_where_the_teacher_misses_a_known_face_it_has_nothing_to_say(is_face: bool) -> None:
    """Of a region that is ignored because it was in doubt at some size, it has."""
    box, here, none = torch.tensor([[40.0, 40.0, 32.0, 32.0]]), torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    known = Targets(
        here if is_face else none,
        box if is_face else box[:0],
        torch.zeros(int(is_face), 10),
        none if is_face else here,
        box[:0] if is_face else box,
    )
    inside = (PLACES[:, 0] >= 40) & (PLACES[:, 0] <= 72) & (PLACES[:, 1] >= 40) & (PLACES[:, 1] <= 72)
    for seen, is_heard in ((0.4, not is_face), (0.6, True)):
        taught_NP = torch.full((1, len(PLACES)), 0.02)
        taught_NP[0, inside.nonzero()[0]] = seen
        student = maps_of(torch.full_like(taught_NP, 0.9))
        like(student, taught_NP, known).backward()
        assert (student.grad[0, inside, 0] != 0).any() == is_heard
        assert (student.grad[0, ~inside, 0] != 0).all()


@pytest.mark.parametrize("side", [16.0, 40.0], ids=["small", "large"])
def test_a_small_face_is_looked_for_beside_its_box_too(side: float) -> None:
    """Annotated scenes let places there answer for it: what the teacher sees there is heard, and where it sees nothing, it does not say no."""
    box, here, none = torch.tensor([[41.0, 41.0, side, side]]), torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    known = Targets(here, box, torch.zeros(1, 10), none, box[:0])
    beside = ((PLACES[:, 0] == 40) & (PLACES[:, 1] == 40)).nonzero().flatten()
    within = ((PLACES[:, 0] == 48) & (PLACES[:, 1] == 48)).nonzero().flatten()
    for seen, is_heard in ((0.4, (side > 16, False)), (0.6, (True, side == 16))):
        taught_NP = torch.full((1, len(PLACES)), 0.02)
        taught_NP[0, beside[0]] = seen
        student = maps_of(torch.full_like(taught_NP, 0.9))
        like(student, taught_NP, known).backward()
        assert ((student.grad[0, beside, 0] != 0).all(), (student.grad[0, within, 0] != 0).all()) == is_heard


def test_a_batch_holds_the_teachers_answers_of_its_first_scenes(teacher: DenseTeacher) -> None:
    batch, again = (make_batch(drawn_library(), teacher, [np.random.default_rng([3, n]) for n in range(4)], 0.5) for _ in range(2))
    assert batch.images_NCHW.shape == (4, 3, 320, 320)
    assert torch.equal(batch.answers.score_TP, again.answers.score_TP)
    for image_CHW, score_P, bbox_P4 in zip(batch.images_NCHW, batch.answers.score_TP, batch.answers.bbox_TP4, strict=False):
        score, bbox = teacher.look((image_CHW.permute(1, 2, 0) * 255).round().byte().numpy())
        np.testing.assert_allclose(score, score_P, atol=1e-4)
        np.testing.assert_allclose(bbox, bbox_P4, atol=1e-3)
    assert len(batch.answers.score_TP) == 2
    assert set(batch.taught.picture_M.tolist()) <= {0, 1}
    assert set(batch.annotated.picture_M.tolist()) <= {0, 1}, "counted from the first that is not taught"
    assert len(make_batch(drawn_library(), None, [np.random.default_rng(0)], 0.5).answers.score_TP) == 0


@pytest.mark.parametrize("seed", range(20))
def test_what_is_seen_askew_stays_in_its_box(seed: int) -> None:
    image = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    image[140:180, 150:180] = 255
    scene = Scene(image, np.array([[150, 140, 30, 40]], np.float32), np.zeros((1, 10), np.float32), np.ones(1, np.bool_))
    turned = askew(scene, np.random.default_rng(seed))
    rows, columns = np.nonzero(turned.image_HWC[:, :, 0] > 128)
    x, y, w, h = turned.boxes_M4[0]
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == pytest.approx([x, y, x + w, y + h], abs=2)
    assert turned.is_face_M.all()
    assert np.isnan(turned.landmarks_M10).all()
