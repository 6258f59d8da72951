"""A data folder -> train, val and test, so that no photograph is on two sides, as far as perceptual hashes know it again."""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.errors import Reason, Rejected
from trainer import phash
from trainer.data import NO_FACE, Pictures, join, read_folder
from trainer.models import LABELS

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
GROUP_BITS = 6
"""Looser than what the audit calls a duplicate: what may be the same photograph stays together."""


@dataclass(frozen=True)
class Splits:
    """What is learned from, what chooses, and what judges."""

    train: Pictures
    val: Pictures
    test: Pictures
    no_faces: Pictures | None = None
    """What detectors take for faces, for students to learn to be unsure of."""
    too_near: int = 0
    """How many pictures of other sources are left out because they look like one that is held out."""

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures that are learned from come from each data set that shows faces."""
        more = self.no_faces.sources if self.no_faces else ()
        sources = Counter((*self.train.sources, *more))
        return {source: sources[source] for source in sorted(set(self.train.sources))}

    @property
    def sources(self) -> frozenset[str]:
        """All that any picture with a face is from."""
        return frozenset((*self.train.sources, *self.val.sources, *self.test.sources))

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Files that look like pictures and are not, with the split they are in."""
        return tuple(file for part in (self.train, self.val, self.test) for file in part.unreadable)


def read(data: Path, seed: int = 0) -> Splits:
    """The splits of a data folder: its own train/, val/ and test/, else one of with_mask/ and without_mask/ by their content.

    Other folders (`mask_weared_incorrect`) are left out. Raises Rejected when a class is missing or empty.
    """
    if not (data / "train").is_dir():
        return split(read_folder(data), seed)
    parts = {name: read_folder(data / name).within(name) for name in SHARES if name == "train" or (data / name).is_dir()}
    if "val" not in parts:
        raise Rejected(Reason.BAD_INPUT, f"{data}: has train/ and no val/; give both, or neither to have them made")
    return Splits(parts["train"], parts["val"], parts.get("test", parts["val"].select(np.array([], int))))


def split(pictures: Pictures, seed: int) -> Splits:
    """A split that stays when pictures are added: a hash of what a picture shows says where it goes; near-duplicates go together.

    Its shares are about `SHARES`: to make them exact would move pictures. A class that would be missing in `test` or `val` is
    there with its outermost group, which is learned from once another is further out, and never the other way round.
    """
    place_N = _places(pictures, seed)
    own = [place_N[pictures.classes_N == number] for number in range(len(LABELS))]
    is_test_N = (place_N < SHARES["test"]) | np.isin(place_N, [places.min() for places in own])
    is_val_N = ~is_test_N & ((place_N >= 1 - SHARES["val"]) | np.isin(place_N, [places.max() for places in own]))
    train, val, test = (pictures.select(rows_N) for rows_N in (~is_test_N & ~is_val_N, is_val_N, is_test_N))
    for name, part in (("train", train), ("val", val), ("test", test)):
        _need_both_classes(part, f"the {name} split")
    return Splits(replace(train, unreadable=pictures.unreadable), val, test)


def _places(pictures: Pictures, seed: int) -> NDArray[np.float64]:
    """A number [N] from 0 to 1 by the perceptual hash of each picture; near-duplicates have that of the first of them by name.

    By name, for those that are added later are mostly called something later: an older one goes on deciding.
    """
    images_NHWC = pictures.images_NHWC
    group_N = phash.groups(len(pictures), phash.near_pairs(images_NHWC, GROUP_BITS))
    _, first_G, group_N = np.unique(group_N, return_index=True, return_inverse=True)
    one_of_each = images_NHWC[first_G]
    hashes = np.minimum(phash.hashes(one_of_each), phash.hashes(one_of_each[:, :, ::-1])).tolist()  # mirrored, it is the same
    digests = [hashlib.blake2b(f"{seed} {code:016x}".encode(), digest_size=8).digest() for code in hashes]
    return np.array([int.from_bytes(digest) / 2**64 for digest in digests])[group_N]


def without_source(splits: Splits, source: str) -> Splits:
    """Learns and chooses without one source and what looks like its pictures; the test is all pictures of that source."""
    held = _of_source(splits, source)
    if not len(held):
        raise Rejected(Reason.BAD_SETTING, f"source {source!r}: no such source; there are {', '.join(splits.counts)}")
    kept = [part.select(_is_apart(part, held)) for part in (splits.train, splits.val)]
    for part in kept:
        _need_both_classes(part, f"what is left without source {source!r}")
    others = sum(own != source for part in (splits.train, splits.val) for own in part.sources)
    return Splits(kept[0], kept[1], held, too_near=others - sum(map(len, kept)))


def apart(pictures: Pictures, splits: Splits, source: str) -> NDArray[np.int64]:
    """The numbers of the pictures that may be learned from when one source of the splits is held out; all of them when it is ""."""
    return np.flatnonzero(_is_apart(pictures, _of_source(splits, source))) if source else np.arange(len(pictures))


def _of_source(splits: Splits, source: str) -> Pictures:
    return join([part.select(np.array([own == source for own in part.sources], bool)) for part in (splits.train, splits.val, splits.test)])


def _is_apart(pictures: Pictures, held: Pictures) -> NDArray[np.bool_]:
    """Data sets are collected from the web, and from each other: a photograph of one is often in another as well."""
    is_other_N = ~np.isin(pictures.sources, held.sources)
    is_near_N = phash.is_near(pictures.images_NHWC, held.images_NHWC, GROUP_BITS)
    is_apart_N: NDArray[np.bool_] = is_other_N & ~(is_near_N & (pictures.classes_N != NO_FACE))
    return is_apart_N


def _need_both_classes(pictures: Pictures, what: str) -> None:
    for number, label in enumerate(LABELS):
        if not (pictures.classes_N == number).any():
            raise Rejected(Reason.BAD_INPUT, f"{what} holds no picture of {label}; more pictures are needed")
