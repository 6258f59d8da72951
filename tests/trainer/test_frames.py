"""Annotated frames: what is no such folder is refused."""

import pytest

from protocol.errors import Reason, Rejected
from trainer.frames import read_frames


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
