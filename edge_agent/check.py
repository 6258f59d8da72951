"""May a camera have this release at all? Signature, date and version; the rest is the update machine's."""

from dataclasses import dataclass
from datetime import datetime

from edge_agent.update_state import Target
from protocol.errors import Reason, Rejected
from protocol.release import Manifest
from protocol.rollouts import Desired, Kind
from protocol.signature import TrustedKeys


@dataclass(frozen=True)
class Owner:
    """Whose releases a camera takes, and for which of its models."""

    keys: TrustedKeys
    agent_version: str
    pinned: frozenset[Kind] = frozenset()
    """Kinds whose model the settings name: they are not updated."""


def read(desired: Desired, owner: Owner, now: datetime) -> Manifest:
    """The manifest of what is asked for, once its signature is proven; raises Rejected."""
    if not owner.keys:
        raise Rejected(Reason.UPDATES_OFF, "this camera trusts no key: set updates.trusted_keys")
    if desired.signature is None:
        raise Rejected(Reason.BAD_SIGNATURE, "the release is not signed")
    desired.signature.check(desired.manifest_bytes, owner.keys, now)
    return Manifest.parse(desired.manifest_bytes)


def allow(manifest: Manifest, owner: Owner, now: datetime) -> None:
    """Raises Rejected when the release is too old, or this agent is, or the model is not to be updated."""
    manifest.check_date(now)
    manifest.check_agent(owner.agent_version)
    if manifest.kind in owner.pinned:
        raise Rejected(Reason.UPDATES_OFF, f"this camera's settings name its {manifest.kind}")
    if not manifest.chunks:
        raise Rejected(Reason.BAD_RELEASE, "the manifest has no chunks; sign the release again")


def target_of(manifest: Manifest, desired: Desired) -> Target:
    """What the update machine must know of a release."""
    return Target(
        kind=manifest.kind,
        digest=manifest.digest,
        fingerprint=manifest.fingerprint,
        name=manifest.name,
        version=manifest.version,
        counter=manifest.counter,
        manifest=desired.manifest,
        signature=desired.signature,
    )
