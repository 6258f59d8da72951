"""Releases for demos and simulations: real manifests, signed with a key that nobody keeps."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.chunks import CHUNK_BYTES
from protocol.release import MANIFEST_FILE, MODEL_FILE, Manifest, digest
from trainer import keys


def shipped(kind: str = "classifier") -> tuple[Manifest, bytes]:
    """The release of a kind that the package brings along."""
    folder = Path(__file__).parent.parent / "edge_agent" / "models" / kind
    return Manifest.parse((folder / MANIFEST_FILE).read_bytes()), (folder / MODEL_FILE).read_bytes()


def sign_release(folder: Path, manifest: Manifest, model: bytes, version: str, counter: int, key: Ed25519PrivateKey) -> Path:
    """Writes a signed release of this model; what the manifest says of another model's bytes is put right."""
    own = manifest.model_copy(update={"version": version, "digest": digest(model), "size_bytes": len(model)})
    folder.mkdir(parents=True)
    (folder / MANIFEST_FILE).write_bytes(own.encode())
    (folder / MODEL_FILE).write_bytes(model)
    keys.sign(folder, key, counter, None, "0", CHUNK_BYTES)
    return folder
