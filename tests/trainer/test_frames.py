"""Annotated frames: faces, regions to ignore, and what is refused."""

import json

import numpy as np
import pytest
from empty_frames import write_frames

from protocol.errors import Reason, Rejected
from trainer import crops
from trainer.detector_data import Teacher
from trainer.detector_eval import find, yunet_format
from trainer.detector_net import SIZES, DetectorNet, export
from trainer.detector_place import shrink_first
from trainer.frames import AnnotatedFrame, read_frames, scaled

ONE_BOX = (
    '{"images": [{"id": 1, "file_name": "x.jpg"}], "categories": [{"id": 1, "name": "with_mask"}],'
    ' "annotations": [{"image_id": 1, "category_id": 1, "bbox": %s}]}'
)


@pytest.mark.parametrize(
    "annotations",
    [
        None,
        "{",
        '{"images": []}',
        '{"images": [], "categories": [], "annotations": []}',
        '{"images": [{"id": 1, "file_name": "x.jpg"}], "categories": [], "annotations": []}',
        *(ONE_BOX % box for box in ("[4, 4, 0, 5]", "[4, 4, -4, 5]", "[4, 4, NaN, 5]", "[4, 4, 5]", '"wide"')),
    ],
)
def test_a_folder_that_is_not_coco_is_refused(tmp_path, annotations):
    if annotations is not None:
        (tmp_path / "annotations.json").write_text(annotations)
    with pytest.raises(Rejected) as caught:
        read_frames(tmp_path)
    assert caught.value.reason is Reason.BAD_INPUT
    assert "\n" not in str(caught.value)


def test_a_very_thin_picture_can_be_looked_at(tmp_path):
    """Smaller it would have a side of no pixel."""
    image = np.full((1, 20_000, 3), 90, np.uint8)
    model = tmp_path / "model.onnx"
    model.write_bytes(export(DetectorNet(SIZES["small"])))
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    assert min(scaled(image, 0.01).shape[:2]) == 1
    assert len(find(yunet_format(model), [AnnotatedFrame("a.jpg", image, boxes, ("with_mask",))], 320).found_M) == 1
    assert Teacher(model).label(image, (320,)).shape[1] == 15
    assert isinstance(crops.yunet(model)(image), list)
    shrunk, _ = shrink_first(image, np.eye(2, 3) * 0.01)
    assert shrunk.shape == (1, 200, 3)


@pytest.mark.parametrize(("scale", "sides"), [(0.5, (24, 32)), (1.3, (62, 83)), (0.03, (1, 2))])
def test_a_picture_that_is_scaled_has_its_sides_rounded(scale, sides):
    assert scaled(np.zeros((48, 64, 3), np.uint8), scale).shape == (*sides, 3)


@pytest.mark.parametrize("is_crowd", [0, 1])
@pytest.mark.parametrize(
    "box",
    [
        "[10, 10, 5, 5, 20, 20, 4, 4]",
        "[]",
        "[10, 10]",
        "null",
        "{}",
        '["1", "2", "3", "4"]',
        "[[1, 2, 3, 4]]",
        "[1, 2, 3, 1e39]",
        f"[1, 2, 3, 1{'0' * 400}]",
        "[1, 2, 3, 1e-60]",
        "[1, -Infinity, 3, 4]",
    ],
)
def test_what_is_no_box_is_refused_by_the_name_of_its_annotation(tmp_path, box, is_crowd):
    """Two numbers each of two annotations would make one box of both, eight of one annotation two."""
    write_frames(tmp_path / "frames", ("a.jpg",))
    path = tmp_path / "frames" / "annotations.json"
    coco = json.loads(path.read_bytes())
    mark = f', {{"id": 17, "image_id": 0, "category_id": 1, "iscrowd": {is_crowd}, "bbox": {box}}}'
    path.write_text(json.dumps({**coco, "annotations": "MARKS"}).replace('"MARKS"', f"[{json.dumps(coco['annotations'][0])}{mark * 2}]"))
    with pytest.raises(Rejected, match=r"frames/annotations\.json: .*annotation 17: a box that is not four numbers with an area") as caught:
        read_frames(tmp_path / "frames")
    assert "\n" not in str(caught.value)


def test_crowds_and_unnoted_faces_are_to_be_ignored_and_are_no_faces(tmp_path):
    frames = tmp_path / "frames"
    write_frames(frames, ("a.jpg", "b.jpg"))
    path = frames / "annotations.json"
    coco = json.loads(path.read_bytes())
    numbers = [picture["id"] for picture in coco["images"]]
    category = coco["categories"][0]["id"]
    coco["annotations"] = [
        {"image_id": numbers[0], "category_id": category, "bbox": [1, 2, 30, 40], "iscrowd": 0},
        {"image_id": numbers[0], "category_id": category, "bbox": [5, 6, 90, 20], "iscrowd": 1},
    ]
    path.write_text(json.dumps(coco))
    (tmp_path / "unnoted.json").write_text('{"a.jpg": [[50, 2, 30, 40]], "of another folder.jpg": [[1, 1, 1, 1]]}')
    for unnoted, ignored in ((None, [[5, 6, 90, 20]]), (tmp_path / "unnoted.json", [[5, 6, 90, 20], [50, 2, 30, 40]])):
        first, second = read_frames(frames, unnoted)
        assert (first.boxes_M4.tolist(), len(first.labels)) == ([[1, 2, 30, 40]], 1)
        assert first.ignored_K4.tolist() == ignored
        assert second.ignored_K4.shape == second.boxes_M4.shape == (0, 4)


@pytest.mark.parametrize("unnoted", [None, "{", "[]", '{"a.jpg": [[1, 2, 3]]}', '{"a.jpg": [["x", 1, 1, 1]]}', '{"a.jpg": 7}'])
def test_unnoted_faces_that_are_no_boxes_are_refused(tmp_path, unnoted):
    write_frames(tmp_path / "frames", ("a.jpg",))
    path = tmp_path / "unnoted.json"
    if unnoted is not None:
        path.write_text(unnoted)
    with pytest.raises(Rejected, match=r"unnoted\.json: no JSON object of lists of boxes"):
        read_frames(tmp_path / "frames", path)
