"""What MaskFleet is measured against: the classic notebook loop, and the AIZOO detector. Not part of the product.

Each peer is called with a BGR picture [H, W, 3] and returns its faces as `maskfleet-agent infer --json` prints them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edge_agent.load import load_eyes
from edge_agent.scene import Frame
from edge_agent.settings import Settings
from trainer.models import INPUT_PX, LABELS, REFERENCES, MaskNet, normalise

Image = NDArray[np.uint8]
Peer = Callable[[Image], list[dict[str, Any]]]


def ours(settings: Settings) -> Peer:
    """The agent as it is set."""
    eyes = load_eyes(settings)

    def look(image: Image) -> list[dict[str, Any]]:
        frame = Frame(image, 0.0, 0.0)
        return [
            {"box": [r.face.box.x, r.face.box.y, r.face.box.w, r.face.box.h], "label": r.label.value}
            for r in eyes.classify(frame, eyes.detect(frame))
        ]

    return look


def notebook_loop() -> Peer:
    """Full-frame Haar (scale 1.1, 4 neighbours, from 30 px), then the reference teacher in torch, face by face, argmax.

    Its weights are random: it is here for its time.
    """
    torch.manual_seed(0)
    teacher = MaskNet(REFERENCES["teacher"]).eval()
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))

    def look(image: Image) -> list[dict[str, Any]]:
        faces = []
        for x, y, w, h in cascade.detectMultiScale(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), 1.1, 4, minSize=(30, 30)):
            face = cv2.cvtColor(cv2.resize(image[y : y + h, x : x + w], (INPUT_PX, INPUT_PX)), cv2.COLOR_BGR2RGB)
            with torch.no_grad():
                label = LABELS[int(teacher(normalise(torch.from_numpy(face)[None])).argmax())]
            faces.append({"box": [int(x), int(y), int(w), int(h)], "label": label})
        return faces

    return look


SIDE = 260
ANCHOR_MAPS = (33, 17, 9, 5, 3)
ANCHOR_SIZES = ((0.04, 0.056), (0.08, 0.11), (0.16, 0.22), (0.32, 0.45), (0.64, 0.72))
ANCHOR_RATIOS = (1, 0.62, 0.42)
VARIANCES = (0.1, 0.1, 0.2, 0.2)


def aizoo(folder: Path) -> Peer:
    """AIZOOTech/FaceMaskDetection: an SSD of 260x260 that finds and classifies at once, in OpenCV's dnn module."""
    network = cv2.dnn.readNet(str(folder / "face_mask_detection.caffemodel"), str(folder / "face_mask_detection.prototxt"))
    anchors = _anchors()

    def look(image: Image) -> list[dict[str, Any]]:
        height, width = image.shape[:2]
        network.setInput(cv2.dnn.blobFromImage(image, 1 / 255, (SIDE, SIDE), swapRB=True))
        places, classes = network.forward(["loc_branch_concat", "cls_branch_concat"])
        scores, labels = classes[0].max(1), classes[0].argmax(1)
        rows = np.flatnonzero(scores > 0.5)
        shifts = places[0][rows] * VARIANCES
        centres = shifts[:, :2] * anchors[rows, 2:] + anchors[rows, :2]
        sizes = np.exp(shifts[:, 2:]) * anchors[rows, 2:]
        boxes = np.hstack([(centres - sizes / 2) * (width, height), sizes * (width, height)])
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores[rows].tolist(), 0.5, 0.4)
        return [{"box": boxes[i].tolist(), "label": LABELS[labels[rows[i]]]} for i in np.asarray(kept, int).ravel()]

    return look


def _anchors() -> NDArray[np.float64]:
    """Centre x, y, width and height of each anchor [5972, 4], in units of the picture."""
    rows = []
    for cells, sizes in zip(ANCHOR_MAPS, ANCHOR_SIZES, strict=True):
        shapes = [(size, size) for size in sizes] + [(sizes[0] * r**0.5, sizes[0] / r**0.5) for r in ANCHOR_RATIOS[1:]]
        places = (np.arange(cells) + 0.5) / cells
        rows += [(x, y, w, h) for y in places for x in places for w, h in shapes]
    return np.array(rows)
