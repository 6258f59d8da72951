"""Where the broker is, and how to be let in."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
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
        """Whoever gives certificates wants TLS: without it they would be passed over. Raises Rejected."""
        if not self.is_tls and (self.ca_file or self.cert_file or self.key_file):
            raise Rejected(Reason.BAD_SETTING, "setting broker.url: certificates need mqtts://; with mqtt:// the password would go in clear")

    @classmethod
    def parse(cls, url: str) -> Self:
        """The broker in `mqtt://user:password@host:1883` or `mqtts://...`; raises Rejected."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Rejected(Reason.BAD_SETTING, f"broker URL: {error}") from None
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/"):
            raise Rejected(Reason.BAD_SETTING, "broker URL: expected mqtt://host[:port] or mqtts://host[:port]")
        is_tls = parts.scheme == "mqtts"
        return cls(
            host=parts.hostname,
            port=port or (8883 if is_tls else 1883),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            is_tls=is_tls,
        )

    def tls_context(self) -> ssl.SSLContext | None:
        """None without TLS; raises Rejected when a certificate file cannot be used."""
        if not self.is_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise Rejected(Reason.BAD_SETTING, f"broker certificates: {error}") from None
        return context
