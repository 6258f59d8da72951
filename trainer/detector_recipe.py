"""How a detector is to be trained."""

from dataclasses import dataclass

TIMES_FALSE = 1.5
"""The threshold lets through so many times the teacher's false positives: a bare face that is missed is a missed alarm, and many of
what counts as false are faces that the annotators left out."""


@dataclass(frozen=True)
class DetectorRecipe:
    """How to train; with the same seed, data and thread count the result is the same to the bit."""

    size: str = "medium"
    steps: int = 16_000
    batch: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    ema_share: float = 0.03
    """Horizon of the weights' moving average, as a share of the steps."""
    plain_share: float = 0.2
    """The last part of the steps, in which scenes are plain, mostly views of frames: the network ends on what cameras see."""
    taught_share: float = 0.5
    """Share of a batch's scenes that are learned from the teacher's scores and boxes at every place instead of from annotated boxes."""
    large_share: float = 0.25
    """Share of the steps whose scenes have twice the side, and are a quarter as many: for faces that are larger than the others hold."""
    holds_out: bool = True
    """Whether frames are held out to choose the threshold on. Without, for a last training by a recipe that those have judged before, they
    are trained on as well, and the threshold is that of the release it starts from."""
    start: str = ""
    """Digest of the exported detector whose weights, and mistakes, the training starts from; empty: random weights."""
    teacher: str = ""
    """Digest of the detector that labels and teaches."""
    seed: int = 0
