"""The one tree of exceptions, split by what the caller can do next."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from pydantic import ValidationError


def printable(text: str) -> str:
    """The text with `?` for the bytes of a file's name that are no UTF-8: such a text can neither be printed nor sent."""
    return text.encode(errors="replace").decode()


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def escaped(text: str) -> str:
    """The text, printable, with line breaks and other control characters as escapes: a file's name may hold them."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], printable(text))


class FleetError(Exception):
    """Anything that MaskFleet itself raises; its text is one line for a person."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class LinkError(FleetError):
    """The broker cannot be reached or did not answer: wait and try again."""


class DeviceError(FleetError):
    """A part of this machine (camera, file, model runtime) failed: restart or replace the part."""


class Reason(StrEnum):
    """Why an input was rejected; the same words are used on the wire."""

    BAD_TOPIC = "bad_topic"
    BAD_PAYLOAD = "bad_payload"
    TOO_LARGE = "too_large"
    BAD_SETTING = "bad_setting"
    BAD_INPUT = "bad_input"
    BAD_RELEASE = "bad_release"
    WRONG_KIND = "wrong_kind"
    WRONG_DIGEST = "wrong_digest"
    WRONG_GOLDEN = "wrong_golden"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    OLD_COUNTER = "old_counter"
    EXPIRED = "expired"
    AGENT_TOO_OLD = "agent_too_old"
    KNOWN_BAD = "known_bad"
    UPDATES_OFF = "updates_off"
    WITHDRAWN = "withdrawn"
    DISK_FAILED = "disk_failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    TOO_SLOW = "too_slow"
    NOT_A_NUMBER = "not_a_number"
    DISAGREES = "disagrees"
    NOT_CONNECTED = "not_connected"
    NO_FRAMES = "no_frames"
    RESTARTED = "restarted"


class Rejected(FleetError):
    """An input is wrong and stays wrong: never retry the same one."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = str(self)


@contextmanager
def naming(what: object) -> Iterator[None]:
    """What is rejected within says first what it is about, as `what: why`."""
    try:
        yield
    except Rejected as error:
        raise Rejected(error.reason, f"{what}: {error}") from None


def in_one_line(error: FleetError | OSError) -> str:
    """What a user is told of an error: of what the system refused, `file: what` where it names a file."""
    if not isinstance(error, OSError):
        return escaped(str(error))
    what = error.strerror or str(error)
    return escaped(f"{error.filename}: {what}" if error.filename else what)


def one_line(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as `field: what`."""
    first = error.errors(include_url=False)[0]
    where = repr(".".join(str(part) for part in first["loc"]))[1:-1]  # a key that somebody sends may hold line breaks
    return f"{where}: {first['msg']}" if where else str(first["msg"])
