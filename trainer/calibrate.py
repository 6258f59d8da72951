"""How much to believe a model: its temperature, its threshold, and the band in which it is unsure."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

COST_OF_MISS = 5.0
"""A missed bare face costs as much as this many false alarms."""
MASKED_PER_BARE = 2.0
"""Where masks are asked for, most faces wear one; networks are trained on as many bare ones."""
UNSURE_HALF_LOGIT = 0.8
"""Half the width of the unsure band around the threshold, in log-odds."""


def temperature(logits_N2: Tensor, classes_N: NDArray[np.int64]) -> float:
    """The divisor of the logits that makes their probabilities fit the classes best (Guo et al., 2017)."""
    log_t = torch.zeros(1, requires_grad=True)
    target = torch.from_numpy(classes_N)
    optimizer = torch.optim.LBFGS([log_t], lr=0.1, max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits_N2.detach() / log_t.exp(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(log_t.exp().detach())


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
