"""Folders of face pictures -> arrays in memory, with class, source and file of each picture."""

import csv
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import Reason, Rejected
from trainer.models import INPUT_PX, LABELS

INCORRECT = "mask_weared_incorrect"
"""A third class of some data sets, spelt as there: masks below the nose. Never trained on; reported apart."""
NO_FACE = -1
"""Stands for a class where a picture shows no face at all, so neither class is right."""
SPLITS = ("train", "val", "test")
"""Folders that one data folder is made of, and has one index for."""
UNEVEN = 2.0
"""From more than so many pictures of one class for each of the other on, that is said."""
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".gif", ".jp2"}
"""Of files that are taken for pictures: all that OpenCV from PyPI reads, of an animation the first picture."""


@dataclass(frozen=True)
class Pictures:
    """The readable pictures of one folder, ready to batch."""

    images_NHWC: NDArray[np.uint8]
    """RGB [N, 128, 128, 3]."""
    classes_N: NDArray[np.int64]
    """Indices into `LABELS`, or NO_FACE."""
    files: tuple[str, ...]
    """Path of each picture, relative to the folder."""
    sources: tuple[str, ...]
    """The data set that each picture came from; `unknown` where no index says so."""
    unreadable: tuple[str, ...]
    """Files that look like pictures and are not."""

    def __len__(self) -> int:
        return len(self.files)

    def select(self, rows_N: NDArray[np.bool_] | NDArray[np.int64]) -> "Pictures":
        """Some of the pictures, by mask or by number."""
        numbers = np.flatnonzero(rows_N) if rows_N.dtype == bool else rows_N
        return Pictures(
            images_NHWC=self.images_NHWC[numbers],
            classes_N=self.classes_N[numbers],
            files=tuple(self.files[i] for i in numbers),
            sources=tuple(self.sources[i] for i in numbers),
            unreadable=(),
        )

    def within(self, name: str) -> "Pictures":
        """The same, with paths from one folder further up."""
        return replace(self, files=tuple(f"{name}/{f}" for f in self.files), unreadable=tuple(f"{name}/{f}" for f in self.unreadable))


def join(parts: list[Pictures]) -> Pictures:
    """The pictures of several folders as one."""
    return Pictures(
        images_NHWC=np.concatenate([part.images_NHWC for part in parts]),
        classes_N=np.concatenate([part.classes_N for part in parts]),
        files=tuple(file for part in parts for file in part.files),
        sources=tuple(source for part in parts for source in part.sources),
        unreadable=tuple(file for part in parts for file in part.unreadable),
    )


def uneven(classes_N: NDArray[np.int64]) -> str:
    """One line when one class has many more training pictures than the other, else nothing."""
    (n_few, few), (n_many, many) = sorted((int((classes_N == number).sum()), label) for number, label in enumerate(LABELS))
    if n_many <= UNEVEN * n_few:
        return ""
    return f"{n_many:,} pictures of {many} and {n_few:,} of {few} to learn from: both classes count alike, but more of {few} would teach more"


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
        for path in pictures_in(folder / label):
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


def read_no_faces(folder: Path) -> Pictures:
    """The readable pictures below a folder, none of which shows a face; raises Rejected when there is none."""
    found = {str(p.relative_to(folder)): read_picture(p) for p in pictures_in(folder)}
    readable = {file: image for file, image in found.items() if image is not None}
    if not readable:
        raise Rejected(Reason.BAD_INPUT, f"{folder}: holds no readable picture")
    sources = _read_sources(folder)
    return Pictures(
        images_NHWC=np.stack(list(readable.values())),
        classes_N=np.full(len(readable), NO_FACE),
        files=tuple(readable),
        sources=tuple(sources.get(file, "unknown") for file in readable),
        unreadable=tuple(file for file in found if file not in readable),
    )


def read_incorrect(folder: Path) -> NDArray[np.uint8]:
    """The readable pictures [N, 128, 128, 3] of masks worn wrongly; none where there is no such folder."""
    found = [read_picture(p) for p in pictures_in(folder / INCORRECT)]
    return np.array([image for image in found if image is not None], np.uint8).reshape(-1, INPUT_PX, INPUT_PX, 3)


def read_picture(path: Path) -> NDArray[np.uint8] | None:
    """The RGB picture [128, 128, 3] in a file, resized when it has another size; None when it cannot be decoded."""
    image = decode(path)
    return None if image is None else np.ascontiguousarray(resize(image, INPUT_PX)[:, :, ::-1])


def decode(path: Path) -> NDArray[np.uint8] | None:
    """The BGR picture [H, W, 3] in a file; None when it is none, or cannot be read."""
    try:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):  # the latter: its header tells of more pixels than OpenCV takes
        return None
    return None if image is None else image.astype(np.uint8, copy=False)


def resize(image_HWC: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    """The picture as a square of `px`; shrunk by area, so that nothing is aliased."""
    if image_HWC.shape[:2] == (px, px):
        return image_HWC
    shrinks = min(image_HWC.shape[:2]) > px
    return cv2.resize(image_HWC, (px, px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _read_sources(folder: Path) -> dict[str, str]:
    """File (relative to `folder`) -> source."""
    return {file: row.get("source") or "unknown" for file, row in read_index(folder).items()}


def pictures_in(folder: Path) -> list[Path]:
    """The files below a folder that are named like pictures, in order.

    Folders that cannot be looked into are among them: who reads them finds no picture, and says so.
    """
    found, closed = _below(folder)
    return sorted([*filter(_is_picture, found), *closed])


def others_in(folder: Path) -> list[Path]:
    """What else is below a folder, in order: files that are not named like pictures, pipes, and links to folders, which are not followed."""
    return sorted(path for path in _below(folder)[0] if not _is_picture(path))


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    """What is below a folder that is no folder itself, and the folders that cannot be looked into; nothing where there is no folder."""
    closed: list[Path] = []

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            closed.append(Path(error.filename))

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=note):
        links = (name for name in folders if os.path.islink(os.path.join(place, name)))
        found += (Path(place, name) for name in (*names, *links))
    return found, closed


def _is_picture(path: Path) -> bool:
    """Whether a file is named like one. Pipes and devices are none, one could wait for them; what cannot even be asked is found out by reading it."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def read_index(folder: Path) -> dict[str, dict[str, str]]:
    """File (relative to `folder`) -> its row in the nearest index.csv; Rejected when that is no table of files.

    The nearest is that of the folder, else of its parent. Of a folder that is no split, the parent may be any: an index.csv there that is
    none, or names no file of the folder, is another's.
    """
    here = folder.resolve()
    for root, prefix, is_own in ((folder, "", True), (here.parent, f"{here.name}/", here.name in SPLITS)):
        if (root / "index.csv").is_file():
            try:
                rows = _read_rows(root / "index.csv", prefix)
            except (OSError, ValueError, csv.Error) as error:
                if not is_own:
                    return {}
                raise Rejected(Reason.BAD_INPUT, f"{root / 'index.csv'}: not a table in UTF-8 ({error})") from None
            return {row["file"].removeprefix(prefix): row for row in rows}
    return {}


def _read_rows(index: Path, prefix: str) -> list[dict[str, str]]:
    """The rows of the files below a folder; raises OSError, ValueError or csv.Error when it is no table of files."""
    with index.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a mark of the byte order
        table = csv.DictReader(file, restval="")
        if "file" not in (table.fieldnames or ()):
            raise ValueError("its first line names no column `file`")
        return [row for row in table if row["file"].startswith(prefix)]
