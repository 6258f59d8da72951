"""A data folder -> train, val and test, so that no photograph is on two sides."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from protocol.errors import Reason, Rejected
from trainer import phash
from trainer.data import Pictures, join, read_folder
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

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures that are learned from come from each data set that shows faces."""
        more = self.no_faces.sources if self.no_faces else ()
        sources = Counter((*self.train.sources, *more))
        return {source: sources[source] for source in sorted(set(self.train.sources))}

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Files that look like pictures and are not, with the split they are in."""
        return tuple(file for part in (self.train, self.val, self.test) for file in part.unreadable)


def read(data: Path, seed: int = 0) -> Splits:
    """The splits of a data folder: its own train/, val/ and test/, else a seeded one of with_mask/ and without_mask/.

    Other folders (`mask_weared_incorrect`) are left out. Raises Rejected when a class is missing or empty.
    """
    if not (data / "train").is_dir():
        return split(read_folder(data), seed)
    parts = {name: read_folder(data / name).within(name) for name in SHARES if name == "train" or (data / name).is_dir()}
    if "val" not in parts:
        raise Rejected(Reason.BAD_INPUT, f"{data}: has train/ and no val/; give both, or neither to have them made")
    return Splits(parts["train"], parts["val"], parts.get("test", parts["val"].select(np.array([], int))))


def split(pictures: Pictures, seed: int) -> Splits:
    """A random split that depends on nothing but the seed and the pictures; near-duplicates stay on one side.

    Each class and source is divided by `SHARES`, as closely as its groups allow.
    """
    rng = np.random.default_rng(seed)
    group_N = phash.groups(len(pictures), phash.near_pairs(pictures.images_NHWC, GROUP_BITS))
    members = {group: np.flatnonzero(group_N == group) for group in rng.permutation(np.unique(group_N))}
    sides: dict[str, list[int]] = {name: [] for name in SHARES}
    counts: dict[tuple[str, str, int], int] = {}
    for rows in sorted(members.values(), key=len, reverse=True):  # large groups first, while every side has room for them
        first = rows[0]
        kind = (pictures.sources[first], int(pictures.classes_N[first]))
        # The side that lacks most of its share of this kind.
        side = min(SHARES, key=lambda name: counts.get((name, *kind), 0) / SHARES[name])
        counts[side, *kind] = counts.get((side, *kind), 0) + len(rows)
        sides[side] += rows.tolist()
    train, val, test = (pictures.select(np.array(sorted(own), int)) for own in sides.values())
    for name, part in (("train", train), ("val", val), ("test", test)):
        _need_both_classes(part, f"the {name} split")
    return Splits(replace(train, unreadable=pictures.unreadable), val, test)


def without_source(splits: Splits, source: str) -> Splits:
    """Learns and chooses without one source; the test is all pictures of that source."""
    held = [part.select(np.array([s == source for s in part.sources])) for part in (splits.train, splits.val, splits.test)]
    kept = [part.select(np.array([s != source for s in part.sources])) for part in (splits.train, splits.val)]
    if not any(len(part) for part in held):
        raise Rejected(Reason.BAD_SETTING, f"source {source!r}: no such source; there are {', '.join(splits.counts)}")
    for part in kept:
        _need_both_classes(part, f"what is left without source {source!r}")
    return Splits(kept[0], kept[1], join(held))


def _need_both_classes(pictures: Pictures, what: str) -> None:
    for number, label in enumerate(LABELS):
        if not (pictures.classes_N == number).any():
            raise Rejected(Reason.BAD_INPUT, f"{what} holds no picture of {label}; more pictures are needed")
