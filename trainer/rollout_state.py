"""What a rollout is made of: its plan, what is known of each camera, what can happen, and what can be done about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from math import ceil
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from protocol.rollouts import Installed, Kind, UpdateState


class Phase(StrEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    RUNNING = "running"
    SOAKING = "soaking"
    PAUSED = "paused"
    DONE = "done"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


CLOSED = frozenset({Phase.ABORTED, Phase.ROLLED_BACK})


class Fate(StrEnum):
    """What became of the release on one camera."""

    WAITING = "waiting"
    UPDATING = "updating"
    COMMITTED = "committed"
    REJECTED = "rejected"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


BAD = frozenset({Fate.REJECTED, Fate.FAILED, Fate.ROLLED_BACK})

WILDCARDS = frozenset("*?[")
MAX_CAMERAS = 10_000
"""More than so many are not heard: whoever may publish can invent names."""

Asked = Literal["nothing", "hold", "run"]
"""What a camera was asked: nothing, to fetch the model and wait, or to run it."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e8, allow_inf_nan=False)]
Wave = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,5}|(100|[1-9][0-9]?)%)$")]
"""So many cameras, or such a part of all, counted from the first."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Rules(_Frozen):
    """When a rollout goes on, and when it stops."""

    waves: Annotated[tuple[Wave, ...], Field(min_length=1, max_length=20)] = ("1", "10%", "50%", "100%")
    threshold: Share = 0.9
    """A wave is good when so large a share of its answers is `committed`."""
    quorum: Share = 0.9
    """So large a share of a wave must have answered, and still be online after the soak, before the next; the last waits for all."""
    soak_s: Seconds = 300
    """How long a wave is watched after its answers."""
    answer_s: Seconds = 1800
    """No answer in this time is a failure."""
    max_failures: int = Field(default=2, ge=1)
    """After the first wave, so many failures stop the rollout ..."""
    max_failure_share: Share = 0.05
    """... when they are also so large a share of the answers. In the first of several waves any failure does."""

    @field_validator("waves")
    @classmethod
    def _reaches_all(cls, waves: tuple[str, ...]) -> tuple[str, ...]:
        if waves[-1] != "100%":
            raise ValueError("the last wave must be 100%")
        return waves


class Plan(_Frozen):
    """Which release goes to which cameras, by which rules."""

    rollout: str
    kind: Kind
    name: str
    version: str
    digest: str
    counter: int
    select: Annotated[tuple[Annotated[str, Field(min_length=3, max_length=130)], ...], Field(min_length=1, max_length=MAX_CAMERAS)] = ("*/*",)
    """`site/camera` patterns."""
    rules: Rules = Rules()

    def selects(self, camera: str) -> bool:
        """Whether a camera, `site/camera`, belongs to this rollout."""
        _, _, name = camera.partition("/")
        return not self._names.isdisjoint((camera, f"*/{name}")) or any(fnmatchcase(camera, pattern) for pattern in self._patterns)

    @cached_property
    def _names(self) -> frozenset[str]:
        """Names, at one site or at any (`*/door-1`): a way back names each of its cameras, and to try all for each would take seconds."""
        return frozenset(self.select) - frozenset(self._patterns)

    @cached_property
    def _patterns(self) -> tuple[str, ...]:
        return tuple(each for each in self.select if not WILDCARDS.isdisjoint(each.removeprefix("*/")))

    def target(self, wave: int, cameras: int) -> int:
        """How many of so many cameras a wave (from 1) and those before it reach together."""
        return min(cameras, max(_count(wave, cameras) for wave in self.rules.waves[:wave]))


class Camera(_Frozen):
    """What a rollout knows of one camera."""

    fate: Fate = Fate.WAITING
    is_online: bool = False
    """Heard since the coordinator's present connection."""
    left_s: float = 0
    """Since when it could have been heard, and was not, if it is not there; 0: it never was."""
    wave: int = 0
    """In which it was asked to run the release; 0: not yet."""
    attempt: int = 0
    asked: Asked = "nothing"
    is_only_held: bool = False
    """It was asked to fetch the model, and never to run it."""
    has_committed: bool = False
    """It has committed at some time, whatever failed after that. Older journals do not say so of those that are `committed` still."""
    is_told: bool = True
    """Whether the broker has acknowledged what is asked."""
    told_s: float = 0
    """When it first did since the coordinator's present connection."""
    said_s: float = 0
    """When it last did; 0: what is asked now has never been said."""
    has_begun: bool = False
    """It has reported that it is at it."""
    is_excused: bool = False
    """Its failure was seen and let pass by whoever resumed the rollout."""
    reason: str = ""
    detail: str = ""
    boots: tuple[str, ...] = ()
    """Boots heard, the latest last."""
    seq: int = -1
    """Of the latest report."""


