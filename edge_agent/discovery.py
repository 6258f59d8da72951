"""How Home Assistant shows a camera: one message of MQTT device discovery (home-assistant.io/integrations/mqtt/#device-discovery-payload)."""

from pydantic import JsonValue

from protocol import topics
from protocol.messages import Discovery
from protocol.topics import Address

UPDATE = (
    "{{ {'installed_version': value_json.installed_version, 'latest_version': value_json.latest_version,"
    " 'in_progress': value_json.in_progress, 'update_percentage': value_json.update_percentage} | to_json }}"
)
"""Home Assistant takes these fields of the report and no others."""
SEES = "{{ 'online' if value_json.capture == 'ok' and value_json.detecting else 'offline' }}"
"""Of health: what availability is told."""
MISSED = 3
"""A sensor has expired after so many telemetry messages that did not come."""


def discovery(address: Address, agent_version: str, telemetry_s: float) -> Discovery:
    """An alert event, a no-mask sensor, and figures of one camera."""
    own_id = f"{address.base}_{address.site}_{address.camera}"
    telemetry, health, status = (topic.build(address) for topic in (topics.TELEMETRY, topics.HEALTH, topics.STATUS))
    sees: JsonValue = [{"topic": status}, {"topic": health, "value_template": SEES}]  # a camera that is blind must not say that all is safe

    def entity(key: str, platform: str, name: str, **more: JsonValue) -> dict[str, JsonValue]:
        return {"platform": platform, "unique_id": f"{own_id}_{key}", "name": name, **more}

    def figure(key: str, name: str, unit: str, **more: JsonValue) -> dict[str, JsonValue]:
        template = f"{{{{ value_json.{key} }}}}"
        expire_s = round(MISSED * telemetry_s)
        measured: dict[str, JsonValue] = {"state_topic": telemetry, "value_template": template, "unit_of_measurement": unit}
        return entity(key, "sensor", name, **measured, state_class="measurement", expire_after=expire_s, entity_category="diagnostic", **more)

    return Discovery(
        document={
            "device": {
                "identifiers": [own_id],
                "name": f"{address.site} {address.camera}",
                "manufacturer": "MaskFleet",
                "model": "mask camera",
                "sw_version": agent_version,
                "suggested_area": address.site,
            },
            "origin": {"name": "maskfleet", "sw_version": agent_version},
            "availability": [{"topic": status}],
            "qos": 1,
            "components": {
                "alert": entity("alert", "event", "No-mask alert", state_topic=topics.ALERT.build(address), event_types=["no_mask"]),
                "no_mask": entity(
                    "no_mask",
                    "binary_sensor",
                    "No mask",
                    state_topic=topics.NO_MASK.build(address),
                    device_class="safety",
                    availability=sees,
                    availability_mode="all",
                ),
                "capture": entity(
                    "capture", "sensor", "Capture", state_topic=health, value_template="{{ value_json.capture }}", entity_category="diagnostic"
                ),
                "update": entity(
                    "model", "update", "Model", state_topic=topics.REPORTED.build(address), value_template=UPDATE, entity_category="diagnostic"
                ),
                "fps": figure("fps_processed", "Frame rate", "fps"),
                "latency": figure("latency_p95_ms", "Latency", "ms", device_class="duration"),
                "temperature": figure("temperature_c", "Temperature", "°C", device_class="temperature"),
            },
        }
    )
