"""Which face is which, from frame to frame: by where it was, and where it was going. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_agent.scene import Box

SPEED_S = 0.3
"""A face's speed is that of its last movements, each of which counts less the longer it is ago: to 1/e after so long."""
FORESEEN_S = 1.0
"""Nobody is foreseen further ahead than this: people turn round."""
SLOWEST = 0.5
"""Below so many faces per second it is the detector's boxes that move, and not the face."""
GATE, WIDEST_GATE, GATE_PER_S = 1.0, 2.0, 7.0
"""How far apart, in faces, two boxes of one face may be: far enough for whoever runs past a camera of a few frames per second."""
WIDE_FOR_S = 0.6
"""A face that was lost for longer is looked for no further away: who appears there is more likely somebody else."""


@dataclass(frozen=True)
class Place:
    """Where a face was seen last, and how it was moving."""

    box: Box
    seen_s: float
    speed_px_s: tuple[float, float] = (0.0, 0.0)

    def next(self, box: Box, now_s: float) -> "Place":
        """Where it is now."""
        passed_s = now_s - self.seen_s
        if passed_s <= 0:
            return replace(self, box=box)
        share = 1 - math.exp(-passed_s / SPEED_S)
        steps = (after - before for before, after in zip(self.box.centre, box.centre, strict=True))
        x, y = (speed + share * (step / passed_s - speed) for speed, step in zip(self.speed_px_s, steps, strict=True))
        return Place(box, now_s, (x, y))

    def foreseen(self, now_s: float) -> Box:
        """Where it should be, if it goes on as it did."""
        ahead_s = min(now_s - self.seen_s, FORESEEN_S)
        x, y = self.speed_px_s
        if math.hypot(x, y) < SLOWEST * self.box.size:
            return self.box
        return replace(self.box, x=self.box.x + x * ahead_s, y=self.box.y + y * ahead_s)


def match(places: Sequence[Place], boxes: Sequence[Box], now_s: float) -> dict[int, int]:
    """Index of a place -> index of the box that shows its face now; each is used once.

    Whoever is where they should be is found first: people who cross must not be exchanged. Then those who are near where they were,
    having turned or been half hidden; then those who went further than a face between two frames of a slow camera.
    """
    matches: dict[int, int] = {}
    last = [place.box for place in places]
    _pair(matches, [place.foreseen(now_s) for place in places], boxes, [GATE] * len(places))
    _pair(matches, last, boxes, [GATE] * len(places))
    _pair(matches, last, boxes, [_gate(now_s - place.seen_s) for place in places])
    return matches


def _gate(passed_s: float) -> float:
    return min(WIDEST_GATE, max(GATE, GATE_PER_S * passed_s)) if passed_s <= WIDE_FOR_S else GATE


def _pair(matches: dict[int, int], faces: Sequence[Box], boxes: Sequence[Box], gates: Sequence[float]) -> None:
    """Adds the pairs of those that are left, the closest first, that are nearer than the face's gate."""
    taken = set(matches.values())
    left = [b for b in range(len(boxes)) if b not in taken]
    gaps = ((distance(faces[p], boxes[b]) / gates[p], p, b) for p in range(len(faces)) if p not in matches for b in left)
    for _, p, b in sorted(pair for pair in gaps if pair[0] < 1):
        if p not in matches and b not in taken:
            matches[p] = b
            taken.add(b)


def distance(a: Box, b: Box) -> float:
    """Of the centres in units of the face's size, with a penalty for another size: 0 for the same box.

    It also holds at low frame rates, where boxes of one face no longer overlap.
    """
    (ax, ay), (bx, by) = a.centre, b.centre
    size = (a.size + b.size) / 2
    moved = math.hypot(ax - bx, ay - by) / size if size > 0 else math.inf
    grown = abs(math.log(a.size / b.size)) if a.size > 0 and b.size > 0 else math.inf
    return moved + grown / 2
