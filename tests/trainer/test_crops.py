"""Faces cut out of frames by a detector, and cut exactly as the camera cuts them."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import DATA, missing

from edge_agent import classify
from edge_agent.scene import Box
from protocol.errors import Rejected
from trainer import crops


def write_frame(folder: Path, boxes: list[tuple[list[float], int]]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "a.png"), image)
    categories = [{"id": 1, "name": "with_mask"}, {"id": 2, "name": "without_mask"}, {"id": 3, "name": "mask_weared_incorrect"}]
    annotations = [{"id": n, "image_id": 7, "category_id": c, "bbox": box} for n, (box, c) in enumerate(boxes)]
    document = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": annotations, "categories": categories}
    (folder / crops.ANNOTATIONS_FILE).write_text(json.dumps(document))


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


def test_both_detectors_find_faces() -> None:
    if not DATA.is_dir():
        missing("the face-mask data pack (MASKFLEET_DATA, or shared/data beside the repository)")
    coco = json.loads((DATA / "frames_train" / crops.ANNOTATIONS_FILE).read_text())
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
