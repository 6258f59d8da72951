"""What is refused before a detector is trained for hours."""

from dataclasses import replace

import pytest
from drawn_faces import TINY, train
from empty_frames import TO_TRAIN_ON, TO_VALIDATE, write_frames
from rich.console import Console

from protocol.errors import Reason, Rejected
from trainer.detector_net import SIZES, DetectorNet, export
from trainer.detector_recipe import DetectorRecipe
from trainer.detector_run import run_detector


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(Rejected) as caught:
        run_detector(tmp_path, tmp_path / "teacher.onnx", tmp_path / "run", DetectorRecipe(size="vast"), Console())
    assert caught.value.reason is Reason.BAD_SETTING


def test_a_training_that_holds_nothing_out_needs_a_release_whose_threshold_to_keep(tmp_path):
    with pytest.raises(Rejected, match="threshold") as caught:
        run_detector(tmp_path, tmp_path / "teacher.onnx", tmp_path / "run", replace(TINY, holds_out=False), Console())
    assert caught.value.reason is Reason.BAD_SETTING


@pytest.mark.parametrize("files", [[], [TO_TRAIN_ON], [TO_VALIDATE]])
def test_frames_that_cannot_be_trained_and_scored_on_are_refused_before_anything_else(tmp_path, files):
    write_frames(tmp_path / "frames_train", files)
    with pytest.raises(Rejected, match="frames_train"):
        run_detector(tmp_path, tmp_path / "teacher.onnx", tmp_path / "run", TINY, Console())


def test_test_frames_that_cannot_be_scored_on_are_refused_before_anything_else(tmp_path):
    write_frames(tmp_path / "frames_train", [TO_TRAIN_ON, TO_VALIDATE])
    write_frames(tmp_path / "frames", [])
    with pytest.raises(Rejected, match="names no picture"):
        run_detector(tmp_path, tmp_path / "teacher.onnx", tmp_path / "run", TINY, Console())


def test_another_teacher_is_refused_before_it_labels_anything(tmp_path):
    write_frames(tmp_path / "frames_train", [TO_TRAIN_ON, TO_VALIDATE])
    (tmp_path / "teacher.onnx").write_bytes(export(DetectorNet(SIZES["small"])))
    train(tmp_path / "run", replace(TINY, teacher="another"))
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(Rejected, match="another teacher"):
        run_detector(tmp_path, tmp_path / "teacher.onnx", tmp_path / "run", TINY, Console())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
