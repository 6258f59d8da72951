"""The discovery message against what Home Assistant itself checks.

Written after `homeassistant/components/mqtt` of home-assistant/core: `DEVICE_DISCOVERY_SCHEMA` in schemas.py (device, origin and components are
required; the device needs an identifier; the origin a name; each component its platform), the platforms' own schemas (event.py,
binary_sensor.py, sensor.py, update.py), and the documentation of each (home-assistant.io/integrations/mqtt and below). A component of a device
needs a `unique_id`. Keys are written out: of the abbreviations (`dev`, `o`, `cmps`, `p`, `uniq_id`, `stat_t`, `val_tpl`) none is used.
"""

import json
import re
from typing import Annotated, Literal

import jinja2
import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from edge_agent.discovery import discovery
from protocol.messages import Alert, Discovery, Health, NoMask, Status, utc
from protocol.topics import DISCOVERY, Address

CAMERA = Address("maskfleet", "lobby", "door-1")
Text = Annotated[str, Field(min_length=1)]
Topic = Annotated[str, Field(min_length=1, pattern=r"^[^#+]+$")]
UNITS = {"duration": {"d", "h", "min", "s", "ms", "μs"}, "temperature": {"°C", "°F", "K"}}
"""Of the sensor classes that are used; a sensor of a class must have one of its units."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Device(Strict):
    identifiers: Annotated[list[Text], Field(min_length=1)]
    name: Text | None = None
    manufacturer: Text | None = None
    model: Text | None = None
    model_id: Text | None = None
    hw_version: Text | None = None
    sw_version: Text | None = None
    serial_number: Text | None = None
    suggested_area: Text | None = None
    via_device: Text | None = None
    configuration_url: Text | None = None


class Origin(Strict):
    name: Text
    sw_version: Text | None = None
    support_url: Text | None = None


class Availability(Strict):
    topic: Topic
    payload_available: Text = "online"
    payload_not_available: Text = "offline"
    value_template: Text | None = None


class Entity(Strict):
    unique_id: Text
    name: Text | None = None
    entity_category: Literal["diagnostic"] | None = None
    icon: Text | None = None
    availability: list[Availability] | None = None
    availability_mode: Literal["all", "any", "latest"] | None = None


class Event(Entity):
    platform: Literal["event"]
    state_topic: Topic
    event_types: Annotated[list[Text], Field(min_length=1)]
    device_class: Literal["button", "doorbell", "motion"] | None = None


class BinarySensor(Entity):
    platform: Literal["binary_sensor"]
    state_topic: Topic
    device_class: Literal["safety", "problem", "connectivity", "occupancy"] | None = None
    payload_on: Text = "ON"
    payload_off: Text = "OFF"
    expire_after: Annotated[int, Field(ge=0)] | None = None


class Sensor(Entity):
    platform: Literal["sensor"]
    state_topic: Topic
    value_template: Text | None = None
    unit_of_measurement: Text | None = None
    device_class: Literal["duration", "temperature"] | None = None
    state_class: Literal["measurement", "total", "total_increasing"] | None = None
    expire_after: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _has_a_unit_of_its_class(self) -> "Sensor":
        if self.device_class and self.unit_of_measurement not in UNITS[self.device_class]:
            raise ValueError(f"{self.unit_of_measurement} is no unit of {self.device_class}")
        return self


class Update(Entity):
    platform: Literal["update"]
    state_topic: Topic | None = None
    value_template: Text | None = None
    latest_version_topic: Topic | None = None
    command_topic: Topic | None = None
    payload_install: Text | None = None
    device_class: Literal["firmware"] | None = None
    title: Text | None = None


class Document(Strict):
    device: Device
    origin: Origin
    components: dict[str, Annotated[Event | BinarySensor | Sensor | Update, Field(discriminator="platform")]]
    availability: list[Availability] = []
    availability_mode: Literal["all", "any", "latest"] = "latest"
    state_topic: Topic | None = None
    qos: Literal[0, 1, 2] = 0
    encoding: str = "utf-8"


def document() -> dict:
    return json.loads(discovery(CAMERA, "1.2.3", telemetry_s=10).encode())


def test_home_assistant_would_take_it() -> None:
    found = TypeAdapter(Document).validate_json(json.dumps(document()))
    assert {type(component) for component in found.components.values()} >= {Event, BinarySensor, Sensor}


@pytest.mark.parametrize(
    "missing", ["device", "origin", "components", "device.identifiers", "origin.name", "alert.event_types", "alert.platform", "fps.state_topic"]
)
def test_without_what_is_required_it_would_not(missing: str) -> None:
    changed = document()
    *way, key = missing.split(".")
    place = changed
    for step in way:
        place = place[step] if step in place else place["components"][step]
    del place[key]
    with pytest.raises(ValidationError):
        Document.model_validate(changed)


def test_its_topic_is_one_that_home_assistant_matches() -> None:
    assert re.fullmatch(r"homeassistant/device/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config", DISCOVERY.build(CAMERA))


def test_what_the_topics_carry_is_what_the_platforms_expect() -> None:
    found = Document.model_validate(document())
    alert = Alert(id="b-1", boot="b", seq=1, started=utc(0), p_no_mask=0.9, votes="5/5", faces=1, model="m")
    event = next(one for one in found.components.values() if isinstance(one, Event))
    assert json.loads(alert.encode())["event_type"] in event.event_types
    assert not Alert.topic.retained  # event.py passes over what is retained
    sensor = next(one for one in found.components.values() if isinstance(one, BinarySensor))
    assert [NoMask(value="ON").encode().decode(), NoMask(value="OFF").encode().decode()] == [sensor.payload_on, sensor.payload_off]
    (availability,) = found.availability
    assert sensor.availability is not None
    assert sensor.availability[0] == availability
    words = [Status(value=word).encode().decode() for word in ("online", "offline")]
    assert words == [availability.payload_available, availability.payload_not_available]


@pytest.mark.parametrize(
    ("capture", "detecting", "word"), [("ok", True, "online"), ("ok", False, "offline"), ("stalled", True, "offline"), ("failed", True, "offline")]
)
def test_a_camera_that_is_blind_does_not_say_that_all_is_safe(capture: str, detecting: bool, word: str) -> None:
    sensor = Document.model_validate(document()).components["no_mask"]
    assert sensor.availability is not None
    assert sensor.availability_mode == "all"
    of_health = sensor.availability[1]
    health = Health(boot="b", capture=capture, last_frame_age_s=0, detecting=detecting, restarts=0, outbox=0, lost=0)
    assert of_health.topic == Health.topic.build(CAMERA)
    assert Health.topic.retained
    assert jinja2.Template(of_health.value_template or "").render(value_json=json.loads(health.encode())) == word


def test_its_removal_is_an_empty_retained_payload() -> None:
    assert (Discovery(document=None).encode(), Discovery.topic.retained) == (b"", True)
