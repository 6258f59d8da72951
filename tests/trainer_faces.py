"""Small pictures that a network can learn from: ovals with eyes, with or without a bright band across the mouth."""

from pathlib import Path

import cv2
import numpy as np


def draw_face(rng: np.random.Generator, has_mask: bool) -> np.ndarray:
    image = rng.integers(0, 120, (128, 128, 3)).astype(np.uint8)
    skin = tuple(int(c) for c in rng.integers(90, 200, 3))
    cv2.ellipse(image, (64, 64), (42, 56), 0, 0, 360, skin, -1)
    for x in (48, 80):
        cv2.circle(image, (x, 52), 5, (20, 20, 20), -1)
    if has_mask:
        cv2.rectangle(image, (28, 68), (100, 112), (230, 220, 200), -1)
    else:
        cv2.ellipse(image, (64, 92), (16, 6), 0, 0, 360, (40, 40, 160), -1)
    return image


def write_faces(folder: Path, n: int, seed: int = 0) -> Path:
    """n pictures of each class below folder/with_mask and folder/without_mask."""
    rng = np.random.default_rng(seed)
    for label in ("with_mask", "without_mask"):
        (folder / label).mkdir(parents=True)
        for number in range(n):
            cv2.imwrite(str(folder / label / f"{number:03}.png"), draw_face(rng, label == "with_mask"))
    return folder


def write_splits(folder: Path, n: int = 24) -> Path:
    """A data folder with train, val and test."""
    for seed, split in enumerate(("train", "val", "test")):
        write_faces(folder / split, n if split == "train" else n // 2, seed)
    return folder


def write_sources(folder: Path, n: int = 8) -> Path:
    """Splits of pictures that are of `door` and `web` by turns, and so many-coloured that none is taken for a copy of another."""
    files = sorted(path.relative_to(folder) for path in write_splits(folder, n).rglob("*.png"))
    for number, file in enumerate(files):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        scene = cv2.resize(noise, (128, 128), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / file), cv2.addWeighted(cv2.imread(str(folder / file)), 0.5, scene, 0.5, 0))
    (folder / "index.csv").write_text("file,source\n" + "".join(f"{file},{'web' if n % 2 else 'door'}\n" for n, file in enumerate(files)))
    return folder
