import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.detect import MOST_PX, input_width
from edge_agent.load import load_classifier, load_detector, load_eyes
from edge_agent.runtime import Session
from edge_agent.scene import Frame
from edge_agent.settings import ClassifySettings, DetectSettings, Settings
from protocol.errors import DeviceError, Reason, Rejected


@pytest.fixture
def release(tmp_path: Path, classifier_release: Path) -> Path:
    return Path(shutil.copytree(classifier_release, tmp_path / "release"))


def change(release: Path, **fields: object) -> None:
    path = release / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rejection(release: Path) -> Rejected:
    with pytest.raises(Rejected) as caught:
        load_classifier(ClassifySettings(release=release))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"release {release}: ")
    return caught.value


def test_the_release_that_ships_loads() -> None:
    classify, model = load_classifier(ClassifySettings())
    assert model.name == "gate"
    assert callable(classify)


def test_a_model_that_was_changed_is_refused(release: Path) -> None:
    model = bytearray((release / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (release / "model.onnx").write_bytes(model)
    assert rejection(release).reason is Reason.WRONG_DIGEST


def test_other_golden_answers_are_refused(release: Path) -> None:
    golden = json.loads((release / "manifest.json").read_text())["golden"]
    golden["outputs"]["probabilities"][0] += 0.05
    change(release, golden=golden)
    error = rejection(release)
    assert error.reason is Reason.WRONG_GOLDEN
    assert "differs by" in str(error)


def test_a_detector_is_no_classifier(release: Path) -> None:
    change(release, kind="detector")
    assert rejection(release).reason is Reason.WRONG_KIND


def test_labels_in_another_order_are_refused(release: Path) -> None:
    change(release, labels=["without_mask", "with_mask"])
    assert rejection(release).reason is Reason.BAD_RELEASE


def test_half_a_release_is_refused(release: Path) -> None:
    (release / "model.onnx").unlink()
    assert rejection(release).reason is Reason.BAD_RELEASE
    assert rejection(release / "nowhere").reason is Reason.BAD_RELEASE


def test_a_model_that_is_no_network_is_one_clear_line() -> None:
    with pytest.raises(DeviceError, match="cannot be loaded"):
        Session(b"garbage")


def test_a_session_refuses_a_batch_of_another_shape(classifier_release: Path) -> None:
    with pytest.raises(DeviceError, match="the model failed"):
        Session(classifier_release / "model.onnx").run(np.zeros((1, 64, 64, 3), np.uint8))


def test_the_detector_that_ships_loads() -> None:
    detect, model = load_detector(DetectSettings())
    assert model.name == "face"
    assert len(model.digest) == 64
    assert callable(detect)


def test_the_cascade_loads() -> None:
    detect, model = load_detector(DetectSettings(model="haar"))
    assert model.name == "haar"
    assert callable(detect)


def test_a_detectors_release_is_checked_like_a_classifiers(tmp_path: Path, classifier_release: Path) -> None:
    release = Path(shutil.copytree(classifier_release.parent / "detector", tmp_path / "release"))
    assert load_detector(DetectSettings(model=str(release)))[1].name == "face"
    golden = json.loads((release / "manifest.json").read_text())["golden"]
    golden["outputs"]["cls_8"][0] += 0.5
    change(release, golden=golden)
    with pytest.raises(Rejected, match="golden test: cls_8 differs"):
        load_detector(DetectSettings(model=str(release)))
    (release / "model.onnx").write_bytes((release / "model.onnx").read_bytes()[:-100])
    with pytest.raises(Rejected, match="SHA-256"):
        load_detector(DetectSettings(model=str(release)))
    with pytest.raises(Rejected, match="a classifier, not a detector"):
        load_detector(DetectSettings(model=str(classifier_release)))


@pytest.mark.parametrize(
    ("height", "picture", "smallest", "width"),
    [(720, 1280, 48, 640), (720, 1280, 24, 1280), (1080, 1920, 96, 480), (300, 400, 48, 400), (3000, 4000, 60, 1600)],
)
def test_the_width_follows_the_smallest_face(height: int, picture: int, smallest: int, width: int) -> None:
    assert input_width(height, picture, smallest) == width


@pytest.mark.parametrize("size", [(12_240, 16_320), (2_000, 100_000), (100_000, 2_000), (1_000_000, 1)])
def test_no_more_is_looked_at_than_fits_into_memory(size: tuple[int, int]) -> None:
    height, width = size
    looked_at = input_width(height, width, 24)
    assert 1 <= looked_at**2 * height / width <= MOST_PX


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (30, 30), (33, 65), (2000, 20)])
def test_pictures_of_any_size_are_looked_at(size: tuple[int, int]) -> None:
    detect, _ = load_detector(DetectSettings())
    assert detect(Frame(np.full((*size, 3), 90, np.uint8), 0.0, 0.0)) == ()


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_detector_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "face.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Rejected, match=r"face\.onnx: "):
        load_detector(DetectSettings(model=str(path)))


def test_a_classifier_given_as_detector_is_refused(classifier_release: Path) -> None:
    with pytest.raises(Rejected, match="not a network in YuNet's format"):
        load_detector(DetectSettings(model=str(classifier_release / "model.onnx")))


def test_threads_mean_the_same_to_opencv_and_to_onnx_runtime() -> None:
    try:
        for threads in (2, 1):
            eyes = load_eyes(Settings(threads=threads))
            assert cv2.getNumThreads() == threads
            sessions = (eyes.classify._session, eyes.detect._network)
            assert [session._session.get_session_options().intra_op_num_threads for session in sessions] == [threads, threads]
    finally:
        cv2.setNumThreads(-1)
