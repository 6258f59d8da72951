"""What is said while a model is rolled out: what a camera should run, what it runs, chunks, and how the rollout goes."""

import base64
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from protocol import topics
from protocol.errors import Reason, Rejected
from protocol.messages import CommandId, Count, Message, Milliseconds, Model, PlainMessage, Text
from protocol.release import MAX_CHUNK_BYTES
from protocol.signature import Signature

MAX_RETAINED_BYTES = 8192
"""What every broker keeps; a release whose manifest does not fit into it is refused when it is signed."""
MAX_WISHES = 1000

Kind = Literal["classifier", "detector"]


class UpdateState(StrEnum):
    """Where a camera's update stands."""

    IDLE = "idle"
    CHECKING = "checking"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    HELD = "held"
    TESTING = "testing"
    SHADOW = "shadow"
    TRIAL = "trial"
    COMMITTED = "committed"
    REJECTED = "rejected"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


ENDED = frozenset({UpdateState.COMMITTED, UpdateState.REJECTED, UpdateState.FAILED, UpdateState.ROLLED_BACK})
"""States that answer a rollout."""


class Desired(Message):
    """Which release a camera should run. Without a manifest it asks for nothing: what was begun is left, what is installed stays.

    One whose manifest would make it larger than 8 KiB cannot be made: brokers differ in what they retain.
    """

    topic = topics.DESIRED
    max_bytes = MAX_RETAINED_BYTES
    v: Literal[1] = 1
    rollout: Annotated[str, Field(max_length=64)] = ""
    attempt: Count = 0
    """Rises when the coordinator asks again."""
    hold: bool = False
    """Fetch the model and wait: it is to be tried when this is false. So one broadcast of the chunks serves all waves."""
    manifest: Annotated[str, Field(max_length=MAX_RETAINED_BYTES)] = ""
    """The bytes of manifest.json, in base64."""
    signature: Signature | None = None
    """What stands in manifest.sig."""

    @classmethod
    def of(cls, rollout: str, attempt: int, manifest: bytes, signature: Signature | None, hold: bool = False) -> Self:
        """Asks for a release, by the bytes of its manifest; raises Rejected when they do not fit."""
        encoded = base64.b64encode(manifest).decode()
        if len(encoded) < MAX_RETAINED_BYTES:
            desired = cls(rollout=rollout, attempt=attempt, hold=hold, manifest=encoded, signature=signature)
            if len(desired.encode()) <= MAX_RETAINED_BYTES:
                return desired
        raise Rejected(
            Reason.TOO_LARGE,
            f"manifest: {len(manifest)} bytes are too many for a retained message of {MAX_RETAINED_BYTES};"
            " sign with larger chunks, or shorten golden answers and scores",
        )

    @property
    def manifest_bytes(self) -> bytes:
        """manifest.json as it was signed; empty when nothing is asked for. Raises Rejected."""
        try:
            return base64.b64decode(self.manifest, validate=True)
        except ValueError:  # binascii.Error is one, and text that is not ASCII raises another
            raise Rejected(Reason.BAD_RELEASE, "manifest: not base64") from None

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        """An empty payload is what remains of a retained message that was deleted."""
        return cls.model_validate_json(payload) if payload else cls()


class Trial(BaseModel):
    """What a trial measured, beside what the old model did just before it."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    frames: Count
    faces: Count
    """Faces that both models saw in the shadow phase."""
    disagreed: Count
    """Those of them that the two labelled differently."""
    fps: float | None = None
    """Frames per second that were processed."""
    fps_before: float | None = None
    fps_capture: float | None = None
    """Frames per second that the camera gave."""
    fps_capture_before: float | None = None
    latency_p95_ms: Milliseconds | None = None
    """Of detection, classification and decision of a frame."""
    latency_p95_before_ms: Milliseconds | None = None


class Installed(Model):
    """The model of one kind that is in use."""

    counter: Count = 0
    """Of the release that it came with; 0 for one that was never signed."""


class Reported(Message):
    """What a camera runs and how its update goes; the first four fields have the shape of Home Assistant's update entity."""

    topic = topics.REPORTED
    v: Literal[1] = 1
    installed_version: Text
    """Name and version of the model in use, of the kind that was last asked for."""
    latest_version: Text
    """Name and version of what was last asked for; the installed one when nothing was, or when it was refused."""
    in_progress: bool = False
    update_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    """How much of the model is on disk, while it is being fetched."""
    boot: Text
    seq: Count
    """Rises with each message of a boot."""
    rollout: Text = ""
    """Of the desired state that this answers, with its attempt and digest."""
    attempt: Count = 0
    kind: Kind | None = None
    digest: Text = ""
    counter: Count = 0
    state: UpdateState = UpdateState.IDLE
    reason: Text = ""
    """Why it was refused, failed or rolled back, in one word."""
    detail: Text = ""
    """The same in a sentence."""
    trial: Trial | None = None
    classifier: Installed
    detector: Installed


