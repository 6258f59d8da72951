"""Where the broker is, and how to be let in."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from protocol.errors import Reason, Rejected


@dataclass(frozen=True)
class Broker:
    """Where the broker is and how to be let in."""

    host: str = "localhost"
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = field(default=None, repr=False)
    keepalive_s: int = 15
    """A dead connection is noticed after at most twice this time."""

    def __post_init__(self) -> None:
        """What would be passed over is refused: certificates without TLS, and half of a pair. Raises Rejected."""
        if not self.is_tls and (self.ca_file or self.cert_file or self.key_file):
            raise Rejected(Reason.BAD_SETTING, "setting broker.url: certificates need mqtts://; with mqtt:// the password would go in clear")
        if self.key_file and not self.cert_file:
            raise Rejected(Reason.BAD_SETTING, "setting broker.key_file: needs broker.cert_file")
        if self.password and not self.username:
            raise Rejected(Reason.BAD_SETTING, "setting broker.password: needs broker.username")

    @classmethod
    def parse(cls, url: str, **beside: Any) -> Self:
        """The broker in `mqtt://user:password@host:1883` or `mqtts://...`; fields that are given beside it count more. Raises Rejected.

        What is wrong is not shown: with a `#` or `/` in it that should be `%23` or `%2F`, a password is taken for something else.
        """
        try:
            parts = urlsplit(url)
            port, is_tls = parts.port, parts.scheme == "mqtts"
            is_good = parts.scheme in ("mqtt", "mqtts") and parts.hostname and not (parts.path.strip("/") or parts.query or parts.fragment)
        except ValueError:
            is_good = False
        if not is_good:
            expected = "mqtt://host[:port] or mqtts://host[:port]; special characters of a user or password as %23 for #, %2F for /, and so on"
            raise Rejected(Reason.BAD_SETTING, f"broker URL: expected {expected}")
        fields = {
            "host": parts.hostname,
            "port": port or (8883 if is_tls else 1883),
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
            "is_tls": is_tls,
        }
        return cls(**{**fields, **{name: value for name, value in beside.items() if value}})

    @property
    def is_in_clear(self) -> bool:
        """Whether a password goes over a network for all to read."""
        return bool(self.password) and not self.is_tls and self.host not in ("localhost", "127.0.0.1", "::1")

    def tls_context(self) -> ssl.SSLContext | None:
        """None without TLS; raises Rejected when a certificate file cannot be used."""
        if not self.is_tls:
            return None
        used = f"setting broker.ca_file: {self.ca_file}"
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file:
                used = f"settings broker.cert_file, key_file: {self.cert_file}, {self.key_file or 'the key in it'}"
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise Rejected(Reason.BAD_SETTING, f"{used}: cannot be used ({error})") from None
        return context
