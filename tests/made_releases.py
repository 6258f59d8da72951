"""Releases made from those that ship: other bytes with the same answers, signed by a test's own key."""

import shutil
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rig import ROOT

from protocol.chunks import CHUNK_BYTES, digests
from protocol.release import Manifest, digest
from protocol.rollouts import Desired, Kind
from protocol.signature import Signature, public_text, trusted_keys

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
PUBLIC = public_text(KEY.public_key())
TRUSTED = trusted_keys([PUBLIC])


def shipped(kind: Kind) -> Path:
    return ROOT / "edge_agent" / "models" / kind


def variant(model: bytes, text: str) -> bytes:
    """The same network in other bytes: a doc_string (field 6 of ONNX's ModelProto) goes behind it."""
    return model + b"\x32" + bytes([len(text)]) + text.encode()


class Made:
    """A signed release, as a coordinator has it."""

    def __init__(
        self, kind: Kind, version: str, counter: int, change: Callable[[bytes], bytes] | None = None, key: Ed25519PrivateKey = KEY, **fields: object
    ) -> None:
        folder = shipped(kind)
        model = (folder / "model.onnx").read_bytes()
        self.model = change(model) if change else variant(model, version)
        self.digest = digest(self.model)
        chunk_bytes = int(fields.get("chunk_bytes", CHUNK_BYTES))
        own = {
            "version": version,
            "counter": counter,
            "digest": self.digest,
            "size_bytes": len(self.model),
            "chunk_bytes": chunk_bytes,
            "chunks": digests(self.model, chunk_bytes),
        }
        self.manifest_bytes = Manifest.parse((folder / "manifest.json").read_bytes()).model_copy(update={**own, **fields}).encode()
        self.signature = Signature.make(self.manifest_bytes, key)

    @property
    def manifest(self) -> Manifest:
        return Manifest.parse(self.manifest_bytes)

    def desired(self, rollout: str = "r", attempt: int = 1, hold: bool = False) -> Desired:
        return Desired.of(rollout, attempt, self.manifest_bytes, self.signature, hold)

    def write(self, folder: Path) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(self.model)
        (folder / "manifest.json").write_bytes(self.manifest_bytes)
        return folder


def signed_anew(made: Made) -> Made:
    made.signature = made.signature.make(made.manifest_bytes, STRANGER)
    return made


def tampered(made: Made) -> Made:
    made.manifest_bytes = made.manifest_bytes.replace(b'"counter": 5', b'"counter": 6')
    return made


def unsigned(made: Made) -> Made:
    made.signature = None
    return made


def truncated(made: Made) -> Made:
    made.manifest_bytes = made.manifest_bytes[:-200]
    return made


def signed_nonsense(made: Made) -> Made:
    made.signature = made.signature.make(truncated(made).manifest_bytes, KEY)
    return made
