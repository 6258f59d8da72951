"""Keys that sign releases: made, vouched for, and used. A private key is a PEM file that only its owner can read."""

import os
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from protocol.chunks import digests
from protocol.errors import Reason, Rejected
from protocol.release import MANIFEST_FILE, SIGNATURE_FILE, Manifest
from protocol.rollouts import Desired
from protocol.signature import KEY_TEXT, MAX_STATEMENTS, Signature, Statement, TrustedKeys, public_text, text_of, trusted_keys
from trainer.folder import read_release, write_whole

PRIVATE_SUFFIX, PUBLIC_SUFFIX, STATEMENT_SUFFIX = ".key", ".pub", ".trust"
LONGEST_ROLLOUT = "x" * 64


def new(path: Path) -> tuple[Path, Path]:
    """Makes a pair of keys, PATH.key and PATH.pub; raises Rejected when there is one already, or the path ends in no name."""
    if path.name in ("", ".."):
        raise Rejected(Reason.BAD_INPUT, f"{path}: not a name for keys; give one such as {path / 'owner'}")
    key = Ed25519PrivateKey.generate()
    private, public = path.with_name(path.name + PRIVATE_SUFFIX), path.with_name(path.name + PUBLIC_SUFFIX)
    if public.exists():
        raise Rejected(Reason.BAD_INPUT, f"{public}: exists already; keys are never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        number = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Rejected(Reason.BAD_INPUT, f"{private}: exists already; keys are never overwritten") from None
    with os.fdopen(number, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_text(public_text(key.public_key()) + "\n", encoding="ascii")
    return private, public


def read_private(path: Path) -> Ed25519PrivateKey:
    """The key in a PEM file; raises Rejected."""
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Rejected(Reason.BAD_INPUT, f"{path}: not an unencrypted private key in PEM; `maskfleet-trainer keys new` makes one") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Rejected(Reason.BAD_INPUT, f"{path}: not an Ed25519 key")
    return key


def read_public(texts_or_files: list[str]) -> TrustedKeys:
    """The public keys in these texts or files, by their ids; raises Rejected."""
    texts = [one if KEY_TEXT.fullmatch(one) else _read(Path(one)).decode("ascii", errors="replace") for one in texts_or_files]
    return trusted_keys(texts)


def vouch(public: Path, signer: Ed25519PrivateKey, expires: datetime | None) -> Path:
    """Writes beside a public key the statement that a key which cameras trust vouches for it; returns the file.

    Raises Rejected when there is one already: cameras may trust that signer alone.
    """
    text = text_of(next(iter(read_public([str(public)]).values())))
    path = public.with_suffix(STATEMENT_SUFFIX)
    if path.exists():
        raise Rejected(Reason.BAD_INPUT, f"{path}: exists already; move it away to make another one")
    path.write_text(Statement.make(text, expires, signer).model_dump_json() + "\n", encoding="ascii")
    return path


def read_statements(paths: list[Path]) -> tuple[Statement, ...]:
    """The statements in these files, the oldest first; raises Rejected."""
    if len(paths) > MAX_STATEMENTS:
        raise Rejected(Reason.BAD_INPUT, f"{len(paths)} key statements, at most {MAX_STATEMENTS} travel with a release")
    return tuple(Statement.parse(_read(path)) for path in paths)


def sign(
    folder: Path,
    signer: Ed25519PrivateKey,
    counter: int,
    expires: datetime | None,
    minimum_agent: str,
    chunk_bytes: int,
    statements: tuple[Statement, ...] = (),
) -> Manifest:
    """Completes a release's manifest, signs it, and returns it. Raises Rejected when it is no release, too large to be retained, or a
    statement vouches for another key.

    `counter` must be higher than that of every release of this kind that was ever shipped.
    """
    manifest, model = read_release(folder)
    cut = {"chunk_bytes": chunk_bytes, "chunks": digests(model.read_bytes(), chunk_bytes)}
    data = manifest.model_copy(update={"counter": counter, "expires": expires, "minimum_agent": minimum_agent, **cut}).encode()
    signed = Manifest.parse(data)
    signature = Signature.make(data, signer, statements)
    if not {statement.key for statement in statements} <= signature.roots():
        raise Rejected(Reason.BAD_INPUT, "a key statement does not lead to the key that signs: is it for another one?")
    Desired.of(LONGEST_ROLLOUT, 2**31, data, signature, hold=True)  # it must fit into the message that asks for it
    (folder / SIGNATURE_FILE).unlink(missing_ok=True)
    write_whole(folder / MANIFEST_FILE, data)
    write_whole(folder / SIGNATURE_FILE, signature.encode())
    return signed


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Rejected(Reason.BAD_INPUT, f"{path}: {error.strerror}") from None
