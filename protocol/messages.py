"""What is said: frozen messages, each bound to its topic.

JSON carries `v: 1`; fields that are not known are ignored, so an older reader understands a newer writer. Units stand
in the names. Order is by (`boot`, `seq`) and never by wall clock: a camera without a clock battery starts in 1970.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from protocol import topics
from protocol.errors import Reason, Rejected, one_line
from protocol.topics import Topic

MAX_PAYLOAD_BYTES = 20_000
"""Broker clients cut what they show here; a larger message is refused unparsed. It is in memory by then: the broker's limit bounds that."""

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
MAX_TEXT = 500
"""Longer texts are cut before they are said."""
Text = Annotated[str, Field(max_length=MAX_TEXT)]
MAX_ID = 64
CommandId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]


class Message(BaseModel):
    """Anything that can be sent: what its topic is, and how it becomes bytes and comes back from them."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, ser_json_inf_nan="null")

    topic: ClassVar[Topic]
    max_bytes: ClassVar[int] = MAX_PAYLOAD_BYTES

    def encode(self) -> bytes:
        """The payload."""
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """The message in a payload; raises Rejected for anything else, whatever the bytes are."""
        if len(payload) > cls.max_bytes:
            raise Rejected(Reason.TOO_LARGE, f"{cls.topic.leaf}: {len(payload)} bytes, at most {cls.max_bytes}")
        try:
            return cls._parse(payload)
        except ValidationError as error:
            raise Rejected(Reason.BAD_PAYLOAD, f"{cls.topic.leaf}: {one_line(error)}") from None

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        return cls.model_validate_json(payload)


class RawMessage(Message):
    """A message as bytes, for whoever must also hear of what cannot be read."""

    payload: bytes

    def encode(self) -> bytes:
        return self.payload

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        return cls(payload=payload)


class PlainMessage(Message):
    """A message whose payload is one bare word, so that any MQTT client can use it as it is."""

    value: str

    def encode(self) -> bytes:
        return self.value.encode()

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        return cls.model_validate({"value": payload.decode(errors="replace")})


class Status(PlainMessage):
    """Whether the camera's agent is connected; its last will says `offline`."""

    topic = topics.STATUS
    value: Literal["online", "offline"]


class NoMask(PlainMessage):
    """`ON` while at least one incident is open."""

    topic = topics.NO_MASK
    value: Literal["ON", "OFF"]


class Model(BaseModel):
    """A model in use."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: Text
    version: Text
    digest: Text
    """SHA-256 of the model file, in hex; empty for a detector that is not a file."""


class Birth(Message):
    """What a camera is, said each time it connects."""

    topic = topics.BIRTH
    v: Literal[1] = 1
    boot: Text
    """Changes at each start of the agent."""
    session: Count
    """Counts the connections since the agent started."""
    agent_version: Text
    python_version: Text
    classifier: Model
    detector: Model
    camera_asked: Text
    """The camera URI of the settings, without any password."""
    camera_got: Text
    """What the camera gives: size and rate."""


class Health(Message):
    """How the camera is, said on each change and every minute."""

    topic = topics.HEALTH
    v: Literal[1] = 1
    boot: Text
    capture: Literal["ok", "stalled", "restarting", "failed"]
    reason: Text = ""
    """Why capture is not `ok`."""
    last_frame_age_s: Seconds | None
    """None before the first frame."""
    detecting: bool = True
    """False while detection was switched off by a command."""
    restarts: Count
    """How often capture was restarted since the agent started."""
    outbox: Count
    """Alerts and incidents that the broker has not acknowledged yet."""
    lost: Count
    """Alerts and incidents dropped since the agent started: too many, too large or too old for the outbox."""


class Telemetry(Message):
    """Figures since the last telemetry message: flat, so that a broker client can plot each. Not kept while the broker is away."""

    topic = topics.TELEMETRY
    v: Literal[1] = 1
    boot: Text
    fps_capture: float
    """Frames per second that the camera gave."""
    fps_processed: float
    """Frames per second that went through detection, classification and decision."""
    frames_dropped: Count
    """Frames that a newer one replaced before they were processed."""
    latency_p50_ms: Milliseconds | None
    """From capture to decision; None when no frame was processed."""
    latency_p95_ms: Milliseconds | None
    detect_ms: Milliseconds | None
    """Mean per frame."""
    classify_ms: Milliseconds | None
    """Mean per frame, all faces of the frame together."""
    faces: float
    """Mean number of faces in a frame."""
    temperature_c: float | None
    """Of the hottest thermal zone, not counting a Jetson's `PMIC-Die`, which always says 100; None where the machine tells none."""
    power_mode: Text | None = None
    """Of a Jetson or of ACPI, such as `MAXN`; None where the machine has none."""
    memory_mb: float
    """Resident memory of the agent."""
    outbox: Count
    model: Text
    """Name and version of the classifier."""


