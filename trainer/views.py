"""Many augmented views of every picture, made once and looked at once by each teacher, for students to learn from.

A teacher that is large takes ten times as long as its student, so what it says is kept. Teacher and student still see
the very same picture: the view is what was labelled.
"""

import hashlib
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from protocol.errors import DeviceError
from trainer.augment import augment
from trainer.data import NO_FACE, Pictures, join
from trainer.dye import dye
from trainer.folder import alone, write_whole
from trainer.models import LABELS, Network, prepare

BATCH = 32
"""Views that a teacher looks at together."""
SEED = 7
DYED = {"with_mask": 0.65, "without_mask": 0.25}
"""Share of the views in which the lower face has another colour or pattern; some of them bare, for a bright colour alone is no mask."""


@dataclass(frozen=True)
class Views:
    """Views of pictures, and what a teacher says of each."""

    images_VNHWC: NDArray[np.uint8]
    """RGB; on disk, for they are larger than the pictures by the number of views."""
    rows_R: NDArray[np.int64]
    """The pictures among the N that are learned from."""
    classes_N: NDArray[np.int64]
    logits_VN2: NDArray[np.float32]

    def batches(self, size: int, rng: Generator) -> Iterator[tuple[Tensor, ...]]:
        """One pass over the pictures, a drawn view of each: bytes [n, H, W, 3], the teacher's p [n, 2], classes [n]."""
        order = rng.permutation(self.rows_R)
        drawn = rng.integers(len(self.images_VNHWC), size=len(order))
        for start in range(0, max(1, len(order) - size + 1), size):
            rows, views = order[start : start + size], drawn[start : start + size]
            images = torch.from_numpy(self.images_VNHWC[views, rows])
            if rng.random() < 0.5:
                images = images.flip(2)
            told = torch.from_numpy(self.logits_VN2[views, rows]).softmax(1)
            # What is no face is now of one class and now of the other: only half and half is right in the long run.
            either = rng.integers(len(LABELS), size=len(rows))
            yield images, told, torch.from_numpy(np.where(self.classes_N[rows] == NO_FACE, either, self.classes_N[rows]))


def file_of_views(pictures: Pictures, count: int) -> str:
    """The name of the file for `count` views of these pictures: no other pictures, classes or settings have it."""
    made = hashlib.sha256(repr((SEED, DYED, pictures.images_NHWC.shape)).encode())
    made.update(pictures.images_NHWC.tobytes())
    made.update(pictures.classes_N.tobytes())
    return f"views-{count}-of-{len(pictures)}-{made.hexdigest()[:12]}.npy"


def file_of_logits(views: str, teacher: Network, rows_R: NDArray[np.int64]) -> str:
    """The name of the file for what a teacher says of some pictures' views: no other views, weights or pictures have it."""
    said = hashlib.sha256(views.encode())
    said.update(save({name: tensor.contiguous() for name, tensor in teacher.state_dict().items()}))
    said.update(rows_R.tobytes())
    return f"logits-{said.hexdigest()[:12]}.npy"


def make(pictures: Pictures, count: int, path: Path) -> NDArray[np.uint8]:
    """`count` views [V, N, H, W, 3] of each picture, in a file that is made when it is not there; the same for the same pictures.

    One process makes it, and others wait. Raises DeviceError when the disk has no room for it.
    """
    with alone(path.with_suffix(".lock")):
        if not path.exists():
            _write(pictures, count, path)
    return np.asarray(np.load(path, mmap_mode="r"))


def _write(pictures: Pictures, count: int, path: Path) -> None:
    part, shape = path.with_suffix(".part"), (count, *pictures.images_NHWC.shape)
    try:
        with part.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            os.posix_fallocate(file.fileno(), file.tell(), math.prod(shape))  # a disk that is too full says so now, not after minutes
            for view in range(count):
                for row, (image, label) in enumerate(zip(pictures.images_NHWC, pictures.classes_N, strict=True)):
                    rng = np.random.default_rng([SEED, view, row])
                    is_dyed = label != NO_FACE and rng.random() < DYED[LABELS[label]]
                    file.write(augment(dye(image, rng) if is_dyed else image, rng).tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DeviceError(f"{path}: cannot be written, and takes {math.prod(shape) / 1e9:.1f} GB ({error.strerror})") from None


def weathered(pictures: Pictures, count: int = 3) -> Pictures:
    """The pictures, and `count` views of each: what a door camera shows is often worse than what data sets hold."""
    shown = [
        np.stack([augment(image, np.random.default_rng([SEED, view, row])) for row, image in enumerate(pictures.images_NHWC)])
        for view in range(count)
    ]
    return join([pictures, *(replace(pictures, images_NHWC=images_NHWC) for images_NHWC in shown)])


@torch.no_grad()
def ask(teacher: Network, images_VNHWC: NDArray[np.uint8], rows_R: NDArray[np.int64], path: Path) -> NDArray[np.float32]:
    """The teacher's logits [V, N, 2] of the views of some pictures, 0 for the others (half and half); in a file that is made when it is not there."""
    with alone(path.with_suffix(".lock")):
        if not path.exists():
            teacher.eval()
            logits = np.zeros((*images_VNHWC.shape[:2], 2), np.float32)
            for view, images_NHWC in enumerate(images_VNHWC):
                for start in range(0, len(rows_R), BATCH):
                    rows = rows_R[start : start + BATCH]
                    with torch.autocast("cpu", torch.bfloat16):
                        answers = teacher(prepare(torch.from_numpy(images_NHWC[rows]), teacher.architecture.input_px))
                    logits[view, rows] = answers.float().numpy()
            written = io.BytesIO()
            np.save(written, logits)
            write_whole(path, written.getvalue())
    answers_VN2: NDArray[np.float32] = np.load(path)
    return answers_VN2
