import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from protocol.errors import Rejected
from trainer import detector_eval, measure
from trainer.detector_card import table
from trainer.detector_commands import show_detector
from trainer.detector_eval import NATIVE, Findings, average_precision, by_shown_size, compare, find, match, summary
from trainer.detector_net import SIZES, DetectorNet, export
from trainer.frames import AnnotatedFrame


def rows(*values):
    return np.array(values, np.float32).reshape(-1, 5)


def frame(*boxes, labels=None, name="a.jpg"):
    image = np.random.default_rng(0).integers(0, 256, (192, 320, 3), np.uint8)
    return AnnotatedFrame(name, image, np.array(boxes, np.float32).reshape(-1, 4), labels or ("with_mask",) * len(boxes))


def test_the_best_detection_takes_the_face_and_the_second_is_false():
    boxes = np.array([[10, 10, 40, 40]], np.float32)
    scores, is_false = match(rows([12, 12, 40, 40, 0.9], [10, 10, 40, 40, 0.8]), boxes)
    assert scores.tolist() == pytest.approx([0.9])
    assert is_false.tolist() == [False, True]


def test_no_detection_and_no_face_are_no_trouble():
    scores, is_false = match(rows(), np.zeros((0, 4), np.float32))
    assert len(scores) == len(is_false) == 0


def test_boxes_are_given_back_in_pixels_of_the_frame():
    findings = find(lambda image: rows([20, 20, 80, 80, 0.7]) if image.shape[1] == 640 else rows(), [frame((10, 10, 40, 40))], 640)
    assert findings.found_M.tolist() == pytest.approx([0.7])
    assert not len(findings.false_K)


def test_a_face_counts_as_large_as_it_is_in_the_picture_that_was_looked_at():
    seen = lambda image: rows([0, 0, 200, 200, 0.9]) if image.shape[1] == 640 else rows()  # noqa: E731
    found = [find(seen, [frame((0, 0, 100, 100), (200, 100, 11, 11))], width) for width in (NATIVE, 640)]
    shares = by_shown_size(found, 0.5)
    assert shares["96-192"] == {"n": 1, "found": 0, "share": 0.0}, "no interval: the same face counts once more"
    assert shares["192-288"] == {"n": 1, "found": 1, "share": 1.0}
    assert sum(share["n"] for share in shares.values()) == 2, "a face below 12 px in the frame counts at no width"


def test_small_faces_and_small_false_positives_do_not_count():
    frames = [frame((10, 10, 40, 40), (100, 100, 10, 10), (200, 100, 50, 50), labels=("with_mask", "without_mask", "mask_weared_incorrect"))]
    detect = lambda _: rows([10, 10, 40, 40, 0.9], [150, 20, 10, 10, 0.9], [60, 60, 30, 30, 0.6])  # noqa: E731
    findings = find(detect, frames, NATIVE)
    result = summary(findings, 0.5)
    assert result["recall"]["with_mask"] == {"n": 1, "found": 1, "share": 1.0, "low": pytest.approx(0.2065, abs=1e-3), "high": 1.0}
    assert result["recall"]["without_mask"]["share"] is None
    assert result["recall_all"]["n"] == 1
    assert result["false_positives"] == 1
    assert summary(findings, 0.7)["false_positives"] == 0


def test_what_lies_in_a_region_to_ignore_is_neither_right_nor_wrong():
    ignoring = replace(frame((10, 10, 40, 40)), ignored_K4=np.float32([[100, 10, 40, 40]]))
    detect = lambda _: rows([10, 10, 40, 40, 0.9], [115, 10, 40, 40, 0.8], [130, 10, 40, 40, 0.7])  # noqa: E731
    found = find(detect, [ignoring], NATIVE)
    assert found.found_M.tolist() == pytest.approx([0.9])
    assert found.false_K.tolist() == pytest.approx([0.7]), "less than half of it lies in the region"


def test_frames_on_which_nothing_counts_are_refused():
    for nothing in (frame((10, 10, 20, 40)), frame((10, 10, 40, 40), labels=("face",)), frame()):
        with pytest.raises(Rejected, match="no face of at least 24 px in 1 frames is annotated as with_mask or without_mask"):
            compare(Path("unused.onnx"), 0.5, None, [nothing])


def test_the_threshold_for_so_many_false_positives():
    findings = Findings(1, rows().ravel(), np.array([]), rows().ravel(), rows().ravel(), np.array([0.9, 0.5, 0.7], np.float32))
    for allowed in range(3):
        threshold = findings.threshold_for(allowed)
        assert (findings.false_K >= threshold).sum() == allowed
    assert findings.threshold_for(3) == 0


def findings(found, false):
    n = len(found)
    sizes = np.full(n, 30, np.float32)
    return Findings(1, np.array(found, np.float32), np.array(["with_mask"] * n), sizes, sizes, np.array(false, np.float32))


def test_average_precision_of_simple_orders():
    assert average_precision(findings([0.9, 0.8], [])) == 1
    assert average_precision(findings([0.9, 0.8], [0.1])) == 1
    assert average_precision(findings([0.9, -np.inf], [])) == 0.5
    assert average_precision(findings([0.5, 0.5], [0.9])) == pytest.approx(2 / 3)
    assert average_precision(findings([-np.inf], [0.3])) == 0


def test_the_comparison_makes_both_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(detector_eval, "latencies", partial(measure.latencies, repeats=2))
    model = tmp_path / "model.onnx"
    model.write_bytes(export(DetectorNet(SIZES["small"])))
    frames = [frame((10, 10, 40, 40)), frame((50, 50, 30, 30), labels=("without_mask",), name="b.jpg")]
    threads = cv2.getNumThreads()
    try:
        result = compare(model, 0.5, model, frames)
    finally:
        cv2.setNumThreads(threads)
    assert set(result["widths"]) == {"320", "480", "640", "native"}
    assert set(result["time_ms"]["320"]) == {"ours", "reference", "haar"}
    assert len(table(result)) == 2 + 4 * 4
    show_detector(result, as_json=False)
    first, second, third = capsys.readouterr().out.split("\n\n")
    assert len(first.splitlines()) == len(second.splitlines()) == 1 + 4 * 4
    assert "24-48 px" in second
    assert "(0/2)" in second
    assert "(0/3)" in next(line for line in third.splitlines() if "48-96 px" in line), "80 px at 640 wide, and 60, and 60 at 480"
    show_detector(result, as_json=True)
    assert json.loads(capsys.readouterr().out) == result


def test_a_detector_without_scores_has_found_what_it_found_and_no_more():
    result = summary(findings([0.9, -3.0, -np.inf], [-5.0]), None)
    assert (result["recall"]["with_mask"]["found"], result["false_positives"], result["threshold"]) == (2, 1, None)
