"""Who says that a release is good: Ed25519 signatures (RFC 8032) over the manifest's bytes, and keys that vouch for others.

Keys are rotated by a statement: a key that cameras trust signs that another may be trusted too. Statements travel with
the signature, so a camera keeps nothing and forgets nothing.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from protocol.errors import Reason, Rejected, one_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_STATEMENTS = 4
STATEMENT_PREFIX = b"maskfleet key statement\n"
"""Stands before what a statement signs, so that no statement can pass for a manifest."""

KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""The first digits of the SHA-256 of a public key."""
KEY_TEXT = re.compile(r"[A-Za-z0-9+/]{43}=")
Key64 = Annotated[str, Field(pattern=f"^{KEY_TEXT.pattern}$")]
"""A public key: its 32 bytes in base64."""
Signature64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]

TrustedKeys = Mapping[str, bytes]
"""Key id -> the 32 bytes of a public key. Plain bytes, for a camera loads `cryptography`, 7 MB, only when a release comes."""
KEY_BYTES = 32


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Statement(_Signed):
    """A trusted key says that another key may be trusted too."""

    v: Literal[1] = 1
    public_key: Key64
    expires: AwareDatetime | None = None
    key: KeyId
    """The key that signed this."""
    signature: Signature64

    @field_validator("expires")
    @classmethod
    def _is_a_date_in_utc(cls, expires: datetime | None) -> datetime | None:
        """What is signed is the date in UTC, and the last day of the year 9999 has none everywhere."""
        try:
            return expires and expires.astimezone(UTC)
        except OverflowError:
            raise ValueError("not a date in UTC") from None

    @classmethod
    def make(cls, public_key: str, expires: datetime | None, signer: "Ed25519PrivateKey") -> Self:
        """`signer` vouches for a public key."""
        signature = _sign(_stated(public_key, expires), signer)
        return cls(public_key=public_key, expires=expires, key=key_id(signer.public_key()), signature=signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The statement in a file; raises Rejected."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise Rejected(Reason.BAD_SIGNATURE, f"key statement: {one_line(error)}") from None

    def has_ended(self, now: datetime) -> bool:
        """Whether this vouches no more."""
        return self.expires is not None and now >= self.expires


class Signature(_Signed):
    """`manifest.sig`: the signature over the manifest's bytes, by which key, and who vouches for that key."""

    v: Literal[1] = 1
    key: KeyId
    signature: Signature64
    statements: Annotated[tuple[Statement, ...], Field(max_length=MAX_STATEMENTS)] = ()

    @classmethod
    def make(cls, manifest: bytes, signer: "Ed25519PrivateKey", statements: tuple[Statement, ...] = ()) -> Self:
        """The signature over a manifest file."""
        return cls(key=key_id(signer.public_key()), signature=_sign(manifest, signer), statements=statements)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The signature in a file; raises Rejected."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise Rejected(Reason.BAD_SIGNATURE, f"signature: {one_line(error)}") from None

    def encode(self) -> bytes:
        """The signature as a file."""
        return (self.model_dump_json(exclude_none=True) + "\n").encode()

    def check(self, manifest: bytes, trusted: TrustedKeys, now: datetime) -> None:
        """Raises Rejected unless a key that is trusted, or that one vouches for, signed exactly these bytes."""
        keys = _with_vouched(trusted, self.statements, now)
        if self.key not in keys:
            raise Rejected(Reason.UNKNOWN_KEY, f"the release is signed by key {self.key}, which is not trusted here")
        _verify(manifest, self.signature, keys[self.key], "the manifest")

    def end(self, trusted: TrustedKeys, now: datetime) -> datetime | None:
        """When trusted keys that lead to the signer now lead there no more, for statements end; None when they always will."""
        dates = sorted(statement.expires for statement in self.statements if statement.expires and not statement.has_ended(now))
        return next((date for date in dates if self.key not in _with_vouched(trusted, self.statements, date)), None)

    def roots(self, now: datetime | None = None) -> frozenset[str]:
        """The keys of which a camera must trust one to believe this, by their ids. Without a time, no statement has ended."""
        found = {self.key}
        for statement in reversed(self.statements):
            if _id_of(_public_key(statement.public_key)) in found and not (now and statement.has_ended(now)):
                found.add(statement.key)
        return frozenset(found)


def key_id(key: "Ed25519PublicKey") -> str:
    """What a public key is called: the first 16 hex digits of its SHA-256."""
    return _id_of(key.public_bytes_raw())


def public_text(key: "Ed25519PublicKey") -> str:
    """A public key in base64, as settings hold it."""
    return text_of(key.public_bytes_raw())


def text_of(public_key: bytes) -> str:
    """The bytes of a public key, as `trusted_keys` gives them, in base64."""
    return base64.b64encode(public_key).decode()


def trusted_keys(texts: Iterable[str]) -> dict[str, bytes]:
    """The public keys in these base64 texts, by their ids; raises Rejected."""
    keys = [_public_key(text) for text in texts]
    return {_id_of(key): key for key in keys}


def _with_vouched(trusted: TrustedKeys, statements: tuple[Statement, ...], now: datetime) -> TrustedKeys:
    """The trusted keys, and those that they vouch for, in the order of the statements: one may vouch for the next.

    An unknown signer of a statement, or an old one, adds nothing; a signature that does not fit raises Rejected.
    """
    keys = dict(trusted)
    for statement in statements:
        if statement.key in keys and not statement.has_ended(now):
            _verify(_stated(statement.public_key, statement.expires), statement.signature, keys[statement.key], "a key statement")
            keys |= trusted_keys((statement.public_key,))
    return keys


def _stated(public_key: str, expires: datetime | None) -> bytes:
    return STATEMENT_PREFIX + f"{public_key}\n{expires.astimezone(UTC).isoformat() if expires else 'for ever'}\n".encode()


def _id_of(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()[:16]


def _public_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if "PRIVATE KEY" in text:
        raise Rejected(Reason.BAD_SETTING, "public key: this is a private one; give the .pub beside it, and keep this to yourself")
    if len(key) != KEY_BYTES:
        raise Rejected(Reason.BAD_SETTING, f"public key {text.strip()[:60]!r}: expected the 32 bytes of an Ed25519 key in base64")
    return key


def _sign(data: bytes, signer: "Ed25519PrivateKey") -> str:
    return base64.b64encode(signer.sign(data)).decode()


def _verify(data: bytes, signature: str, key: bytes, what: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(signature), data)
    except (InvalidSignature, ValueError):  # the second: a signature whose last digit is no canonical base64
        raise Rejected(Reason.BAD_SIGNATURE, f"the signature does not fit {what}") from None