class Want(Message):
    """A camera asks for the chunks of a model that it lacks."""

    topic = topics.WANT
    v: Literal[1] = 1
    site: Text
    camera: Text
    chunks: Annotated[tuple[Annotated[int, Field(ge=0, le=9999)], ...], Field(min_length=1, max_length=MAX_WISHES)]


class Chunk(Message):
    """One chunk of a model, or a part of one: raw bytes, proven by the manifest. `<piece>` is `5`, or `5-0-2` for part 0 of 2."""

    topic = topics.CHUNK
    max_bytes = MAX_CHUNK_BYTES
    data: bytes

    def encode(self) -> bytes:
        return self.data

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        return cls(data=payload)


class Report(Message):
    """Asks all cameras to say their retained state again; each does within 5 seconds, at random. The payload may be empty."""

    topic = topics.REPORT
    v: Literal[1] = 1

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        return cls.model_validate_json(payload) if payload else cls()


class Failure(BaseModel):
    """What became of a release on one camera, and why."""

    model_config = ConfigDict(frozen=True)

    camera: Text
    """`site/camera`."""
    fate: Literal["rejected", "failed", "rolled_back"]
    reason: Text


class RolloutState(Message):
    """How a rollout stands."""

    topic = topics.ROLLOUT_STATE
    v: Literal[1] = 1
    epoch: Count
    """Rises with each start of a coordinator; order is by (`epoch`, `seq`)."""
    seq: Count
    phase: Literal["draft", "running", "soaking", "paused", "done", "aborted", "rolled_back"]
    reason: Text = ""
    kind: Kind
    name: Text
    version: Text
    digest: Text
    counter: Count
    wave: Count
    """From 1; 0 before the first."""
    waves: Count
    cameras: Count
    waiting: Count
    updating: Count
    committed: Count
    rejected: Count
    failed: Count
    rolled_back: Count
    offline: Count
    failures: tuple[Failure, ...] = ()
    """Of 16 cameras at most, those first that nobody has let pass."""
    updated: AwareDatetime


class RolloutLog(Message):
    """One step of a rollout, for the record."""

    topic = topics.ROLLOUT_LOG
    v: Literal[1] = 1
    epoch: Count
    seq: Count
    at: AwareDatetime
    event: Text
    camera: Text = ""
    """`site/camera`, where it is about one."""
    text: Text = ""


class RolloutCommand(Message):
    """Asks the coordinator for something; answered on `rollout/command/ack` with the same id. Retained commands are ignored.
    One that has expired is refused there, with the reason; so is one that cannot be read, where it is JSON with an `id`: a number as text,
    the first 64 characters of a longer one.

    Operations: `start` with args `release` (a release on the coordinator's shelf), `select` (`site/camera` patterns) and any rules
    (`waves`, `threshold`, `quorum`, `soak_s`, `answer_s`, `max_failures`, `max_failure_share`); `pause`, `resume` and `abort`, with
    `reason`; `rollback` with `release`, which is the old model with a higher counter; `status`, which has every state said again.
    """

    topic = topics.ROLLOUT_COMMAND
    max_bytes = 60_000  # some thousands of names; brokers are told to take 65,536
    v: Literal[1] = 1
    id: CommandId
    """A text of 1 to 64 characters, chosen by the sender, anew for each: what comes again is answered again and not done again, another command
    under the same id is refused."""
    op: Literal["start", "pause", "resume", "abort", "rollback", "status"]
    rollout: Text = ""
    """Which rollout; the one that is under way when empty."""
    args: dict[str, JsonValue] = Field(default={})
    expires: AwareDatetime | None = None


class RolloutAck(Message):
    """The answer to a rollout command."""

    topic = topics.ROLLOUT_ACK
    v: Literal[1] = 1
    id: Text
    ok: bool
    rollout: Text = ""
    """Which rollout it was about."""
    cameras: Count | None = None
    """How many are in it now, of those that are known; after `start`, 0 means that it waits for one to come."""
    reason: Text = ""
    """Why it was not done."""


class CoordinatorStatus(PlainMessage):
    """Whether the coordinator is connected; its last will says `offline`."""

    topic = topics.COORDINATOR_STATUS
    value: Literal["online", "offline"]


ROLLOUT_MESSAGES: tuple[type[Message], ...] = (
    Desired,
    Reported,
    Want,
    Chunk,
    Report,
    RolloutState,
    RolloutLog,
    RolloutCommand,
    RolloutAck,
    CoordinatorStatus,
)
