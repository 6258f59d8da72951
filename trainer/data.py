"""Folders of face pictures -> arrays in memory, with class, source and file of each picture."""

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import Reason, Rejected
from trainer.models import INPUT_PX, LABELS

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class Pictures:
    """The readable pictures of one folder, ready to batch."""

    images_NHWC: NDArray[np.uint8]
    """RGB [N, 128, 128, 3]."""
    classes_N: NDArray[np.int64]
    """Indices into `LABELS`."""
    files: tuple[str, ...]
    """Path of each picture, relative to the folder."""
    sources: tuple[str, ...]
    """The data set that each picture came from; `unknown` where no index says so."""
    unreadable: tuple[str, ...]
    """Files that look like pictures and are not."""

    def __len__(self) -> int:
        return len(self.files)


def read_folder(folder: Path) -> Pictures:
    """The pictures below `folder`/with_mask and `folder`/without_mask, in the order of their names.

    Sources are read from an `index.csv` (columns `file`, `source`) in the folder or above it, if there is one.
    Raises Rejected when a class folder is missing or holds no readable picture.
    """
    images, classes, files, unreadable = [], [], [], []
    for index, label in enumerate(LABELS):
        if not (folder / label).is_dir():
            raise Rejected(Reason.BAD_INPUT, f"{folder}: no folder '{label}' (expected {' and '.join(LABELS)})")
        found = False
        for path in sorted(p for p in (folder / label).rglob("*") if p.suffix.lower() in SUFFIXES):
            image = read_picture(path)
            if image is None:
                unreadable.append(str(path.relative_to(folder)))
                continue
            found = True
            images.append(image)
            classes.append(index)
            files.append(str(path.relative_to(folder)))
        if not found:
            raise Rejected(Reason.BAD_INPUT, f"{folder / label}: holds no readable picture")
    sources = _read_sources(folder)
    return Pictures(
        images_NHWC=np.stack(images),
        classes_N=np.array(classes),
        files=tuple(files),
        sources=tuple(sources.get(file, "unknown") for file in files),
        unreadable=tuple(unreadable),
    )


def read_picture(path: Path) -> NDArray[np.uint8] | None:
    """The RGB picture [128, 128, 3] in a file, resized when it has another size; None when it cannot be decoded."""
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        return None
    if image.shape[:2] != (INPUT_PX, INPUT_PX):
        shrinks = min(image.shape[:2]) > INPUT_PX
        image = cv2.resize(image, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def _read_sources(folder: Path) -> dict[str, str]:
    """File (relative to `folder`) -> source, from the nearest index.csv of the folder or its parent."""
    for root, prefix in ((folder, ""), (folder.resolve().parent, f"{folder.resolve().name}/")):
        if (root / "index.csv").is_file():
            with (root / "index.csv").open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row.get("file", "").startswith(prefix)]
            return {row["file"].removeprefix(prefix): row.get("source") or "unknown" for row in rows}
    return {}