class Alert(Message):
    """Somebody wears no mask: one message for each incident, when it is confirmed."""

    topic = topics.ALERT
    v: Literal[1] = 1
    event_type: Literal["no_mask"] = "no_mask"
    id: Text
    """The same in the alert, its repetitions, and the incident that ends it."""
    boot: Text
    seq: Count
    """Rises with each incident of a boot."""
    started: AwareDatetime
    """When the face was first seen bare, by the camera's clock."""
    p_no_mask: Probability
    """Mean over the votes for `without_mask`."""
    votes: Text
    """Votes for `without_mask` out of votes cast, such as `5/6`."""
    faces: Count
    """Faces in the frame that confirmed the incident."""
    model: Text
    replayed: bool = False
    """True when the alert could not be delivered at its time."""
    delay_s: Seconds | None = 0
    """From confirmation to this delivery; None when the machine was restarted in between."""


class IncidentEnded(Message):
    """An incident is over; `id` is the alert's."""

    topic = topics.INCIDENT
    v: Literal[1] = 1
    id: Text
    boot: Text
    seq: Count
    started: AwareDatetime
    duration_s: Seconds | None
    """None when the agent was killed: nobody knows."""
    worst_p_no_mask: Probability
    frames: Count
    """Frames in which the face was read while the incident was open."""
    ended: Literal["mask_on", "left", "stopped", "restarted"]
    """Why it ended: a mask was put on, the face left the picture, the agent or its detection was stopped, or it was killed and has started again."""
    replayed: bool = False
    delay_s: Seconds | None = 0


class Snapshot(Message):
    """One JPEG picture, with the faces of others blurred. Only where the camera's settings switch snapshots on.

    It comes with each alert, under the alert's id, or is asked for by a command, under the command's id.
    """

    topic = topics.SNAPSHOT
    max_bytes = 60_000
    jpeg: bytes

    def encode(self) -> bytes:
        return self.jpeg

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        return cls(jpeg=payload)


class Command(Message):
    """Asks one camera for something; answered on `command/ack` with the same id. Retained and expired commands are ignored.
    One that cannot be read is refused there too, with the reason, where it is JSON with an `id`: a number as text,
    the first 64 characters of a longer one.

    Operations: `report` (say birth, health and state again), `restart_capture`, `detect` with `{"on": true}` or `{"on": false}` (which
    lasts until the agent ends: one that starts detects), and `snapshot` (a picture, every face in it blurred, where the settings allow it;
    none comes when the camera gives no frame for some seconds, or detection is switched off).
    """

    topic = topics.COMMAND
    v: Literal[1] = 1
    id: CommandId
    """A text of 1 to 64 characters, chosen by the sender, anew for each: what comes again is answered again and not done again, another command
    under the same id is refused."""
    op: Text
    args: dict[str, bool | int | float | Text] = {}
    expires: AwareDatetime | None = None


class CommandAck(Message):
    """The answer to a command."""

    topic = topics.COMMAND_ACK
    v: Literal[1] = 1
    id: Text
    ok: bool
    reason: Text = ""
    """Why it was not done."""


class Discovery(Message):
    """How Home Assistant shows a camera (MQTT device discovery); an empty payload removes it.

    Two cameras whose names run together alike with `_` (`a_b`/`c` and `a`/`b_c`) are one there.
    """

    topic = topics.DISCOVERY
    document: dict[str, JsonValue] | None

    def encode(self) -> bytes:
        return b"" if self.document is None else json.dumps(self.document, separators=(",", ":")).encode()

    @classmethod
    def _parse(cls, payload: bytes) -> Self:
        return cls(document=TypeAdapter(dict[str, JsonValue]).validate_json(payload) if payload else None)


MESSAGES: tuple[type[Message], ...] = (Status, Birth, Health, Telemetry, Alert, IncidentEnded, NoMask, Snapshot, Command, CommandAck, Discovery)


def utc(timestamp_s: float) -> datetime:
    """Seconds since 1970 as the aware time that messages carry."""
    return datetime.fromtimestamp(timestamp_s, UTC)
