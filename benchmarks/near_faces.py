"""How many faces are found by how near they are: by the network in one look, and by the agent, which looks twice at large pictures.

usage: python benchmarks/near_faces.py [--data DIR] [RELEASE]

DIR is the face-mask data pack. Its annotated test frames are enlarged until they are 960, 1280 and 1920 pixels wide, and looked at as they are
then (`smallest_face_px = 24`): a 1920 wide camera with the usual 48 is looked at 960 wide.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from pack import DATA, need

from edge_agent.load import load_detector
from edge_agent.scene import Frame
from edge_agent.settings import DetectSettings
from protocol.release import MODEL_FILE
from trainer.console import out
from trainer.detector_eval import Detect, Findings, find, yunet_format
from trainer.folder import read_release
from trainer.frames import Floats, Image, read_frames

WIDTHS_PX = (960, 1280, 1920)
EDGES_PX = (24, 96, 192, 288, 384, 512, 10_000)
SHIPPED = Path(__file__).parents[1] / "edge_agent" / "models" / "detector"


def agent(release: Path) -> Detect:
    """The detector as the agent runs it."""
    detector, _ = load_detector(DetectSettings(model=str(release), smallest_face_px=24))

    def detect(image_HWC: Image) -> Floats:
        faces = detector(Frame(image_HWC, 0.0, 0.0))
        return np.array([[face.box.x, face.box.y, face.box.w, face.box.h, face.score] for face in faces], np.float32).reshape(-1, 5)

    return detect


def row(findings: Findings, threshold: float) -> str:
    """Faces found, by their size in the picture that was looked at, and false positives."""
    is_found, sizes = findings.found_M >= threshold, findings.shown_M
    bins = [findings.counted(0) & (sizes >= low) & (sizes < high) for low, high in pairwise(EDGES_PX)]
    return " | ".join([*(f"{is_found[part].sum()}/{part.sum()}" for part in bins), str((findings.false_K >= threshold).sum())])


def main() -> None:
    """Prints one row per width and way to look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("release", metavar="RELEASE", type=Path, nargs="?", default=SHIPPED)
    arguments = parser.parse_args()
    need(arguments.release / MODEL_FILE, arguments.data / "frames" / "annotations.json")
    cv2.setNumThreads(1)
    manifest, model = read_release(arguments.release, "detector")
    ways = {"one look": yunet_format(model, manifest.threshold), "the agent": agent(arguments.release)}
    frames = read_frames(arguments.data / "frames")
    out.print(" | ".join(["wide", *(f"{low}+ px" for low in EDGES_PX[:-1]), "false positives"]), highlight=False)
    for width in WIDTHS_PX:
        for name, detect in ways.items():
            out.print(f"{width}, {name} | {row(find(detect, frames, width), manifest.threshold)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
