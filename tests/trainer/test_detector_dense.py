"""What a teacher says at every place. The teacher here is the detector that ships: it has YuNet's format."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rig import ROOT

from edge_agent.demo_scene import DemoScene
from protocol.errors import DeviceError
from trainer.detector_dense import ENLARGED_PX, DenseTeacher
from trainer.detector_loss import decode, priors

SHIPPED = ROOT / "edge_agent" / "models" / "detector" / "model.onnx"
SIZE = 320
Found = tuple[float, np.ndarray]
"""How sure the best find is, and its box."""


@pytest.fixture(scope="module")
def teacher() -> DenseTeacher:
    return DenseTeacher(SHIPPED)


def scene(share: float) -> np.ndarray:
    """The demo's scene in the middle of a picture, that much of it wide."""
    image = np.full((SIZE, SIZE, 3), 120, np.uint8)
    width = round(SIZE * share)
    drawn = cv2.resize(DemoScene().at(3.0), (width, width * 3 // 4), interpolation=cv2.INTER_AREA)
    top, left = (SIZE - len(drawn)) // 2 + 3, (SIZE - width) // 2 - 5
    image[top : top + len(drawn), left : left + width] = drawn
    return image


def found(image: np.ndarray, scale: float = 1.0) -> list[Found]:
    rows = cv2.FaceDetectorYN.create(str(SHIPPED), "", image.shape[1::-1], 0.05, 0.3).detect(image)[1]
    return [] if rows is None else [(float(row[14]), row[:4] / scale) for row in rows]


@pytest.mark.parametrize("share", [0.15, 0.2, 0.3, 0.45, 0.7, 0.95])
def test_the_best_place_says_what_is_found_best_in_the_picture_or_the_small_of_the_enlarged_one(teacher: DenseTeacher, share: float) -> None:
    image = scene(share)
    small = [(score, box) for score, box in found(cv2.resize(image, None, fx=2, fy=2), 2) if box[2:].max() < ENLARGED_PX]
    score, box = max(found(image) + small, key=lambda find: find[0])
    scores_P, bbox_P4 = teacher.look(image)
    best = scores_P.argmax()
    assert scores_P[best] == pytest.approx(score, abs=1e-4)
    x1, y1, x2, y2 = decode(torch.from_numpy(bbox_P4), priors(SIZE))[best].tolist()
    assert [x1, y1, x2 - x1, y2 - y1] == pytest.approx(box.tolist(), abs=0.05)


@pytest.mark.parametrize(("stride", "first"), [(8, 0), (16, (SIZE // 8) ** 2)])
def test_a_place_of_the_enlarged_picture_speaks_at_half_its_stride(teacher: DenseTeacher, stride: int, first: int) -> None:
    image = scene(0.7)
    network = cv2.dnn.readNetFromONNX(str(SHIPPED))
    network.setInput(cv2.dnn.blobFromImage(cv2.resize(image, None, fx=2, fy=2)))
    cls, obj, bbox = (part.reshape(-1, part.shape[-1]) for part in network.forward([f"{head}_{2 * stride}" for head in ("cls", "obj", "bbox")]))
    told_P, is_small_P = np.sqrt(cls * obj).ravel(), np.exp(bbox[:, 2:]).max(1) * stride < ENLARGED_PX
    here = slice(first, first + len(told_P))
    scores_P, bbox_P4 = (part[here] for part in teacher.look(image))
    assert (scores_P[is_small_P] >= told_P[is_small_P] - 1e-4).all()
    is_told_P = is_small_P & (scores_P == told_P) & (told_P > 0.001)
    assert is_told_P.any(), "of some places nothing else is surer"
    np.testing.assert_allclose(bbox_P4[is_told_P], bbox[is_told_P], atol=1e-3)


def test_a_picture_may_be_wider_than_high(teacher: DenseTeacher) -> None:
    image = cv2.resize(DemoScene().at(3.0), (640, 384))
    scores_P, bbox_P4 = teacher.look(image)
    assert scores_P.shape == (80 * 48 + 40 * 24 + 20 * 12,)
    assert bbox_P4.shape == (*scores_P.shape, 4)
    assert scores_P.max() == pytest.approx(max(score for score, _ in found(image)), abs=1e-4)


def test_what_is_no_detector_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(SHIPPED.read_bytes()[:5000])
    for path in (tmp_path / "cut.onnx", tmp_path / "absent.onnx", SHIPPED.parents[1] / "classifier" / "model.onnx"):
        with pytest.raises(DeviceError, match="not a face detector") as caught:
            DenseTeacher(path)
        assert "\n" not in str(caught.value)
