"""What is asked for by a camera URI, and how it may be shown."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from protocol.errors import Reason, Rejected, printable

OPTIONS = {
    "file": frozenset({"loop", "pace"}),
    "images": frozenset({"fps", "loop", "pace"}),
    "csi": frozenset({"width", "height", "fps", "flip", "sensor_mode"}),
    "v4l2": frozenset({"width", "height", "fps"}),
    "rtsp": frozenset[str](),
    "demo": frozenset[str](),
}
"""The schemes, and what may stand behind `?` in each; of `rtsp`, all that does is the camera's."""


@dataclass(frozen=True)
class CameraUri:
    """A camera URI, taken apart."""

    scheme: str
    place: str
    options: dict[str, str]
    text: str
    """As it was asked for, without any password: fit to be shown."""

    @classmethod
    def parse(cls, uri: str) -> "CameraUri":
        """Raises Rejected for a scheme or option that does not exist."""
        uri = uri.strip()
        try:
            parts = urlsplit(uri, allow_fragments=False)  # a file's name may hold a #
        except ValueError as error:
            raise Rejected(Reason.BAD_SETTING, f"camera {_redacted(uri)!r}: {error}") from None
        if parts.scheme not in OPTIONS:
            device = re.fullmatch(r"(?:/dev/video)?(\d+)", uri, re.ASCII)
            known = ", ".join(f"{name}:" for name in OPTIONS)
            hint = f"did you mean v4l2:///dev/video{device[1]}?" if device else f"known are {known}"
            raise Rejected(Reason.BAD_SETTING, f"camera {_redacted(uri)!r}: {hint}")
        options = {} if parts.scheme == "rtsp" else dict(parse_qsl(parts.query, keep_blank_values=True))
        place = uri if parts.scheme == "rtsp" else unquote(parts.netloc + parts.path)
        if not place and parts.scheme in ("file", "images", "v4l2"):
            raise Rejected(Reason.BAD_SETTING, f"camera {parts.scheme}: expected a path after the colon")
        if parts.scheme == "rtsp" and not parts.hostname:
            raise Rejected(Reason.BAD_SETTING, "camera rtsp: expected rtsp://host")
        unknown = set(options) - OPTIONS[parts.scheme]
        if unknown:
            raise Rejected(Reason.BAD_SETTING, f"camera {parts.scheme}: unknown option {min(unknown)!r}")
        if options.get("pace", "real") not in ("real", "max"):
            raise Rejected(Reason.BAD_SETTING, f"camera option pace={options['pace']!r}: expected real or max")
        return cls(parts.scheme, place, options, printable(_redacted(uri)))

    @property
    def is_recorded(self) -> bool:
        """Whether it has a clock of its own, and an end."""
        return self.scheme in ("file", "images")

    def number(self, option: str, default: float) -> float:
        """An option as a positive number; raises Rejected when it is none."""
        try:
            value = float(self.options.get(option, default))
        except ValueError:
            value = -1
        if not 0 < value < 1e6:
            raise Rejected(Reason.BAD_SETTING, f"camera option {option}={self.options[option]!r}: expected a number above 0")
        return value

    def whole(self, option: str, default: int) -> int:
        """An option as a whole number from 1; raises Rejected when it is none."""
        value = self.number(option, default)
        if value < 1 or value != int(value):
            raise Rejected(Reason.BAD_SETTING, f"camera option {option}={self.options[option]!r}: expected a whole number from 1")
        return int(value)

    def flag(self, option: str) -> bool:
        """An option that is 0 (as when it is absent) or 1; raises Rejected for anything else."""
        value = self.options.get(option, "0")
        if value not in ("0", "1"):
            raise Rejected(Reason.BAD_SETTING, f"camera option {option}={value!r}: expected 0 or 1")
        return value == "1"


_OWN_NAME = re.compile(r"[\w.-]*|/[\w./-]+", re.ASCII)
"""A word, or a path of this machine: nothing that may hold a password."""


def _redacted(uri: str) -> str:
    """The URI without what may be secret: network cameras want user and password before the host, in the query or anywhere in the path."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() in OPTIONS and scheme.lower() != "rtsp":
        return uri
    if not rest.startswith("//"):  # no URI, but perhaps a host and a password
        return uri if _OWN_NAME.fullmatch(uri) else "***"
    place, _, path = rest.removeprefix("//").partition("/")
    host = "" if "@" in path else place.rpartition("@")[2].partition("?")[0]  # a password that holds a slash hides which is the host
    return f"{scheme}://{host}/***" if host else f"{scheme}://***"
