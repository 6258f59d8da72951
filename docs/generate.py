"""Writes docs/protocol.md from the topics and messages, docs/settings.md from the settings, and the diagram of docs/rollout.md from the
update machine's table.

A test fails when a page has drifted.
"""

import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edge_agent.settings import DELIMITER, FILE_VARIABLE, PREFIX, Settings
from edge_agent.update import TRANSITIONS
from protocol.messages import MAX_PAYLOAD_BYTES, MESSAGES, Discovery, Message, PlainMessage, Snapshot
from protocol.rollouts import MAX_RETAINED_BYTES, ROLLOUT_MESSAGES, Chunk, RolloutCommand

PAGE = Path(__file__).with_name("protocol.md")
SETTINGS = Path(__file__).with_name("settings.md")
ROLLOUT = Path(__file__).with_name("rollout.md")

CAMERA, END = "<!-- made by docs/generate.py: camera -->", "<!-- end -->"
LEFT_OUT = {"Withdrawn", "Lost"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def page() -> str:
    """The whole page."""
    lines = [
        "# What is said over MQTT",
        "",
        "This page is made by `make docs` from `protocol/topics.py`, `protocol/messages.py` and `protocol/rollouts.py`; change those.",
        "",
        "MQTT 3.1.1, QoS 0 and 1. `<base>` (default `maskfleet`), `<site>` and `<camera>` are 1 to 64 letters, digits, `_` and `-`.",
        "JSON carries `v: 1`; unknown fields are to be ignored; order is by (`boot`, `seq`), never by time.",
        f"A payload over {MAX_PAYLOAD_BYTES:,} bytes ({Chunk.max_bytes:,} of a chunk, {Snapshot.max_bytes:,} of a snapshot,",
        f"{RolloutCommand.max_bytes:,} of a rollout command) is refused unparsed; retained ones stay under {MAX_RETAINED_BYTES:,}.",
        "It is in memory by then, so the broker must bound what anybody may send: [how](brokers.md).",
        "",
        "| topic | who writes it | QoS | retained | payload |",
        "|---|---|---|---|---|",
    ]
    for message in (*MESSAGES, *ROLLOUT_MESSAGES):
        topic = message.topic
        retained = "yes" if topic.retained else "no"
        lines.append(f"| `{topic.template}` | {topic.writer} | {topic.qos} | {retained} | [{message.__name__}](#{message.__name__.lower()}) |")
    for message in (*MESSAGES, *ROLLOUT_MESSAGES):
        lines += ["", f"## {message.__name__}", "", inspect.cleandoc(message.__doc__ or ""), ""]
        if message not in (Discovery, Snapshot, Chunk):
            lines += _plain(message) if issubclass(message, PlainMessage) else _fields(message)
    return "\n".join(lines) + "\n"


def _plain(message: type[Message]) -> list[str]:
    words = message.model_json_schema()["properties"]["value"]["enum"]
    return [f"One bare word: {' or '.join(f'`{word}`' for word in words)}."]


def _fields(message: type[Message]) -> list[str]:
    schema = message.model_json_schema()
    definitions = schema.pop("$defs", {})
    if message.topic.writer != "user":
        lines = ["| field | type | what |", "|---|---|---|"]
        return lines + [f"| `{name}` | {_type(field, definitions)} | {_what(field)} |" for name, field in schema["properties"].items()]
    lines = ["What has no default must be given.", "", "| field | default | type | what |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        default = f"`{_number(field['default'])}`" if "default" in field else ""
        lines.append(f"| `{name}` | {default} | {_type(field, definitions)} | {_what(field)} |")
    return lines


def _what(field: dict[str, Any]) -> str:
    return str(field.get("description", "")).replace("\n", " ")


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one, definitions) for one in field["anyOf"])
    if "$ref" in field:
        own = definitions[field["$ref"].rpartition("/")[2]]
        if "enum" in own:
            return _type(own, definitions)
        return "object of " + ", ".join(f"`{name}`" for name in own["properties"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{word}`" for word in field["enum"])
    if field.get("format") == "date-time":
        return "time, ISO 8601 with zone"
    if field["type"] == "array" and isinstance(field.get("items"), dict):
        return f"list of {_type(field['items'], definitions)}"
    bounds = [f"{word} {_number(field[key])}" for key, word in BOUNDS.items() if key in field]
    return " ".join([field["type"], *bounds])


def _number(value: object) -> str:
    return json.dumps(value).removesuffix(".0")


def settings_page() -> str:
    """The page on the agent's settings."""
    lines = [
        "# What can be set",
        "",
        "This page is made by `make docs` from `edge_agent/settings.py`; change that.",
        "",
        f"An agent reads one TOML file (`--settings FILE`, or `{FILE_VARIABLE}`), and variables over it; a key that is not here is refused,",
        "and a variable that is empty counts as not given.",
        "A name is 1 to 64 letters, digits, `_` and `-`. A variable for a list holds JSON.",
        "What has no default is off, or left to the system. In `..._s` are seconds, in `..._px` pixels.",
    ]
    return "\n".join([*lines, *_section(Settings, ())]) + "\n"


def _section(settings: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """The settings of one section as a table, and after it the sections within."""
    within = {name: field.annotation for name, field in settings.model_fields.items() if isinstance(field.default, BaseModel)}
    lines = ["", f"## `[{'.'.join(path)}]`", "", inspect.cleandoc(settings.__doc__ or "")] if path else []
    lines += ["", "| setting | default | what | type | variable |", "|---|---|---|---|---|"]
    for name, field in settings.model_json_schema()["properties"].items():
        if name not in within:
            variable = PREFIX + DELIMITER.join((*path, name)).upper()
            default = "" if field.get("default") is None else f"`{_number(field['default'])}`"
            lines.append(f"| `{name}` | {default} | {_what(field)} | {_kind(field)} | `{variable}` |")
    return [*lines, *(line for name, section in within.items() for line in _section(section, (*path, name)))]


def _kind(field: dict[str, Any]) -> str:
    """The type of a setting, in words; that some may be left out shows in the default."""
    (kind,) = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
    return "name" if "pattern" in kind else "path" if kind.get("format") == "path" else _type(kind, {})


def rollout_page() -> str:
    """The page on rollouts as it is, with its diagram made anew."""
    before, _, rest = ROLLOUT.read_text(encoding="utf-8").partition(CAMERA)
    return before + CAMERA + diagram() + END + rest.partition(END)[2]


def diagram() -> str:
    """The update machine as a Mermaid diagram; what only repeats a state, or withdraws, is left out."""
    edges: dict[tuple[str, str], list[str]] = {}
    for state, events in TRANSITIONS.items():
        for event, afters in events.items():
            for after in afters:
                if after is not state and event.__name__ not in LEFT_OUT:
                    edges.setdefault((state, after), []).append(event.__name__)
    lines = [f"    {state} --> {after}: {', '.join(names)}" for (state, after), names in edges.items()]
    return "\n".join(["", "```mermaid", "stateDiagram-v2", "    [*] --> idle", *lines, "```", ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SETTINGS.write_text(settings_page(), encoding="utf-8")
    ROLLOUT.write_text(rollout_page(), encoding="utf-8")
