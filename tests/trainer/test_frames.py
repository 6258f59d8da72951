"""Annotated frames: faces, regions to ignore, and what is refused."""

import json

import pytest
from empty_frames import write_frames

from protocol.errors import Reason, Rejected
from trainer.frames import read_frames

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
