"""What is in a data folder, and what is wrong with it: duplicates, leaks between splits, unreadable files, classes that differ in more than masks."""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from trainer import phash
from trainer.data import SPLITS, decode, others_in, pictures_in, read_index, resize, uneven
from trainer.models import INPUT_PX, LABELS


@dataclass(frozen=True)
class Seen:
    """One readable picture."""

    file: str
    split: str
    label: str
    source: str
    size_px: int
    """Width of the face before it was cut and scaled, where the index knows it; else the picture's shorter side."""
    sharpness: float
    """Variance of the Laplacian at the network's input size."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of one photograph."""

    one: str
    other: str
    bits: int
    """How many of the 64 bits of their hashes differ."""


@dataclass(frozen=True)
class Audit:
    """What was found."""

    pictures: int
    unreadable: tuple[str, ...]
    passed_over: tuple[str, ...]
    """Files in the folders of the classes that are not named like pictures."""
    duplicates: tuple[Pair, ...]
    """Within a split: harmless, but they count twice."""
    leaks: tuple[Pair, ...]
    """Across splits: the test asks what was learned by heart."""
    contradictions: tuple[Pair, ...]
    """The same photograph in both classes."""
    table: tuple[dict[str, Any], ...]
    """Pictures by split and source, for each class."""
    classes: tuple[dict[str, Any], ...]
    """Median size and sharpness by split and class: what a network could learn instead of masks."""
    uneven: str
    """A line when one class has many more training pictures than the other."""

    def as_document(self) -> dict[str, Any]:
        """The audit as a JSON document."""
        return {**asdict(self), "is_leaking": bool(self.leaks)}


def audit(data: Path) -> Audit:
    """Looks at every picture below `data`; DATA/SPLIT/CLASS/... or DATA/CLASS/... . Raises Rejected through none: what is wrong is reported."""
    index = read_index(data)
    seen: list[Seen] = []
    unreadable: list[str] = []
    passed_over: list[str] = []
    images = []
    for split in [name for name in SPLITS if (data / name).is_dir()] or [""]:
        for label in LABELS:
            passed_over += (str(path.relative_to(data)) for path in others_in(data / split / label))
            for path in pictures_in(data / split / label):
                file = str(path.relative_to(data))
                image = decode(path)
                if image is None:
                    unreadable.append(file)
                    continue
                small = np.ascontiguousarray(resize(image, INPUT_PX)[:, :, ::-1])
                images.append(small)
                seen.append(_look(file, split, label, image, small, index.get(file, {})))
    pairs = [(seen[i], seen[j], bits) for i, j, bits in phash.near_pairs(np.stack(images))] if images else []
    return Audit(
        pictures=len(seen),
        unreadable=tuple(unreadable),
        passed_over=tuple(passed_over),
        duplicates=tuple(Pair(a.file, b.file, bits) for a, b, bits in pairs if a.split == b.split),
        leaks=tuple(Pair(a.file, b.file, bits) for a, b, bits in pairs if a.split != b.split),
        contradictions=tuple(Pair(a.file, b.file, bits) for a, b, bits in pairs if a.label != b.label),
        table=tuple(_table(seen)),
        classes=tuple(_classes(seen)),
        uneven=uneven(np.array([LABELS.index(s.label) for s in seen if s.split in {"train", ""}])),
    )


def _look(file: str, split: str, label: str, image: np.ndarray, small: np.ndarray, row: dict[str, str]) -> Seen:
    known = row.get("face_width_px", "")
    size = round(float(known)) if known.replace(".", "", 1).isdigit() else min(image.shape[:2])
    sharpness = float(cv2.Laplacian(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
    return Seen(file, split, label, row.get("source") or "unknown", size, sharpness)


def _table(seen: list[Seen]) -> list[dict[str, Any]]:
    rows = []
    for split in dict.fromkeys(s.split for s in seen):
        for source in sorted({s.source for s in seen if s.split == split}):
            here = [s.label for s in seen if s.split == split and s.source == source]
            rows.append({"split": split or "all", "source": source, **{label: here.count(label) for label in LABELS}})
    return rows


def _classes(seen: list[Seen]) -> list[dict[str, Any]]:
    rows = []
    for split in dict.fromkeys(s.split for s in seen):
        for label in LABELS:
            here = [s for s in seen if s.split == split and s.label == label]
            if here:
                size, sharpness = median(s.size_px for s in here), median(s.sharpness for s in here)
                rows.append({"split": split or "all", "label": label, "n": len(here), "size_px": size, "sharpness": round(sharpness, 1)})
    return rows
