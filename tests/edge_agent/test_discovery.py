"""The message against what Home Assistant documents for MQTT device discovery."""

import json

from edge_agent.discovery import discovery
from protocol.messages import MAX_PAYLOAD_BYTES, Telemetry
from protocol.topics import ALERT, HEALTH, NO_MASK, REPORTED, STATUS, TELEMETRY, Address

CAMERA = Address("maskfleet", "lobby", "door-1")


def document() -> dict:
    return json.loads(discovery(CAMERA, "1.2.3", telemetry_s=10).encode())


def test_ids_are_unique_and_topics_are_the_cameras() -> None:
    found = document()
    ids = [component["unique_id"] for component in found["components"].values()]
    assert len(set(ids)) == len(ids)
    assert {component["state_topic"] for component in found["components"].values()} == {
        topic.build(CAMERA) for topic in (ALERT, NO_MASK, HEALTH, TELEMETRY, REPORTED)
    }
    assert found["availability"] == [{"topic": STATUS.build(CAMERA)}]  # its payloads are online and offline, as Home Assistant expects


def test_every_figure_is_a_field_of_telemetry_and_expires() -> None:
    figures = [one for one in document()["components"].values() if one.get("state_topic") == TELEMETRY.build(CAMERA)]
    assert len(figures) == 3
    for figure in figures:
        assert figure["value_template"].removeprefix("{{ value_json.").removesuffix(" }}") in Telemetry.model_fields
        assert figure["expire_after"] == 30


def test_it_is_small_enough_to_be_retained_and_shown() -> None:
    assert len(json.dumps(document())) < 8192 < MAX_PAYLOAD_BYTES
