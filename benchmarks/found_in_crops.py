"""How many test crops of faces, none of which a detector here was trained on, each detector finds.

usage: python benchmarks/found_in_crops.py [--data DIR] [--reference FILE] [RELEASE]

DIR is the face-mask data pack, FILE the reference: the pack's YuNet unless another is named. Each crop is shrunk and laid on a canvas that
its edges fill; it counts as found when a box has its middle in the middle third of it.
Crops that were cut from annotated frames are left out. The reference counts from a score of 0.6, ours from the score from which on
it has as many false positives on the annotated test frames, so neither is let off with seeing faces everywhere.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
from pack import DATA, need

from protocol.release import MODEL_FILE
from trainer.console import out
from trainer.detector_data import FRAMES_SOURCE
from trainer.detector_eval import LABELS, Detect, threshold_like, yunet_format
from trainer.evaluate import wilson
from trainer.frames import Image, read_frames

CANVAS_PX, CROP_SIDES_PX = 192, (40, 60, 96)
YUNET = "face_detection_yunet_2023mar.onnx"
SHIPPED = Path(__file__).parents[1] / "edge_agent" / "models" / "detector"


def best(detect: Detect, crop_HWC: Image, side_px: int) -> float:
    """The score of the best box whose middle is in the middle third of the shrunk crop, 0 without one."""
    before = (CANVAS_PX - side_px) // 2
    after = CANVAS_PX - side_px - before
    shrunk = cv2.resize(crop_HWC, (side_px, side_px), interpolation=cv2.INTER_AREA)
    rows = detect(cv2.copyMakeBorder(shrunk, before, after, before, after, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False))
    away = np.abs(rows[:, :2] + rows[:, 2:4] / 2 - CANVAS_PX / 2).max(1)
    return float(rows[away <= side_px / 6, 4].max(initial=0))


def main() -> None:
    """Prints one row per detector, label and side of the shrunk crop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("release", metavar="RELEASE", type=Path, nargs="?", default=SHIPPED)
    arguments = parser.parse_args()
    data = arguments.data
    yunet, ours = arguments.reference or data / "models" / YUNET, arguments.release / MODEL_FILE
    need(yunet, ours, data / "faces" / "index.csv", data / "frames" / "annotations.json")
    cv2.setNumThreads(1)
    with (data / "faces" / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and row["source"] != FRAMES_SOURCE]
    crops = [(row["label"], cv2.imread(str(data / "faces" / row["file"])).astype(np.uint8, copy=False)) for row in rows]
    least = {yunet: 0.6, ours: threshold_like(ours, yunet, read_frames(data / "frames"), 1.0)}
    for model, threshold in least.items():
        detect = yunet_format(model)
        for label in LABELS:
            for side in CROP_SIDES_PX:
                found = [best(detect, crop, side) >= threshold for its_label, crop in crops if its_label == label]
                low, high = wilson(sum(found), len(found))
                share = f"{sum(found)}/{len(found)} = {sum(found) / len(found):.1%} ({low:.1%} to {high:.1%})"
                out.print(
                    f"{model.parent.name}/{model.name} from {threshold:.2f}, {label}, crops of {side} px: {share}", highlight=False, soft_wrap=True
                )


if __name__ == "__main__":
    main()
