"""What a new model must hold to, as figures: pure, and the same for a real camera and a simulated one."""

from pydantic import BaseModel, ConfigDict, Field

from protocol.errors import Reason, Rejected
from protocol.rollouts import Trial


class Gate(BaseModel):
    """Bounds of a trial."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fps_share: float = Field(default=0.8, ge=0, le=1)
    """The frame rate must stay above this share of what it was."""
    latency_ratio: float = Field(default=1.25, ge=1)
    """The 95th percentile of a frame's time must stay below this multiple of what it was."""
    latency_slack_ms: float = Field(default=5.0, ge=0)
    """A difference below this is no difference: other programs make as much."""
    disagreement: float = Field(default=0.3, ge=0, le=1)
    """The two models may see at most this share of the faces differently."""
    judged_faces: int = Field(default=20, ge=1)
    """Fewer faces than this say nothing about disagreement."""


def judge(trial: Trial, gate: Gate) -> None:
    """Raises Rejected when the figures are not good enough; a figure that is missing judges nothing."""
    if trial.faces >= gate.judged_faces and trial.disagreed > gate.disagreement * trial.faces:
        raise Rejected(Reason.DISAGREES, f"the old and the new model differ on {trial.disagreed} of {trial.faces} faces")
    if trial.fps is not None and trial.fps_before is not None:
        least_fps = gate.fps_share * trial.fps_before * _given(trial)
        if not trial.fps >= least_fps:
            raise Rejected(Reason.TOO_SLOW, f"{trial.fps:.1f} fps, before {trial.fps_before:.1f}, at least {least_fps:.1f}")
    before_ms, now_ms = trial.latency_p95_before_ms, trial.latency_p95_ms
    if now_ms is not None and before_ms is not None:
        most_ms = max(gate.latency_ratio * before_ms, before_ms + gate.latency_slack_ms)
        if not now_ms <= most_ms:
            raise Rejected(Reason.TOO_SLOW, f"p95 of a frame {now_ms:.1f} ms, before {before_ms:.1f}, at most {most_ms:.1f}")


def _given(trial: Trial) -> float:
    """What the camera gave, as a share of what it gave before, at most 1: a camera that gives less is not the model's fault."""
    if trial.fps_capture is None or not trial.fps_capture_before:
        return 1.0
    return min(1.0, trial.fps_capture / trial.fps_capture_before)
