"""Frames without a picture in them, annotated as COCO annotates: for what must be refused before anything is looked at."""

import json

import cv2
import numpy as np

from trainer.detector_data import is_held_out


def write_frames(folder, files, category="with_mask"):
    """COCO-style frames with one face each."""
    folder.mkdir(parents=True)
    for file in files:
        cv2.imwrite(str(folder / file), np.zeros((32, 32, 3), np.uint8))
    coco = {
        "categories": [{"id": 1, "name": category}],
        "images": [{"id": number, "file_name": file} for number, file in enumerate(files)],
        "annotations": [{"image_id": number, "category_id": 1, "bbox": [4, 4, 26, 26]} for number in range(len(files))],
    }
    (folder / "annotations.json").write_text(json.dumps(coco))


TO_TRAIN_ON, TO_VALIDATE = (next(f"{n}.png" for n in range(99) if is_held_out(f"{n}.png") is held) for held in (False, True))
