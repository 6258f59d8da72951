"""What scenes are made of: frames and crops, labelled once, and nothing that is held out."""

import json
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
from drawn_faces import train
from empty_frames import TO_TRAIN_ON, write_frames

from protocol.errors import DeviceError, Rejected
from trainer import detector_data, detector_eval, measure
from trainer.detector_data import PORTRAIT_SHARE, Scene, Teacher, build_library, held_out, is_held_out
from trainer.detector_recipe import TIMES_FALSE
from trainer.detector_run import score_detector
from trainer.frames import AnnotatedFrame, read_frames


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


def test_a_teacher_that_cannot_be_loaded_is_one_line(tmp_path):
    (tmp_path / "teacher.onnx").write_bytes(b"no network")
    for path in (tmp_path / "teacher.onnx", tmp_path / "none.onnx"):
        with pytest.raises(DeviceError) as caught:
            Teacher(path)
        assert "\n" not in str(caught.value)


def test_a_teacher_of_another_kind_is_one_line(classifier_release):
    with pytest.raises(DeviceError, match="not a face detector") as caught:
        Teacher(classifier_release / "model.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("category", ["hat", "no face", ""])
def test_a_category_that_is_not_known_is_refused_before_anything_is_labelled(tmp_path, category):
    write_frames(tmp_path / "frames_train", [TO_TRAIN_ON], category)
    teacher = Says()
    with pytest.raises(Rejected, match="category"):
        build_library(tmp_path, teacher, tmp_path / "labels.npz")
    assert teacher.shown == 0


@pytest.mark.parametrize("index", [b"file,split,source\na.png,train,Z\xfcrich\n", b"split,source\ntrain,here\n", b"file,source\na.png,here\n", b""])
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


def test_a_crowd_is_no_background_and_no_face(sample, data, tmp_path):
    teacher = Teacher(data / "models" / "face_detection_yunet_2023mar.onnx")
    before = build_library(sample, teacher, tmp_path / "labels.npz").frames
    path = sample / "frames_train" / "annotations.json"
    coco = json.loads(path.read_bytes())
    seen = next(picture for picture in coco["images"] if not is_held_out(picture["file_name"]))
    coco["annotations"].append({"image_id": seen["id"], "category_id": coco["categories"][0]["id"], "bbox": [0, 0, 9, 9], "iscrowd": 1})
    path.write_text(json.dumps(coco))
    (changed,) = [
        now
        for old, now in zip(before, build_library(sample, teacher, tmp_path / "labels.npz").frames, strict=True)
        if len(now.boxes_M4) > len(old.boxes_M4)
    ]
    assert changed.boxes_M4[-1].tolist() == [0, 0, 9, 9]
    assert not changed.is_face_M[-1]


def test_crops_for_validation_are_trained_on_and_those_of_the_test_are_not(sample, data, tmp_path):
    teacher = Teacher(data / "models" / "face_detection_yunet_2023mar.onnx")
    all_crops = len(build_library(sample, teacher, tmp_path / "labels.npz").crops)
    index = sample / "faces" / "index.csv"
    index.write_text(index.read_text().replace(",train,", ",val,", 2))
    assert len(build_library(sample, teacher, tmp_path / "labels.npz").crops) == all_crops
    index.write_text(index.read_text().replace(",train,", ",test,", 2))
    assert all_crops - 2 <= len(build_library(sample, teacher, tmp_path / "labels.npz").crops) < all_crops


def test_a_training_that_holds_nothing_out_sees_all_frames_and_keeps_its_threshold(sample, data, tmp_path):
    yunet = data / "models" / "face_detection_yunet_2023mar.onnx"
    some, more = (build_library(sample, Teacher(yunet), tmp_path / "labels.npz", holds_out=holds_out) for holds_out in (True, False))
    assert len(more.frames) == 10 == len(some.frames) + len(held_out(sample))
    train(tmp_path / "run")
    assert score_detector(sample, yunet, tmp_path / "run", 0.4) == {"threshold": 0.4} == json.loads((tmp_path / "run" / "detector.json").read_bytes())


def test_a_threshold_in_hundredths_lets_no_more_through_than_it_may(sample, data, tmp_path, monkeypatch):
    monkeypatch.setattr(detector_eval, "latencies", partial(measure.latencies, repeats=2))
    yunet = data / "models" / "face_detection_yunet_2023mar.onnx"
    annotations = sample / "frames_train" / "annotations.json"
    first = json.loads(annotations.read_text())["images"][0]["file_name"]
    name = next(name for number in range(100) if is_held_out(name := f"{number}-{first}"))
    (sample / "frames_train" / first).rename(sample / "frames_train" / name)
    annotations.write_text(annotations.read_text().replace(f'"{first}"', f'"{name}"'))
    train(tmp_path / "run")
    threads = cv2.getNumThreads()
    try:
        chosen = score_detector(sample, yunet, tmp_path / "run")["threshold"]
    finally:
        cv2.setNumThreads(threads)
    exact = detector_eval.threshold_like(tmp_path / "run" / "model.onnx", yunet, held_out(sample), TIMES_FALSE)
    assert exact <= chosen < exact + 0.01
    assert chosen == round(chosen, 2)


def frame_of(faces, regions=0):
    """A frame of some faces and some regions to ignore."""
    marks = faces + regions
    boxes = np.float32([[30 * number, 10, 20, 20] for number in range(marks)])
    return Scene(np.zeros((64, 256, 3), np.uint8), boxes, np.full((marks, 10), np.nan, np.float32), np.arange(marks) < faces)


@pytest.mark.parametrize("regions", [0, 2])
def test_portraits_are_drawn_seldom(regions):
    """Also where the teacher is in doubt about something beside the face: two people's pictures of themselves would be much of what is seen."""
    frames = [frame_of(1, regions), frame_of(2), frame_of(1, regions)]
    annotated = [
        AnnotatedFrame(f"{number}.jpg", f.image_HWC, f.boxes_M4, ("without_mask",) * int(f.is_face_M.sum())) for number, f in enumerate(frames)
    ]
    focus, cumulated = detector_data._focus(frames, annotated, [np.zeros((0, 4), np.float32)] * 3)
    chances = dict.fromkeys(range(3), 0.0)
    for (number, _), chance in zip(focus, np.diff(cumulated, prepend=0), strict=True):
        chances[number] += float(chance)
    assert chances[0] == pytest.approx(chances[2])
    assert chances[0] / chances[1] == pytest.approx(PORTRAIT_SHARE)
    assert sum(chances.values()) == pytest.approx(1)


def test_mistakes_in_a_region_to_ignore_are_looked_at_too_and_faces_are_none():
    class Earlier:
        """Finds the face, and something in each of the two regions, of one of which it is sure."""

        def label(self, image_HWC, sides_px):
            rows = np.zeros((3, 15), np.float32)
            rows[:, :4] = frame_of(1, 2).boxes_M4
            rows[:, 14] = [0.95, 0.6, 0.95]
            return rows

    scene = frame_of(1, 2)
    doubted, wrong = detector_data._doubt(scene, Earlier())
    assert wrong.tolist() == scene.boxes_M4[1:].tolist()
    assert doubted.boxes_M4.tolist() == scene.boxes_M4.tolist(), "both regions are to be ignored as they are"


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
