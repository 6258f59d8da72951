"""Faces cut out of frames by a detector, and cut exactly as the camera cuts them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import DATA, missing

from edge_agent import classify
from edge_agent.scene import Box
from protocol.errors import DeviceError, Rejected
from trainer import crops, detector_eval
from trainer.data import NO_FACE, read_no_faces
from trainer.frames import ANNOTATIONS_FILE


def write_frame(folder: Path, boxes: list[tuple[list[float], int]]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "a.png"), image)
    categories = [{"id": 1, "name": "with_mask"}, {"id": 2, "name": "without_mask"}, {"id": 3, "name": "mask_weared_incorrect"}]
    annotations = [{"id": n, "image_id": 7, "category_id": c, "bbox": box} for n, (box, c) in enumerate(boxes)]
    document = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": annotations, "categories": categories}
    (folder / ANNOTATIONS_FILE).write_text(json.dumps(document))


@pytest.mark.parametrize("box", [(20.0, 30.0, 50.0, 60.0), (-10.0, -5.0, 80.4, 60.0), (250.0, 150.0, 90.0, 90.0), (100.0, 20.0, 180.0, 170.5)])
def test_it_cuts_as_the_camera_does(box: tuple[float, float, float, float]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    theirs = np.empty((128, 128, 3), np.uint8)
    classify.crop(image, Box(*box), 1.2, out=theirs)
    assert np.array_equal(crops.crop(image, box, 1.2, 128), theirs)


def test_only_annotated_faces_that_are_found_count(tmp_path: Path) -> None:
    write_frame(tmp_path, [([10, 10, 60, 60], 1), ([100, 10, 60, 60], 2), ([200, 10, 60, 60], 2), ([10, 100, 60, 60], 3), ([100, 100, 10, 60], 1)])
    cut = crops.cut(tmp_path, lambda _: [(14.0, 12.0, 60.0, 60.0), (104.0, 10.0, 56.0, 60.0), (10.0, 100.0, 60.0, 60.0), (250.0, 150.0, 20.0, 20.0)])
    assert cut.annotated == {"with_mask": 1, "without_mask": 2}
    assert cut.pictures.classes_N.tolist() == [0, 1]
    assert cut.pictures.images_NHWC.shape == (2, 128, 128, 3)


def test_nothing_found_is_an_empty_set(tmp_path: Path) -> None:
    write_frame(tmp_path, [([10, 10, 60, 60], 1)])
    assert len(crops.cut(tmp_path, lambda _: []).pictures) == 0


def test_what_is_no_annotation_or_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no readable COCO annotations"):
        crops.cut(tmp_path, lambda _: [])
    (tmp_path / "detector.onnx").write_bytes(b"no network")
    with pytest.raises(Rejected, match="YuNet"):
        crops.yunet(tmp_path / "detector.onnx")


def test_a_network_that_is_no_detector_is_refused_before_any_frame_is_read(classifier_release: Path, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="YuNet"):
        crops.yunet(classifier_release / "model.onnx")
    with pytest.raises(DeviceError, match="no such file"):
        crops.yunet(tmp_path / "none.onnx")


@pytest.mark.parametrize("haar", [crops.haar, detector_eval.haar])
def test_without_its_cascade_file_opencv_is_refused(monkeypatch: pytest.MonkeyPatch, haar: Callable[[], object]) -> None:
    monkeypatch.setattr(cv2, "__file__", "/nowhere/cv2/__init__.py")
    with pytest.raises(DeviceError, match="cascade"):
        haar()


def test_a_mistake_is_what_is_found_where_no_face_is_noted(tmp_path: Path) -> None:
    write_frame(tmp_path, [([10, 10, 60, 60], 1), ([200, 10, 60, 60], 3)])
    found = [(12.0, 12.0, 60.0, 60.0), (30.0, 30.0, 20.0, 20.0), (0.0, 0.0, 150.0, 150.0), (205.0, 10.0, 60.0, 60.0), (100.0, 130.0, 40.0, 40.0)]
    made = crops.mistakes(tmp_path, lambda _: found, most=9, seed=0)
    image = cv2.imread(str(tmp_path / "a.png"))
    assert len(made) == 1, "neither the faces, nor a part of one, nor what holds one"
    assert np.array_equal(made[0], crops.crop(image, found[-1], crops.MARGIN, 128))
    crops.write_pictures(made, "web", tmp_path / "out")
    read = read_no_faces(tmp_path / "out")
    assert (read.sources, read.classes_N.tolist()) == (("web",), [NO_FACE])
    assert np.array_equal(read.images_NHWC[0], made[0])
    with pytest.raises(Rejected, match="holds files already"):
        crops.write_pictures(made, "web", tmp_path / "out")


def test_what_is_found_in_a_crowd_is_no_mistake(tmp_path: Path) -> None:
    write_frame(tmp_path, [([10, 10, 60, 60], 1), ([100, 50, 150, 100], 1)])
    coco = json.loads((tmp_path / ANNOTATIONS_FILE).read_text())
    coco["annotations"][1]["iscrowd"] = 1
    (tmp_path / ANNOTATIONS_FILE).write_text(json.dumps(coco))
    inside, mostly, outside = (120.0, 60.0, 40.0, 40.0), (85.0, 60.0, 40.0, 40.0), (75.0, 60.0, 40.0, 40.0)
    made = crops.mistakes(tmp_path, lambda _: [inside, mostly, outside], most=9, seed=0)
    assert len(made) == 1, "neither what lies in the crowd, nor what mostly does"
    assert np.array_equal(made[0], crops.crop(cv2.imread(str(tmp_path / "a.png")), outside, crops.MARGIN, 128))


def test_of_many_mistakes_some_are_drawn_and_none_are_refused(tmp_path: Path) -> None:
    write_frame(tmp_path, [([10, 10, 60, 60], 1)])
    found = [(100.0 + n, 100.0, 40.0, 40.0) for n in range(20)]
    one, again, other = (crops.mistakes(tmp_path, lambda _: found, most=5, seed=seed) for seed in (0, 0, 1))
    assert len(one) == 5
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    with pytest.raises(Rejected, match="no mistake"):
        crops.mistakes(tmp_path, lambda _: [(12.0, 12.0, 60.0, 60.0)], most=5, seed=0)


def test_the_command_writes_a_folder_of_them(tmp_path: Path) -> None:
    if not DATA.is_dir():
        missing("the face-mask data pack (MASKFLEET_DATA, or shared/data beside the repository)")
    detector = Path(__file__).parents[2] / "edge_agent" / "models" / "detector" / "model.onnx"
    command = [sys.executable, "-m", "trainer", "mistakes", str(DATA / "frames_train"), str(detector), "--out", str(tmp_path), "--most", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "7 pictures without a face" in done.stdout
    assert len(read_no_faces(tmp_path)) == 7


def test_both_detectors_find_faces() -> None:
    if not DATA.is_dir():
        missing("the face-mask data pack (MASKFLEET_DATA, or shared/data beside the repository)")
    coco = json.loads((DATA / "frames_train" / ANNOTATIONS_FILE).read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    big = max(coco["annotations"], key=lambda a: a["bbox"][2] if a["category_id"] == 2 else 0)
    image = cv2.imread(str(DATA / "frames_train" / names[big["image_id"]]))
    yunet = crops.yunet(DATA / "models" / "face_detection_yunet_2023mar.onnx")(image)
    assert max(crops.iou(tuple(big["bbox"]), box) for box in yunet) > 0.5
    assert isinstance(crops.haar()(image), list)


def test_a_release_is_scored_on_them(classifier_release: Path, tmp_path: Path) -> None:
    write_frame(tmp_path, [([10, 10, 60, 60], 1)])
    command = [sys.executable, "-m", "trainer", "crops", str(classifier_release), "--frames", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "haar finds none of the annotated faces" in done.stderr
