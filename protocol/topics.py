"""Every topic: how it is built and parsed, with which QoS, whether it is retained, and who may write it.

Portable on purpose: MQTT 3.1.1, QoS 0 and 1, at most 7 slashes, and segments that every broker takes as they are
(NATS disconnects on `.` and space, RabbitMQ turns `.` into `/`).
"""

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import Literal

from protocol.errors import Reason, Rejected

SEGMENT = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may stand between two slashes."""
CAMERAS = re.compile(r"[A-Za-z0-9_*?!\[\]-]{1,64}/[A-Za-z0-9_*?!\[\]-]{1,64}")
"""A camera as `site/camera`, or many: with `*`, `?` and `[...]`."""
PIECE = re.compile(r"(0|[1-9]\d{0,3})(-(0|[1-9]\d{0,2})-([1-9]\d{0,2}))?")
SHORT_DIGEST = 32
"""So many hex digits of a model's digest name it in topics."""


class Writer(StrEnum):
    """Who may publish to a topic."""

    CAMERA = "camera"
    CAMERA_AND_WILL = "camera, and its will"
    USER = "user"
    COORDINATOR = "coordinator"
    COORDINATOR_AND_WILL = "coordinator, and its will"


@dataclass(frozen=True)
class Fleet:
    """Names one installation: the `base` of its topics. What lies within it is named by a subclass.

    Raises Rejected when a name is not 1 to 64 of letters, digits, `_` and `-`.
    """

    base: str

    def __post_init__(self) -> None:
        for field in fields(self):
            segment = getattr(self, field.name)
            if not SEGMENT.fullmatch(segment):
                raise Rejected(Reason.BAD_TOPIC, f"{field.name} {segment!r}: use 1 to 64 letters, digits, '_' or '-'")


@dataclass(frozen=True)
class Address(Fleet):
    """Names one camera: `base` of the installation, `site`, and the camera's own name."""

    site: str
    camera: str

    @property
    def name(self) -> str:
        """One word for the camera, which is no other's: a dot is in no part of it."""
        return f"{self.base}.{self.site}.{self.camera}"


@dataclass(frozen=True)
class SnapshotAddress(Address):
    """Names one picture of a camera."""

    snapshot: str

    @classmethod
    def of(cls, camera: Address, snapshot: str) -> "SnapshotAddress":
        """A picture's address at a camera; raises Rejected when the name cannot stand in a topic."""
        return cls(camera.base, camera.site, camera.camera, snapshot)


@dataclass(frozen=True)
class RolloutAddress(Fleet):
    """Names one rollout."""

    rollout: str


@dataclass(frozen=True)
class ReleaseAddress(Fleet):
    """Names the model of one release by the first digits of its digest."""

    release: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(rf"[0-9a-f]{{{SHORT_DIGEST}}}", self.release):
            raise Rejected(Reason.BAD_TOPIC, f"release {self.release!r}: use the first {SHORT_DIGEST} hex digits of its digest")


@dataclass(frozen=True)
class ChunkAddress(ReleaseAddress):
    """Names one chunk of a model by its number, `5`; or a part of one, `5-0-2`: part 0 of the 2 that chunk 5 was cut into."""

    piece: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not PIECE.fullmatch(self.piece):
            raise Rejected(Reason.BAD_TOPIC, f"chunk {self.piece!r}: expected a number, or number-part-parts")


@dataclass(frozen=True)
class Topic:
    """One kind of topic, by its template; `build` and `parse` are inverse."""

    template: str
    """Fields of the address stand in `<>`."""
    qos: Literal[0, 1]
    retained: bool
    writer: Writer = Writer.CAMERA
    address: type[Fleet] = Address

    @cached_property
    def leaf(self) -> str:
        """The last words of the template: what is said there."""
        return [words for words in re.split(r"<\w+>", self.template) if words.strip("/")][-1].strip("/")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"<(\w+)>", r"(?P<\1>[^/]+?)", self.template))

    def build(self, address: Fleet) -> str:
        """The topic of one address; raises TypeError for an address of another kind."""
        if not isinstance(address, self.address):
            raise TypeError(f"{self.template} needs {self.address.__name__}, not {address}")
        return self._fill(address)

    def parse(self, topic: str) -> Fleet:
        """The address that a topic belongs to; raises Rejected when it is not of this kind."""
        found = self._pattern.fullmatch(topic)
        if found is None:
            raise Rejected(Reason.BAD_TOPIC, f"{topic!r}: not of the form {self.template}")
        return self.address(**found.groupdict())

    def filter(self, scope: "Fleet | str") -> str:
        """The subscription that matches this topic of one address, or of all that lie in a scope: a base, or a release for its chunks."""
        return self._fill(Fleet(scope) if isinstance(scope, str) else scope)

    def _fill(self, scope: Fleet) -> str:
        return re.sub(r"<(\w+)>", lambda field: str(getattr(scope, field[1], "+")), self.template)


