"""How right a model is: accuracy with its interval, recall of each class, calibration, ranking; in all and for each source."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import Pictures
from trainer.models import LABELS

WITHOUT_MASK = LABELS.index("without_mask")
SURE_P = 0.9
"""An agent opens an incident only where the mean p(without_mask) of its bare votes is at least this (its `decide.least_p`)."""
Z_95 = 1.959964


@dataclass(frozen=True)
class Scores:
    """What one set of pictures says about a model."""

    n: int
    accuracy: float
    accuracy_low: float
    """Ends of the 95 % Wilson interval."""
    accuracy_high: float
    recall_with_mask: float | None
    """None where the set holds no such face."""
    recall_without_mask: float | None
    surely_bare_with_mask: float | None
    """Share of the masked faces with a p(without_mask) of at least SURE_P: what could be a false alert."""
    surely_bare_without_mask: float | None
    """The same of the bare faces: those that can be alerted of."""
    ece: float
    """Expected calibration error over 15 equal bins of confidence."""
    auroc: float | None
    """Chance that a bare face gets a higher p_no_mask than a masked one; None with one class only."""
    threshold: float


def score(p_no_mask_N: NDArray[np.float64], classes_N: NDArray[np.int64], threshold: float) -> Scores:
    """Scores of p(without_mask) against the true classes, deciding `without_mask` from `threshold` on."""
    is_bare = classes_N == WITHOUT_MASK
    says_bare = p_no_mask_N >= threshold
    is_right, is_sure = says_bare == is_bare, p_no_mask_N >= SURE_P
    low, high = wilson(int(is_right.sum()), len(is_right))
    return Scores(
        n=len(classes_N),
        accuracy=float(is_right.mean()),
        accuracy_low=low,
        accuracy_high=high,
        recall_with_mask=float(is_right[~is_bare].mean()) if (~is_bare).any() else None,
        recall_without_mask=float(is_right[is_bare].mean()) if is_bare.any() else None,
        surely_bare_with_mask=float(is_sure[~is_bare].mean()) if (~is_bare).any() else None,
        surely_bare_without_mask=float(is_sure[is_bare].mean()) if is_bare.any() else None,
        ece=calibration_error(p_no_mask_N, is_bare),
        auroc=auroc(p_no_mask_N, is_bare),
        threshold=threshold,
    )


def report(p_no_mask_N: NDArray[np.float64], pictures: Pictures, threshold: float) -> dict[str, Any]:
    """Scores of a folder of pictures, and of each of its sources, as a JSON document."""
    by_source = {}
    for source in sorted(set(pictures.sources)):
        rows = np.array([own == source for own in pictures.sources])
        by_source[source] = asdict(score(p_no_mask_N[rows], pictures.classes_N[rows], threshold))
    return {**asdict(score(p_no_mask_N, pictures.classes_N, threshold)), "by_source": by_source, "unreadable": list(pictures.unreadable)}


def named(report: dict[str, Any], whole: str) -> dict[str, dict[str, Any]]:
    """The scores of a report by name: of `whole`, then of each source; one that has that very name is called `source NAME`."""
    return {whole: report, **{f"source {name}" if name == whole else name: row for name, row in report["by_source"].items()}}


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share (E. B. Wilson, 1927)."""
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(p_no_mask_N: NDArray[np.float64], is_bare_N: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over bins of confidence (Guo et al., 2017)."""
    says_bare = p_no_mask_N >= 0.5
    confidence = np.where(says_bare, p_no_mask_N, 1 - p_no_mask_N)
    is_right = says_bare == is_bare_N
    bin_N = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[rows].mean() - is_right[rows].mean()) * rows.mean() for rows in (bin_N == b for b in range(bins)) if rows.any()]
    return float(sum(gaps))


def auroc(p_no_mask_N: NDArray[np.float64], is_bare_N: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, by ranks; equal scores share their rank."""
    positives = int(is_bare_N.sum())
    negatives = len(is_bare_N) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(p_no_mask_N, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[is_bare_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))
