import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_faces import drawn_library
from rich.console import Console
from safetensors.torch import load_file

from protocol.errors import DeviceError, Reason, Rejected
from protocol.release import MANIFEST_FILE, MODEL_FILE, Manifest
from trainer import detector_data, detector_release
from trainer.detector import CONFIG_FILE, WEIGHTS_FILE, fit_detector, load_run
from trainer.detector_commands import is_detector_run
from trainer.detector_data import Teacher, build_library, held_out, is_held_out
from trainer.detector_eval import NATIVE, evaluate_release, find, yunet_format
from trainer.detector_net import OUTPUTS
from trainer.detector_recipe import DetectorRecipe
from trainer.detector_run import run_detector, score_detector
from trainer.frames import read_frames

TINY = DetectorRecipe(size="small", steps=4, batch=2)


def train(run, recipe=TINY, **settings):
    return list(fit_detector(drawn_library(), recipe, run, **settings))


def test_a_few_steps_lower_the_loss(tmp_path):
    recipe = DetectorRecipe(size="small", steps=40, batch=4, plain_share=0)
    reports = train(tmp_path, recipe, report_every=10)
    assert [report.step for report in reports] == [10, 20, 30, 40]
    assert sum(reports[-1].losses.values()) < 0.8 * sum(reports[0].losses.values())


def test_a_training_that_was_cut_off_goes_on_to_the_same_end(tmp_path):
    train(tmp_path / "whole", save_every=2)
    list(islice(fit_detector(drawn_library(), TINY, tmp_path / "cut", report_every=1, save_every=2), 3))  # leaves the checkpoint of step 2
    assert [report.step for report in train(tmp_path / "cut", report_every=1)] == [3, 4]
    whole, cut = (load_file(tmp_path / run / WEIGHTS_FILE) for run in ("whole", "cut"))
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path):
    train(tmp_path)
    with pytest.raises(Rejected, match="other settings"):
        train(tmp_path, DetectorRecipe(size="small", steps=5, batch=2))


def test_an_empty_folder_is_no_run(tmp_path):
    with pytest.raises(Rejected, match="holds no trained detector"):
        load_run(tmp_path)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_file_that_is_cut_short_is_no_run(tmp_path, file):
    train(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:40])
    with pytest.raises(Rejected, match="holds no trained detector"):
        load_run(tmp_path)


