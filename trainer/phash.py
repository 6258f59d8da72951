"""Perceptual hashes: which pictures show the same photograph, though their bytes differ; not when one is cut by more than a little, or turned."""

import cv2
import numpy as np
from numpy.typing import NDArray

SAME_BITS = 4
"""Two hashes that differ in at most this many of 64 bits are one photograph: scaled, compressed, lightened, made grey or mirrored."""
_BITS_OF_BYTE = np.array([byte.bit_count() for byte in range(256)], np.uint8)


def hashes(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The DCT hash [N] of each picture: which of its 64 lowest frequencies are above their median (pHash, Zauner 2010)."""
    return np.array([_hash(image) for image in images_NHWC], np.uint64)


def near_pairs(images_NHWC: NDArray[np.uint8], most_bits: int = SAME_BITS) -> list[tuple[int, int, int]]:
    """All pairs (i, j, bits that differ) with i < j that are near each other, as they are or one of them mirrored."""
    plain, mirrored = hashes(images_NHWC), hashes(images_NHWC[:, :, ::-1])
    pairs = []
    for i in range(len(plain) - 1):
        bits = np.minimum(_distance(plain[i], plain[i + 1 :]), _distance(plain[i], mirrored[i + 1 :]))
        pairs += [(i, i + 1 + int(k), int(bits[k])) for k in np.flatnonzero(bits <= most_bits)]
    return pairs


def is_near(images_NHWC: NDArray[np.uint8], others_MHWC: NDArray[np.uint8], most_bits: int = SAME_BITS) -> NDArray[np.bool_]:
    """Which pictures [N] are near one of the others, as it is or mirrored."""
    others = np.concatenate([hashes(others_MHWC), hashes(others_MHWC[:, :, ::-1])])
    return np.array([(_distance(one, others) <= most_bits).any() for one in hashes(images_NHWC)], bool)


def groups(n: int, pairs: list[tuple[int, int, int]]) -> NDArray[np.int64]:
    """A group number [n] for each picture; pictures joined by pairs, also over several steps, have the same."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j, _ in pairs:
        parent[root(j)] = root(i)
    return np.array([root(i) for i in range(n)])


def _hash(image_HWC: NDArray[np.uint8]) -> int:
    gray = cv2.resize(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(gray.astype(np.float32))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _distance(one: np.uint64, many_N: NDArray[np.uint64]) -> NDArray[np.int64]:
    different = np.ascontiguousarray(one ^ many_N).view(np.uint8).reshape(-1, 8)
    bits: NDArray[np.int64] = _BITS_OF_BYTE[different].sum(1, dtype=np.int64)
    return bits
