"""Detectors in YuNet's format: what comes out is what OpenCV's own reader of the format makes of the same network."""

import cv2
import numpy as np
import pytest
from rig import ROOT

from edge_agent.demo_scene import DemoScene
from edge_agent.runtime import OpenCvNetwork, Session
from edge_agent.scene import Box, Face, Frame
from edge_agent.yunet import Canvas, YuNetDetector, with_near

MODEL = (ROOT / "edge_agent" / "models" / "detector" / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    """The demo's face four times, in sizes that all three grids see; neither side is a multiple of a stride."""
    face = DemoScene().at(3.0)
    picture = np.full((700, 1238, 3), 90, np.uint8)
    for (x, y), width in {(0, 0): 620, (640, 20): 400, (100, 400): 300, (700, 400): 500}.items():
        small = cv2.resize(face, (width, width * 9 // 16), interpolation=cv2.INTER_AREA)
        picture[y : y + small.shape[0], x : x + width] = small
    return picture


@pytest.mark.parametrize("network", [Session, OpenCvNetwork])
@pytest.mark.parametrize("smallest_face_px", [24, 48])
def test_faces_are_those_of_opencv(network, smallest_face_px: int, crowd: np.ndarray) -> None:
    found = YuNetDetector(network(MODEL), smallest_face_px, 0.5)(Frame(crowd, 0.0, 0.0))
    canvas = Canvas(*crowd.shape[:2], round(crowd.shape[1] * min(1, 24 / smallest_face_px)))
    blob_HWC = canvas.draw(crowd)[0].transpose(1, 2, 0).astype(np.uint8)
    opencv = cv2.FaceDetectorYN.create("onnx", np.frombuffer(MODEL, np.uint8), np.empty(0, np.uint8), blob_HWC.shape[1::-1], 0.5, 0.3)
    rows = opencv.detect(np.ascontiguousarray(blob_HWC))[1]
    assert len(found) == len(rows) >= 4
    for face, row in zip(found, rows, strict=True):
        box = np.array([face.box.x, face.box.y, face.box.w, face.box.h]) * canvas.scale
        assert box == pytest.approx(row[:4], abs=0.01)
        assert face.score == pytest.approx(row[14], abs=1e-4)


def test_a_camera_that_changes_its_size_is_followed(crowd: np.ndarray) -> None:
    detect = YuNetDetector(Session(MODEL), 48, 0.5)
    large = detect(Frame(crowd, 0.0, 0.0))
    small = detect(Frame(cv2.resize(crowd, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 0.0, 0.0))
    assert detect(Frame(crowd, 0.0, 0.0)) == large
    assert len(small) == len(large)
    for one, other in zip(sorted(small, key=lambda f: f.box.x), sorted(large, key=lambda f: f.box.x), strict=True):
        assert one.box.x * 2 == pytest.approx(other.box.x, abs=0.15 * other.box.size), "a face of 23 px is framed to a few"


def test_nothing_of_the_last_picture_is_left_in_the_next(crowd: np.ndarray) -> None:
    detect = YuNetDetector(Session(MODEL), 48, 0.5)
    assert detect(Frame(crowd, 0.0, 0.0))
    assert detect(Frame(np.full_like(crowd, 90), 0.0, 0.0)) == ()


@pytest.mark.parametrize("time_s", [3.0, 12.0], ids=["bare", "masked"])
@pytest.mark.parametrize("size_px", [100, 200, 300, 400, 500, 700, 1200])
def test_a_face_is_one_face_and_framed_alike_however_near_it_is(time_s: float, size_px: int) -> None:
    detect = YuNetDetector(Session(MODEL), 24, 0.5)
    film = DemoScene().at(time_s)
    [face] = detect(Frame(film, 0.0, 0.0))
    scale = size_px / face.box.size
    left, top = (max(0, round(middle - 0.9 * face.box.size)) for middle in face.box.centre)
    side = round(1.8 * face.box.size)
    part = cv2.resize(film[top : top + side, left : left + side], None, fx=scale, fy=scale)
    [near] = detect(Frame(part.astype(np.uint8, copy=False), 0.0, 0.0))
    expected = [(face.box.x - left) * scale, (face.box.y - top) * scale, face.box.w * scale, face.box.h * scale]
    assert [near.box.x, near.box.y, near.box.w, near.box.h] == pytest.approx(expected, abs=0.2 * size_px)


def test_near_faces_are_the_overviews_with_all_that_lies_in_them() -> None:
    def face(x: float, y: float, side: float, score: float) -> Face:
        return Face(Box(x, y, side, side), score)

    near, far_there = face(300, 100, 400, 0.9), face(900, 100, 90, 0.95)
    piece, beside, far = face(350, 150, 150, 0.99), face(620, 100, 200, 0.6), face(900, 100, 80, 0.8)
    assert with_near((piece, far, beside), (far_there, near), 192) == (near, far, beside)
    assert with_near((piece, far), (), 192) == (piece, far)
    assert with_near((), (near,), 192) == (near,)
    child, child_there = face(340, 300, 120, 0.7), face(345, 310, 130, 0.5)
    assert with_near((piece, child), (near, child_there), 192) == (near, child), "somebody stands before it"