class Rollout(_Frozen):
    """The state of a rollout: all that the journal holds of it."""

    v: Literal[1] = 1
    plan: Plan
    phase: Phase = Phase.DRAFT
    reason: str = ""
    is_stopped: bool = False
    """It paused by itself; `reason` says over what."""
    wave: int = 0
    since_s: float = 0
    """When the phase began."""
    is_superseded: bool = False
    """A newer rollout of the kind has asked a camera: this one asks nobody any more."""
    cameras: dict[str, Camera] = {}


@dataclass(frozen=True)
class Event:
    """Something happened, at a time in seconds since 1970."""

    at_s: float


@dataclass(frozen=True)
class Start(Event):
    """Somebody wants it to begin."""


@dataclass(frozen=True)
class Pause(Event):
    """Somebody wants no more cameras to be asked; those that were asked go on."""

    reason: str = "asked for"


@dataclass(frozen=True)
class Resume(Event):
    """Somebody wants it to go on: cameras that failed are asked again. After a stop, they have looked at those that refused or went back."""


@dataclass(frozen=True)
class Abort(Event):
    """Somebody wants it to end here."""

    reason: str = "asked for"


@dataclass(frozen=True)
class RollBack(Event):
    """The cameras that were reached get another release, from another rollout."""

    reason: str = "asked for"


@dataclass(frozen=True)
class Supersede(Event):
    """A newer rollout of the same kind asks its first camera. One that waits for cameras beside a way back ends by it."""

    by: str


@dataclass(frozen=True)
class Connected(Event):
    """The coordinator is at the broker, anew: who is online is not known, and answers may have been missed."""


@dataclass(frozen=True)
class ClockSet(Event):
    """The coordinator's clock was set, forward or back: what happened before happened at other times than it seemed."""

    by_s: float


@dataclass(frozen=True)
class Heard(Event):
    """A camera is there, or has left."""

    camera: str
    is_online: bool = True


@dataclass(frozen=True)
class Known(Event):
    """A broker keeps that a camera was there: it may be, or may have lost its power while the broker was away. If it is, it says so when asked."""

    camera: str


@dataclass(frozen=True)
class Forgotten(Event):
    """Somebody has emptied what a broker keeps of a camera: it was removed."""

    camera: str


@dataclass(frozen=True)
class Told(Event):
    """The broker has acknowledged what a camera was asked."""

    camera: str
    attempt: int
    asked: Asked


@dataclass(frozen=True)
class Answered(Event):
    """A camera has reported."""

    camera: str
    rollout: str
    attempt: int
    digest: str
    state: UpdateState
    boot: str
    seq: int
    reason: str = ""
    detail: str = ""
    installed: Mapping[Kind, Installed] = field(default_factory=dict)
    """What it runs."""
    is_retained: bool = False
    """Said at some time before we listened; a broker that crashed may give back what it held before the latest."""


@dataclass(frozen=True)
class Unreadable(Event):
    """A camera has reported something that cannot be read."""

    camera: str
    detail: str


@dataclass(frozen=True)
class Tick(Event):
    """Time has passed."""


@dataclass(frozen=True)
class Tell:
    """Write what a camera is asked to its desired state; then `Told`."""

    camera: str
    attempt: int
    asked: Asked


@dataclass(frozen=True)
class Note:
    """Write a line for the record."""

    event: str
    camera: str = ""
    text: str = ""


Action = Tell | Note


def _count(wave: str, cameras: int) -> int:
    return ceil(int(wave[:-1]) * cameras / 100) if wave.endswith("%") else int(wave)