@pytest.mark.parametrize("damaged", [b"", b'{"kind": "det', b"[1]", b"\xff"])
def test_a_run_whose_configuration_is_damaged_is_refused_in_one_line(tmp_path, damaged):
    (tmp_path / CONFIG_FILE).write_bytes(damaged)
    assert not is_detector_run(tmp_path)
    with pytest.raises(Rejected, match="damaged") as caught:
        train(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_file_of_a_run_is_ever_half_written(tmp_path, monkeypatch):
    """What is at work when the power fails has another name than what is read later."""
    written = []
    monkeypatch.setattr(Path, "write_bytes", lambda path, data, real=Path.write_bytes: written.append(path.name) or real(path, data))
    train(tmp_path)
    assert written == [f"{CONFIG_FILE}.part", f"{WEIGHTS_FILE}.part"]


class Says:
    """A teacher that sees one face in every picture, and counts how many it was shown."""

    digest = "one"

    def __init__(self):
        self.shown = 0

    def label(self, image_HWC, sides_px):
        self.shown += 1
        return np.full((1, 15), 0.9, np.float32)


def label_one(cache):
    """How many pictures the teacher was shown for the labels of one."""
    teacher = Says()
    labels = detector_data._Labels(teacher, cache)
    assert labels.of("a", np.zeros((8, 8, 3), np.uint8), (8,)).shape == (1, 15)
    labels.save()
    return teacher.shown


def test_labels_are_written_when_there_is_a_new_one_and_only_then(tmp_path):
    cache = tmp_path / "run" / "labels.npz"
    assert label_one(cache) == 1
    first = cache.stat().st_mtime_ns
    assert label_one(cache) == 0
    assert cache.stat().st_mtime_ns == first
    assert [path.name for path in cache.parent.iterdir()] == ["labels.npz"]


@pytest.mark.parametrize("left", [0, 3, 200, -30])
def test_labels_in_a_damaged_file_are_made_again(tmp_path, left):
    cache = tmp_path / "labels.npz"
    label_one(cache)
    cache.write_bytes(cache.read_bytes()[:left])
    assert label_one(cache) == 1
    assert label_one(cache) == 0


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(Rejected) as caught:
        run_detector(tmp_path, tmp_path / "teacher.onnx", tmp_path / "run", DetectorRecipe(size="vast"), Console())
    assert caught.value.reason is Reason.BAD_SETTING


def test_a_training_that_holds_nothing_out_needs_a_release_whose_threshold_to_keep(tmp_path):
    with pytest.raises(Rejected, match="threshold") as caught:
        run_detector(tmp_path, tmp_path / "teacher.onnx", tmp_path / "run", replace(TINY, holds_out=False), Console())
    assert caught.value.reason is Reason.BAD_SETTING


def test_a_teacher_that_cannot_be_loaded_is_one_line(tmp_path):
    (tmp_path / "teacher.onnx").write_bytes(b"no network")
    for path in (tmp_path / "teacher.onnx", tmp_path / "none.onnx"):
        with pytest.raises(DeviceError) as caught:
            Teacher(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "annotations",
    [
        None,
        "{",
        '{"images": []}',
        '{"images": [], "categories": [], "annotations": []}',
        '{"images": [{"id": 1, "file_name": "x.jpg"}], "categories": [], "annotations": []}',
    ],
)
def test_a_folder_that_is_not_coco_is_refused(tmp_path, annotations):
    if annotations is not None:
        (tmp_path / "annotations.json").write_text(annotations)
    with pytest.raises(Rejected) as caught:
        read_frames(tmp_path)
    assert caught.value.reason is Reason.BAD_INPUT
    assert "\n" not in str(caught.value)


def write_frames(folder, files, category="with_mask"):
    """COCO-style frames with one face each."""
    folder.mkdir(parents=True)
    for file in files:
        cv2.imwrite(str(folder / file), np.zeros((32, 32, 3), np.uint8))
    coco = {
        "categories": [{"id": 1, "name": category}],
        "images": [{"id": number, "file_name": file} for number, file in enumerate(files)],
        "annotations": [{"image_id": number, "category_id": 1, "bbox": [4, 4, 20, 20]} for number in range(len(files))],
    }
    (folder / "annotations.json").write_text(json.dumps(coco))


TO_TRAIN_ON, TO_VALIDATE = (next(f"{n}.png" for n in range(99) if is_held_out(f"{n}.png") is held) for held in (False, True))


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


@pytest.mark.parametrize("category", ["hat", "no face", ""])
def test_a_category_that_is_not_known_is_refused_before_anything_is_labelled(tmp_path, category):
    write_frames(tmp_path / "frames_train", [TO_TRAIN_ON], category)
    teacher = Says()
    with pytest.raises(Rejected, match="category"):
        build_library(tmp_path, teacher, tmp_path / "labels.npz")
    assert teacher.shown == 0


@pytest.mark.parametrize("index", [b"file,split,source\na.png,train,Z\xfcrich\n", b"split,source\ntrain,here\n"])
def test_an_index_of_crops_that_cannot_be_read_is_one_line(tmp_path, index):
    write_frames(tmp_path / "frames_train", [TO_TRAIN_ON])
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "index.csv").write_bytes(index)
    with pytest.raises(Rejected, match=r"index\.csv") as caught:
        build_library(tmp_path, Says(), tmp_path / "labels.npz")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_crop_to_train_on_is_one_line(tmp_path):
    write_frames(tmp_path / "frames_train", [TO_TRAIN_ON])
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "index.csv").write_text("file,split,source\ntest/a.png,test,here\n")
    with pytest.raises(Rejected, match="no crop") as caught:
        build_library(tmp_path, Says(), tmp_path / "labels.npz")
    assert "\n" not in str(caught.value)


# --- release


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


# --- real data


@pytest.fixture
def sample(data, tmp_path):
    """The data pack in small: ten annotated frames, eight crops."""
    folder = tmp_path / "data"
    (folder / "frames_train").mkdir(parents=True)
    coco = json.loads((data / "frames_train" / "annotations.json").read_text())
    coco["images"] = coco["images"][:10]
    numbers = {image["id"] for image in coco["images"]}
    coco["annotations"] = [mark for mark in coco["annotations"] if mark["image_id"] in numbers]
    (folder / "frames_train" / "annotations.json").write_text(json.dumps(coco))
    for image in coco["images"]:
        shutil.copy(data / "frames_train" / image["file_name"], folder / "frames_train")
    header, *rows = (data / "faces" / "index.csv").read_text().splitlines()
    rows = [row for row in rows if row.startswith("train/") and "chandrikadeb7" in row][:8]
    for row in rows:
        path = folder / "faces" / row.split(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "faces" / row.split(",")[0], path)
    (folder / "faces" / "index.csv").write_text("\n".join([header, *rows]))
    return folder


