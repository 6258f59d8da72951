"""What an update is made of: the state that the journal holds, what can happen, and what can be done about it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from protocol.errors import Reason
from protocol.rollouts import Kind, Trial, UpdateState
from protocol.signature import Signature

MAX_BAD = 64
"""So many releases that failed are remembered."""

Slot = Literal["a", "b"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Release(_Frozen):
    """A model that worked."""

    digest: str
    fingerprint: str = ""
    """Of its manifest; empty where the settings name a file without one."""
    name: str
    version: str
    counter: int = 0
    slot: Slot | None = None
    """None: the one that ships with the package."""


class Target(_Frozen):
    """A release that was asked for, and that its signature and date allow."""

    kind: Kind
    digest: str
    fingerprint: str
    name: str
    version: str
    counter: int
    manifest: str
    """The bytes of its manifest, in base64."""
    signature: Signature | None = None
    """What allows it, for as long as its key is trusted."""


class State(_Frozen):
    """All that must survive a power cut."""

    v: Literal[1] = 1
    state: UpdateState = UpdateState.IDLE
    classifier: Release
    detector: Release
    asked: str = ""
    """Digest of the desired state that this answers: the same one may arrive at each connection."""
    rollout: str = ""
    attempt: int = 0
    hold: bool = False
    """Whether the target is only to be fetched, for now."""
    target: Target | None = None
    slot: Slot | None = None
    """Where the target is kept."""
    restarts: int = 0
    """Since the target came to be tried."""
    reason: Reason | None = None
    detail: str = ""
    trial: Trial | None = None
    bad: tuple[str, ...] = Field(default=(), max_length=MAX_BAD)
    """Fingerprints of releases that failed here; the latest last."""
    good: tuple[str, ...] = Field(default=(), max_length=MAX_BAD)
    """Fingerprints of releases that were committed here; the latest last."""

    def installed(self, kind: Kind) -> Release:
        """The model of a kind that is known to work."""
        return self.classifier if kind == "classifier" else self.detector

    @property
    def is_way_back(self) -> bool:
        """Whether the target worked here before. It is not held against it that the model in use differs: that may be what is wrong."""
        return self.target is not None and self.target.fingerprint in self.good

    @property
    def is_trying(self) -> bool:
        """Whether the target decides, on trial."""
        return self.state is UpdateState.TRIAL


class Action(StrEnum):
    """What entering a state asks for."""

    CHECK = "check"
    """Parse and verify what was asked for: Accepted or Refused."""
    FETCH = "fetch"
    """Get the chunks that are not on disk: Done or Failed."""
    VERIFY = "verify"
    """Prove the model's digest: Done or Failed."""
    TEST = "test"
    """Golden answers and latency, in a child process: Done or Failed."""
    SHADOW = "shadow"
    """Both models on the same faces; the old one decides: Done with figures, or Failed."""
    TRY = "try"
    """Swap, and watch: Done with figures, or Failed."""
    SETTLE = "settle"
    """Let the old model go: no event."""
    RESTORE = "restore"
    """Swap back: no event."""


@dataclass(frozen=True)
class Asked:
    """Another desired state has arrived."""

    asked: str
    rollout: str
    attempt: int
    hold: bool = False


@dataclass(frozen=True)
class Withdrawn:
    """Nothing is asked for any more; what is installed stays."""

    asked: str = ""
    rollout: str = ""
    attempt: int = 0


@dataclass(frozen=True)
class Accepted:
    """What was asked for is signed by a trusted key, in date, and for this agent."""

    target: Target
    is_on_disk: bool


@dataclass(frozen=True)
class Refused:
    """It is not."""

    reason: Reason
    detail: str
    target: Target | None = None


@dataclass(frozen=True)
class Done:
    """The action succeeded."""

    trial: Trial | None = None


@dataclass(frozen=True)
class Failed:
    """The action failed."""

    reason: Reason
    detail: str
    trial: Trial | None = None


@dataclass(frozen=True)
class Started:
    """The agent has started, and finds this state in its journal."""


@dataclass(frozen=True)
class Lost:
    """The installed model of a kind cannot be loaded any more, or has failed; the one that ships takes its place."""

    kind: Kind
    shipped: Release
    reason: Reason | None = None
    """Of a failure: the release is not to come again."""
    detail: str = ""


Event = Asked | Withdrawn | Accepted | Refused | Done | Failed | Started | Lost
EVENTS: tuple[type[Event], ...] = get_args(Event)
