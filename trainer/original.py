"""The original Jetson Nano study's figures, to stand beside ours. Its counts are reproduced exactly; its times are a Nano's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Original:
    """One model of the study, as reported there."""

    params: int
    macs: int
    size_mb: float | None
    distillation_ms: float | None
    """Mean of 100 runs in the distillation notebook."""
    pruning_ms: float | None
    """Mean of 100 runs in the pruning notebook."""


ORIGINAL = {
    "teacher": Original(93_954, 168_853_888, 0.36, 72.48, 25.71),
    "medium": Original(53_186, 98_328_864, None, None, None),
    "small": Original(6_210, 13_901_920, None, 20.76, None),
    "pruned30": Original(45_195, 84_056_587, 0.17, None, 15.77),
    "pruned50": Original(23_938, 46_678_208, 0.09, None, 12.19),
    "pruned70": Original(8_556, 18_005_618, 0.03, None, 8.98),
}