def test_a_library_holds_no_frame_of_the_validation_and_is_labelled_once(sample, data, tmp_path, monkeypatch):
    teacher = Teacher(data / "models" / "face_detection_yunet_2023mar.onnx")
    library = build_library(sample, teacher, tmp_path / "labels.npz")
    frames = read_frames(sample / "frames_train")
    assert len(library.frames) == sum(not is_held_out(frame.file) for frame in frames) == 10 - len(held_out(sample))
    assert library.pictures["chandrikadeb7"] == len(library.crops) > 4
    assert sum(scene.is_face_M.sum() for scene in library.frames) >= sum(len(f.boxes_M4) for f in frames if not is_held_out(f.file))
    assert any(not np.isnan(scene.landmarks_M10).any() for scene in library.crops)
    monkeypatch.setattr(detector_data.Teacher, "label", None)  # what is stored is not asked for again
    again = build_library(sample, teacher, tmp_path / "labels.npz")
    assert all(np.array_equal(a.boxes_M4, b.boxes_M4) for a, b in zip(library.frames, again.frames, strict=True))


def test_a_training_that_holds_nothing_out_sees_what_was_for_validation_and_keeps_its_threshold(sample, data, tmp_path):
    yunet = data / "models" / "face_detection_yunet_2023mar.onnx"
    index = sample / "faces" / "index.csv"
    index.write_text(index.read_text().replace(",train,", ",val,", 2).replace(",train,", ",test,", 2))
    some, more = (build_library(sample, Teacher(yunet), tmp_path / "labels.npz", holds_out=holds_out) for holds_out in (True, False))
    assert len(more.frames) == 10 == len(some.frames) + len(held_out(sample))
    assert len(some.crops) < len(more.crops) <= 6
    train(tmp_path / "run")
    assert score_detector(sample, yunet, tmp_path / "run", 0.4) == {"threshold": 0.4} == json.loads((tmp_path / "run" / "detector.json").read_bytes())


def test_views_are_centred_on_what_an_earlier_detector_wrongly_finds(sample, data, tmp_path):
    teacher = Teacher(data / "models" / "face_detection_yunet_2023mar.onnx")

    class Earlier:
        """Sees something at one corner of every frame, and is all too sure of something at another."""

        def label(self, image_HWC, sides_px):
            rows = np.zeros((2, 15), np.float32)
            rows[:, :4] = [[1, 1, 20, 20], [image_HWC.shape[1] - 21, 1, 20, 20]]
            rows[:, 14] = [0.5, 0.95]
            return rows

    library = build_library(sample, teacher, tmp_path / "labels.npz", Earlier())
    plain = build_library(sample, teacher, tmp_path / "labels.npz")
    mistakes = [(number, box) for number, box in library.focus if box.tolist() == [1, 1, 20, 20]]
    assert mistakes
    assert len(library.focus) == len(plain.focus) + len(mistakes), "what it is so sure of is no mistake"
    for number, _ in mistakes:
        unsaid = library.frames[number].boxes_M4[~library.frames[number].is_face_M]
        assert [1, 1, 20, 20] not in unsaid.tolist()
    assert any(box[0] > 21 and box[1] == 1 for scene in library.frames for box in scene.boxes_M4[~scene.is_face_M].tolist()), "but to be ignored"
    assert library.focus_cumulated[-1] == pytest.approx(1)


def test_the_shipped_detector_finds_the_faces_of_real_frames(data):
    folder = Path(__file__).parents[2] / "edge_agent" / "models" / "detector"
    manifest = Manifest.parse((folder / MANIFEST_FILE).read_bytes())
    findings = find(yunet_format(folder / MODEL_FILE), read_frames(data / "frames")[:60], NATIVE)
    faces = findings.counted(24)
    assert (findings.found_M[faces] >= manifest.threshold).mean() > 0.85
