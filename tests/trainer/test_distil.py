"""Learning from a teacher: the losses, and that a student does learn."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_faces import write_splits

from trainer import job, runs, splits
from trainer.distil import Teaching, distillation, feature_loss, soft_loss
from trainer.models import ARCHITECTURES, Architecture, MaskNet
from trainer.runs import Lineage
from trainer.train import Recipe, fit, log_counts, predict

TINY = Architecture((8, 16), downsample="stride")
EVEN = torch.zeros(2)


def test_the_soft_loss_is_hintons() -> None:
    student, teacher = torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 0.0]])
    p, q = (teacher[0] / 4).softmax(0), (student[0] / 4).softmax(0)
    by_hand = 16 * sum(float(a * math.log(a / b)) for a, b in zip(p, q, strict=True))
    assert float(soft_loss(student, teacher, 4.0)) == pytest.approx(by_hand, rel=1e-5)


def test_it_is_a_mean_over_the_batch() -> None:
    student, teacher = torch.randn(1, 2), torch.randn(1, 2)
    assert float(soft_loss(student.repeat(5, 1), teacher.repeat(5, 1), 2.0)) == pytest.approx(float(soft_loss(student, teacher, 2.0)), rel=1e-4)


def test_equal_answers_and_equal_views_cost_nothing() -> None:
    logits, features = torch.randn(6, 2), torch.randn(6, 10)
    assert float(soft_loss(logits, logits, 4.0)) == pytest.approx(0, abs=1e-6)
    assert float(feature_loss(features * 3, features)) == pytest.approx(0, abs=1e-10)


def test_features_of_any_widths_can_be_compared() -> None:
    assert float(feature_loss(torch.randn(6, 4), torch.randn(6, 10))) > 0


def test_the_teacher_is_neither_changed_nor_trained_nor_frozen() -> None:
    teacher, student = MaskNet(TINY), MaskNet(TINY)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    objective = distillation(teacher, Teaching(feature_weight=1.0), EVEN)
    objective(student, torch.zeros(4, 128, 128, 3, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])).backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_teacher_and_student_see_the_same_pictures() -> None:
    """A student that is its teacher agrees with it on every augmented batch, whatever the augmentation did."""
    torch.manual_seed(0)
    teacher = MaskNet(TINY).eval()
    objective = distillation(teacher, Teaching(soft_share=1.0, feature_weight=1.0), EVEN)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), np.uint8))
    assert objective(teacher, images, torch.tensor([0, 1, 0, 1])).item() == pytest.approx(0, abs=1e-5)


def test_labels_of_uneven_classes_do_not_push_a_student_that_is_unsure() -> None:
    """In a batch as uneven as the training pictures, half and half is what its labels want of a student that cannot tell them apart."""
    student = MaskNet(TINY).eval()
    torch.nn.init.zeros_(student.classifier.weight)
    torch.nn.init.zeros_(student.classifier.bias)
    classes = torch.tensor([0, 0, 0, 0, 1])
    objective = distillation(MaskNet(TINY), Teaching(soft_share=0.0, label_smoothing=0.0), log_counts(classes.numpy()))
    objective(student, torch.zeros(5, 128, 128, 3, dtype=torch.uint8), classes).backward()
    assert student.classifier.bias.grad is not None
    assert student.classifier.bias.grad.abs().max() < 1e-6


def test_a_student_may_have_another_input_size() -> None:
    student = MaskNet(Architecture((8, 16), downsample="stride", input_px=96))
    objective = distillation(MaskNet(TINY), Teaching(), EVEN)
    assert torch.isfinite(objective(student, torch.zeros(2, 128, 128, 3, dtype=torch.uint8), torch.tensor([0, 1])))


def test_a_student_learns_from_answers_alone(tmp_path: Path) -> None:
    pictures = splits.read(write_splits(tmp_path / "data", n=48))
    recipe = Recipe(epochs=4, batch=16, learning_rate=0.01, ema_decay=0.5)
    torch.manual_seed(0)
    teacher, student = MaskNet(ARCHITECTURES["door-small"]), MaskNet(ARCHITECTURES["door-small"])
    for _ in fit(teacher, pictures.train, pictures.val, recipe):
        pass
    for _ in fit(student, pictures.train, pictures.val, recipe, distillation(teacher, Teaching(soft_share=1.0), EVEN)):
        pass
    agreement = (predict(student, pictures.test).argmax(1) == predict(teacher, pictures.test).argmax(1)).float().mean()
    assert float(agreement) > 0.85


def test_a_run_says_who_taught_it(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", n=8)
    pictures = splits.read(data)
    recipe = Recipe(epochs=1, batch=8)
    for one in (job.Job("t", "door-small", recipe), job.Job("s", "door-96", recipe, Lineage(teacher="t", features=True))):
        list(job.run(one, pictures, data, tmp_path / "runs"))
    config, network = runs.load(tmp_path / "runs" / "s")
    assert config.lineage == Lineage(teacher="t", features=True)
    assert network.architecture == ARCHITECTURES["door-96"]
    assert job.is_complete(tmp_path / "runs" / "s")
    answers = job.load_predictions(tmp_path / "runs" / "s")
    assert len(answers.files) == len(pictures.val) + len(pictures.test)
    assert set(answers.splits) == {"val", "test"}
