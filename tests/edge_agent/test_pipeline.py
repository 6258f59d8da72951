"""Golden frames: the scene that ships, through the detector and classifier that ship."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import ROOT

from edge_agent.classify import crop
from edge_agent.demo_scene import DemoScene, is_masked
from edge_agent.load import Eyes, load_eyes, load_pipeline
from edge_agent.scene import Box, Closed, Ending, Frame, Label, Opened
from edge_agent.settings import Settings, read_settings

GOLDEN = ROOT / "tests" / "edge_agent" / "golden_frames.json"
TIMES_S = (0.5, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 22.0)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return read_settings()


@pytest.fixture(scope="module")
def eyes(settings: Settings) -> Eyes:
    return load_eyes(settings)


@pytest.fixture(scope="module")
def scene() -> DemoScene:
    return DemoScene()


def test_golden_frames(eyes: Eyes, scene: DemoScene) -> None:
    for expected in json.loads(GOLDEN.read_text()):
        frame = Frame(scene.at(expected["time_s"]), 0.0, 0.0)
        readings = eyes.classify(frame, eyes.detect(frame))
        assert len(readings) == len(expected["faces"])
        for reading, face in zip(readings, expected["faces"], strict=True):
            box = reading.face.box
            assert (box.x, box.y, box.w, box.h) == pytest.approx(face["box"], abs=0.05 * box.size)
            assert reading.label == face["label"]


def test_the_demo_film_gives_its_incidents(settings: Settings, eyes: Eyes, scene: DemoScene) -> None:
    pipeline = load_pipeline(settings, eyes)
    incidents = []
    for number in range(24 * 15):
        incidents += pipeline(Frame(scene.at(number / 15), number / 15, 0.0)).incidents
    incidents += pipeline.stop()
    assert [type(one) for one in incidents] == [Opened, Closed, Opened, Closed]
    assert [one.ending for one in incidents if isinstance(one, Closed)] == [Ending.MASK_ON, Ending.STOPPED]
    assert not any(is_masked(one.confirmed_s) for one in incidents if isinstance(one, Opened))
    assert 8 < incidents[1].ended_s < 9
    assert pipeline.open_incidents == 0


def test_silence_of_the_camera_ends_what_is_open(settings: Settings, eyes: Eyes, scene: DemoScene, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("edge_agent.pipeline.time.monotonic", lambda: now[0])
    pipeline = load_pipeline(settings, eyes)
    assert pipeline.wait() == ()
    for number in range(30):
        pipeline(Frame(scene.at(3.0), number / 15, 0.0))
    assert pipeline.open_incidents == 1
    now[0] += 1
    assert pipeline.wait() == ()
    now[0] += settings.decide.lost_s
    assert [one.ending for one in pipeline.wait()] == [Ending.LEFT]


def test_an_empty_picture_has_no_faces(eyes: Eyes) -> None:
    frame = Frame(np.full((360, 640, 3), 127, np.uint8), 0.0, 0.0)
    assert eyes.classify(frame, eyes.detect(frame)) == ()


def test_many_faces_are_read_as_one_by_one(eyes: Eyes, scene: DemoScene) -> None:
    frame = Frame(scene.at(3.0), 0.0, 0.0)
    (face,) = eyes.detect(frame)
    (alone,) = eyes.classify(frame, (face,))
    together = eyes.classify(frame, (face,) * 70)
    assert len(together) == 70
    assert {round(one.p_no_mask, 4) for one in together} == {round(alone.p_no_mask, 4)}
    assert alone.label is Label.WITHOUT_MASK


def test_a_crop_repeats_the_edge_where_it_leaves_the_picture() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[:, :50] = (255, 0, 0)  # blue, left
    out = np.empty((128, 128, 3), np.uint8)
    crop(picture, Box(-20, 10, 40, 40), 1.2, out)
    assert out[:, :, 2].min() == 255  # RGB: blue is last
    assert out[:, :, 0].max() == 0
    crop(picture, Box(-500, 10, 40, 40), 1.2, out)
    assert out.max() == 0


def test_a_crop_is_the_training_crop(data: Path) -> None:
    """The box of an annotated face, cut by the agent, is the picture that the classifier was trained on."""
    import csv

    with (data / "faces" / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "andrewmvd-853" and row["split"] == "test"]
    annotations = json.loads((data / "frames" / "annotations.json").read_text())
    names = {image["id"]: image["file_name"] for image in annotations["images"]}
    boxes: dict[str, list[list[float]]] = {}
    for annotation in annotations["annotations"]:
        boxes.setdefault(Path(names[annotation["image_id"]]).stem, []).append(annotation["bbox"])
    closest = []
    for row in rows[:20]:
        stem = Path(row["source_file"]).stem
        frame = cv2.imread(str(data / "frames" / f"{stem}.jpg"))
        wanted = cv2.imread(str(data / "faces" / row["file"]))[:, :, ::-1].astype(float)
        out = np.empty((128, 128, 3), np.uint8)
        differences = []
        for box in boxes[stem]:
            crop(frame, Box(*box), 1.2, out)
            differences.append(np.abs(out - wanted).mean())
        closest.append(min(differences))
    assert np.median(closest) < 6


def write_golden() -> None:
    eyes, scene = load_eyes(read_settings()), DemoScene()
    rows = []
    for time_s in TIMES_S:
        frame = Frame(scene.at(time_s), 0.0, 0.0)
        readings = eyes.classify(frame, eyes.detect(frame))
        boxes = [(one.face.box.x, one.face.box.y, one.face.box.w, one.face.box.h) for one in readings]
        faces = [{"box": [round(side, 1) for side in box], "label": one.label.value} for box, one in zip(boxes, readings, strict=True)]
        rows.append({"time_s": time_s, "faces": faces})
    GOLDEN.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    write_golden()
