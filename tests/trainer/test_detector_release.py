"""A detector's release: golden answers, card, and what is refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_faces import train

from protocol.errors import Reason, Rejected
from protocol.release import MANIFEST_FILE, MODEL_FILE, Manifest
from trainer import detector_release
from trainer.detector_eval import NATIVE, evaluate_release, find, yunet_format
from trainer.detector_net import OUTPUTS
from trainer.frames import read_frames


@pytest.fixture
def finished(tmp_path):
    """A run with weights and with results as score_detector writes them."""
    run = tmp_path / "run"
    train(run)
    share = {"n": 2, "found": 1, "share": 0.5, "low": 0.1, "high": 0.9}
    row = {
        "threshold": 0.5,
        "recall": {"with_mask": share, "without_mask": share},
        "recall_all": share,
        "recall_by_size_px": {"24+": share},
        "false_positives": 1,
        "false_positives_per_picture": 0.5,
        "average_precision": 0.5,
    }
    widths = {"640": {"ours": row, "reference": row, "ours_at_reference": row, "haar": row}}
    test = {"frames": 2, "min_px": 24, "iou": 0.35, "reference_score": 0.6, "widths": widths, "time_ms": {}}
    (run / detector_release.RESULTS_FILE).write_text(json.dumps({"threshold": 0.55, "held_out": test, "test": test}))
    return run


def test_a_release_says_what_it_is_and_stays_below_what_a_retained_message_may_be(finished, tmp_path):
    folder = tmp_path / "release"
    detector_release.export_detector(finished, "face", "1", folder)
    data = (folder / MANIFEST_FILE).read_bytes()
    manifest = Manifest.parse(data)
    manifest.check_model((folder / MODEL_FILE).read_bytes())
    assert (manifest.kind, manifest.input.colour, manifest.threshold, manifest.labels) == ("detector", "bgr", 0.55, ("face",))
    assert manifest.scores["frames 640"].recall_with_mask == 0.5
    assert len(data) * 4 / 3 < 8000


def test_the_golden_answers_are_what_opencv_answers(finished, tmp_path):
    manifest = detector_release.export_detector(finished, "face", "1", tmp_path / "release")
    golden = manifest.golden
    assert set(golden.outputs) < set(OUTPUTS)
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "release" / MODEL_FILE))
    net.setInput(np.frombuffer(golden.input_bytes(), np.uint8).reshape(golden.shape).astype(np.float32))
    for expected, answer in zip(golden.outputs.values(), net.forward(list(golden.outputs)), strict=True):
        np.testing.assert_allclose(answer.ravel(), expected, atol=golden.tolerance, rtol=0)


@pytest.mark.parametrize(
    ("kept", "said"), [(["threshold", "held_out", "test"], "chosen on held-out frames"), (["threshold"], "that of the release whose weights")]
)
def test_the_card_says_where_the_threshold_comes_from(finished, tmp_path, kept, said):
    results = json.loads((finished / detector_release.RESULTS_FILE).read_bytes())
    (finished / detector_release.RESULTS_FILE).write_text(json.dumps({name: results[name] for name in kept}))
    detector_release.export_detector(finished, "face", "1", tmp_path / "release")
    assert f"0.55, {said}" in (tmp_path / "release" / "CARD.md").read_text()


def test_two_exports_of_a_run_are_the_same_bytes(finished, tmp_path):
    for name in ("one", "other"):
        detector_release.export_detector(finished, "face", "1", tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


@pytest.mark.parametrize(("name", "version"), [("f" * 65, "1"), ("face", "1" * 65)])
def test_a_name_that_a_manifest_cannot_hold_is_one_line(finished, tmp_path, name, version):
    with pytest.raises(Rejected, match="at most 64"):
        detector_release.export_detector(finished, name, version, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_a_model_that_is_too_large_is_not_released(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(detector_release, "MAX_BYTES", 1000)
    with pytest.raises(Rejected) as caught:
        detector_release.export_detector(finished, "face", "1", tmp_path / "release")
    assert caught.value.reason is Reason.TOO_LARGE
    assert not (tmp_path / "release" / MANIFEST_FILE).exists()


def test_a_classifier_given_as_a_detector_is_refused(classifier_release, tmp_path):
    with pytest.raises(Rejected) as caught:
        evaluate_release(classifier_release, tmp_path)
    assert caught.value.reason is Reason.WRONG_KIND


def test_the_shipped_detector_finds_the_faces_of_real_frames(data):
    folder = Path(__file__).parents[2] / "edge_agent" / "models" / "detector"
    manifest = Manifest.parse((folder / MANIFEST_FILE).read_bytes())
    findings = find(yunet_format(folder / MODEL_FILE), read_frames(data / "frames")[:60], NATIVE)
    faces = findings.counted(24)
    assert (findings.found_M[faces] >= manifest.threshold).mean() > 0.85
