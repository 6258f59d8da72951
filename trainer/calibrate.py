"""How much to believe a model: its temperature, its threshold, and the band in which it is unsure."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COST_OF_MISS = 5.0
"""A missed bare face costs as much as this many false alarms."""
MASKED_PER_BARE = 2.0
"""Where masks are asked for, most faces wear one; networks are taught and calibrated as if as many were bare."""
UNSURE_HALF_LOGIT = 0.8
"""Half the width of the unsure band around the threshold, in log-odds."""
TEMPERATURES = (0.05, 20.0)
"""The least and the most: a network that wants another has learned next to nothing, or the classes the wrong way round."""
DOUBT = 0.1
"""So much of a picture of each class counts as one more error: a network without any would be infinitely sure. Platt (1999) takes a whole one;
a tenth hardly moves the temperature of a network that errs."""


def temperature(logits_N2: Tensor, classes_N: NDArray[np.int64]) -> float:
    """The divisor of the logits that makes their probabilities fit the classes best (Guo et al., 2017); one of TEMPERATURES at the ends.

    Each class counts as much as the other, however many pictures it has.
    """
    margins_N = (logits_N2[:, 1] - logits_N2[:, 0]).detach().double()
    is_second_N = torch.from_numpy(classes_N == 1)
    counts_N = torch.where(is_second_N, is_second_N.sum(), (~is_second_N).sum())
    targets_N = (DOUBT + counts_N * is_second_N) / (counts_N + 2 * DOUBT)
    weights_N = len(counts_N) / 2 / counts_N
    low, high = TEMPERATURES
    for _ in range(40):  # the cross-entropy is convex in 1 / T: where its slope changes sign, it is least
        middle = math.sqrt(low * high)
        slope = (weights_N * margins_N * ((margins_N / middle).sigmoid() - targets_N)).sum()
        low, high = (low, middle) if slope < 0 else (middle, high)
    return high


def threshold(cost_of_miss: float = COST_OF_MISS, masked_per_bare: float = MASKED_PER_BARE) -> float:
    """The p(without_mask), both classes being as likely, from which on an alarm costs less than silence at such a door.

    It follows from calibrated probabilities alone. Searched for on a few hundred pictures, it would follow from the few
    that the network errs on.
    """
    return round(1 / (1 + cost_of_miss / masked_per_bare), 3)


def unsure_band(at: float) -> tuple[float, float]:
    """The probabilities around a threshold between which a reading is no vote."""
    logit = np.log(at / (1 - at))
    low, high = (1 / (1 + np.exp(-(logit + shift))) for shift in (-UNSURE_HALF_LOGIT, UNSURE_HALF_LOGIT))
    return round(float(low), 3), round(float(high), 3)
