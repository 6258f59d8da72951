"""Every topic: how it is built and parsed, with which QoS, whether it is retained, and who may write it.

Portable on purpose: MQTT 3.1.1, QoS 0 and 1, at most 7 slashes, and segments that every broker takes as they are
(NATS disconnects on `.` and space, RabbitMQ turns `.` into `/`).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from protocol.errors import Reason, Rejected

SEGMENT = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may stand between two slashes."""


class Writer(StrEnum):
    """Who may publish to a topic."""

    CAMERA = "camera"
    CAMERA_AND_WILL = "camera, and its will"
    USER = "user"


@dataclass(frozen=True)
class Address:
    """Names one camera: `base` of the installation, `site`, and the camera's own name.

    Raises Rejected when a name is not 1 to 64 of letters, digits, `_` and `-`.
    """

    base: str
    site: str
    camera: str

    def __post_init__(self) -> None:
        for field, segment in (("base", self.base), ("site", self.site), ("camera", self.camera)):
            if not SEGMENT.fullmatch(segment):
                raise Rejected(Reason.BAD_TOPIC, f"{field} {segment!r}: use 1 to 64 letters, digits, '_' or '-'")


@dataclass(frozen=True)
class Topic:
    """One kind of topic: `<base>/camera/<site>/<camera>/<leaf>`; `build` and `parse` are inverse."""

    leaf: str
    qos: Literal[0, 1]
    retained: bool
    writer: Writer = Writer.CAMERA

    @property
    def template(self) -> str:
        """The topic as documentation shows it."""
        return f"<base>/camera/<site>/<camera>/{self.leaf}"

    def build(self, address: Address) -> str:
        """The topic of one camera."""
        return f"{address.base}/camera/{address.site}/{address.camera}/{self.leaf}"

    def parse(self, topic: str) -> Address:
        """The camera that a topic belongs to; raises Rejected when it is not of this kind."""
        match topic.split("/", maxsplit=4):
            case [base, "camera", site, camera, self.leaf]:
                return Address(base, site, camera)
        raise Rejected(Reason.BAD_TOPIC, f"{topic!r}: not of the form {self.template}")

    def filter(self, scope: "Address | str") -> str:
        """The subscription that matches this topic of one camera, or of every camera of a base."""
        return self.build(scope) if isinstance(scope, Address) else f"{scope}/camera/+/+/{self.leaf}"


@dataclass(frozen=True)
class DiscoveryTopic(Topic):
    """Where Home Assistant looks for devices. Names run together in it, so it is only built, never parsed."""

    @property
    def template(self) -> str:
        return "homeassistant/device/<base>_<site>_<camera>/config"

    def build(self, address: Address) -> str:
        return f"homeassistant/device/{address.base}_{address.site}_{address.camera}/config"

    def parse(self, topic: str) -> Address:
        raise Rejected(Reason.BAD_TOPIC, f"{topic!r}: names no single camera")


@dataclass(frozen=True)
class SnapshotAddress(Address):
    """Names one picture of a camera."""

    snapshot: str

    @classmethod
    def of(cls, camera: Address, snapshot: str) -> "SnapshotAddress":
        """A picture's address at a camera; raises Rejected when the name cannot stand in a topic."""
        return cls(camera.base, camera.site, camera.camera, snapshot)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not SEGMENT.fullmatch(self.snapshot):
            raise Rejected(Reason.BAD_TOPIC, f"snapshot {self.snapshot!r}: use 1 to 64 letters, digits, '_' or '-'")


@dataclass(frozen=True)
class SnapshotTopic(Topic):
    """A topic for each picture, so that a subscriber can wait for one."""

    @property
    def template(self) -> str:
        return f"{super().template}/<snapshot>"

    def build(self, address: Address) -> str:
        return f"{super().build(address)}/{address.snapshot if isinstance(address, SnapshotAddress) else '+'}"

    def parse(self, topic: str) -> SnapshotAddress:
        head, _, snapshot = topic.rpartition("/")
        camera = super().parse(head)
        return SnapshotAddress(camera.base, camera.site, camera.camera, snapshot)

    def filter(self, scope: "Address | str") -> str:
        return self.build(scope) if isinstance(scope, Address) else f"{super().filter(scope)}/+"


STATUS = Topic("status", qos=1, retained=True, writer=Writer.CAMERA_AND_WILL)
BIRTH = Topic("birth", qos=1, retained=True)
HEALTH = Topic("health", qos=1, retained=True)
TELEMETRY = Topic("telemetry", qos=0, retained=False)
ALERT = Topic("alert", qos=1, retained=False)
INCIDENT = Topic("incident", qos=1, retained=False)
NO_MASK = Topic("no_mask", qos=1, retained=True)
SNAPSHOT = SnapshotTopic("snapshot", qos=0, retained=False)

COMMAND = Topic("command", qos=1, retained=False, writer=Writer.USER)
COMMAND_ACK = Topic("command/ack", qos=1, retained=False)
DISCOVERY = DiscoveryTopic("config", qos=1, retained=True)

TOPICS = (STATUS, BIRTH, HEALTH, TELEMETRY, ALERT, INCIDENT, NO_MASK, COMMAND, COMMAND_ACK)
"""Those that name a camera and nothing else."""