@dataclass(frozen=True)
class DiscoveryTopic(Topic):
    """Where Home Assistant looks for devices. Names run together in it, so it is only built, never parsed."""

    def parse(self, topic: str) -> Fleet:
        raise Rejected(Reason.BAD_TOPIC, f"{topic!r}: names no single camera")

    def filter(self, scope: Fleet | str) -> str:
        return self.build(scope) if isinstance(scope, Address) else "homeassistant/device/+/config"


CAMERA = "<base>/camera/<site>/<camera>"
RELEASE = "<base>-release/<release>"

STATUS = Topic(f"{CAMERA}/status", qos=1, retained=True, writer=Writer.CAMERA_AND_WILL)
BIRTH = Topic(f"{CAMERA}/birth", qos=1, retained=True)
HEALTH = Topic(f"{CAMERA}/health", qos=1, retained=True)
TELEMETRY = Topic(f"{CAMERA}/telemetry", qos=0, retained=False)
ALERT = Topic(f"{CAMERA}/alert", qos=1, retained=False)
INCIDENT = Topic(f"{CAMERA}/incident", qos=1, retained=False)
NO_MASK = Topic(f"{CAMERA}/no_mask", qos=1, retained=True)
COMMAND = Topic(f"{CAMERA}/command", qos=1, retained=False, writer=Writer.USER)
COMMAND_ACK = Topic(f"{CAMERA}/command/ack", qos=1, retained=False)
SNAPSHOT = Topic(f"{CAMERA}/snapshot/<snapshot>", qos=0, retained=False, address=SnapshotAddress)
DISCOVERY = DiscoveryTopic("homeassistant/device/<base>_<site>_<camera>/config", qos=1, retained=True)

DESIRED = Topic(f"{CAMERA}/model/desired", qos=1, retained=True, writer=Writer.COORDINATOR)
REPORTED = Topic(f"{CAMERA}/model/reported", qos=1, retained=True)
WANT = Topic(f"{RELEASE}/want", qos=1, retained=False, address=ReleaseAddress)
CHUNK = Topic(f"{RELEASE}/chunk/<piece>", qos=1, retained=False, writer=Writer.COORDINATOR, address=ChunkAddress)

REPORT = Topic("<base>/report", qos=1, retained=False, writer=Writer.USER, address=Fleet)
ROLLOUT_STATE = Topic("<base>/rollout/<rollout>/state", qos=1, retained=True, writer=Writer.COORDINATOR, address=RolloutAddress)
ROLLOUT_LOG = Topic("<base>/rollout/<rollout>/log", qos=1, retained=False, writer=Writer.COORDINATOR, address=RolloutAddress)
ROLLOUT_COMMAND = Topic("<base>/rollout/command", qos=1, retained=False, writer=Writer.USER, address=Fleet)
ROLLOUT_ACK = Topic("<base>/rollout/command/ack", qos=1, retained=False, writer=Writer.COORDINATOR, address=Fleet)
COORDINATOR_STATUS = Topic("<base>/coordinator/status", qos=1, retained=True, writer=Writer.COORDINATOR_AND_WILL, address=Fleet)

CAMERA_TOPICS = (STATUS, BIRTH, HEALTH, TELEMETRY, ALERT, INCIDENT, NO_MASK, COMMAND, COMMAND_ACK, DESIRED, REPORTED)
FLEET_TOPICS = (REPORT, ROLLOUT_STATE, ROLLOUT_LOG, ROLLOUT_COMMAND, ROLLOUT_ACK, COORDINATOR_STATUS)
TOPICS = (*CAMERA_TOPICS, SNAPSHOT, WANT, CHUNK, *FLEET_TOPICS)
"""All that can be parsed."""
