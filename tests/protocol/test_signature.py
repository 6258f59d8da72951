"""What a trusted key signed is accepted, and nothing else, whatever the bytes."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.chunks import CHUNK_BYTES, digests
from protocol.errors import Reason, Rejected
from protocol.release import Manifest
from protocol.rollouts import MAX_RETAINED_BYTES, Desired
from protocol.signature import Signature, Statement, public_text, trusted_keys

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLD, NEW, NEWEST, FOREIGN = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(4))
TRUSTED = trusted_keys([public_text(OLD.public_key())])
MANIFEST = b'{"v": 1}'


def vouch(key: Ed25519PrivateKey, by: Ed25519PrivateKey, expires: datetime | None = None) -> Statement:
    return Statement.make(public_text(key.public_key()), expires, by)


def reason(signature: Signature, manifest: bytes = MANIFEST, now: datetime = NOW) -> Reason | None:
    try:
        signature.check(manifest, TRUSTED, now)
    except Rejected as error:
        return error.reason
    return None


def test_a_trusted_key_is_believed() -> None:
    assert reason(Signature.make(MANIFEST, OLD)) is None


@given(st.binary(max_size=100).filter(lambda data: data != MANIFEST))
def test_other_bytes_are_refused(manifest: bytes) -> None:
    assert reason(Signature.make(MANIFEST, OLD), manifest) is Reason.BAD_SIGNATURE


@given(st.integers(0, 511))
def test_one_bit_of_the_signature_matters(bit: int) -> None:
    import base64

    signature = Signature.make(MANIFEST, OLD)
    raw = bytearray(base64.b64decode(signature.signature))
    raw[bit // 8] ^= 1 << bit % 8
    assert reason(signature.model_copy(update={"signature": base64.b64encode(raw).decode()})) is Reason.BAD_SIGNATURE


def test_another_key_is_refused_by_its_name_and_by_a_false_one() -> None:
    foreign = Signature.make(MANIFEST, FOREIGN)
    assert reason(foreign) is Reason.UNKNOWN_KEY
    assert reason(foreign.model_copy(update={"key": Signature.make(MANIFEST, OLD).key})) is Reason.BAD_SIGNATURE


def test_a_trusted_key_vouches_for_the_next_and_that_for_the_one_after() -> None:
    assert reason(Signature.make(MANIFEST, NEW, (vouch(NEW, OLD),))) is None
    assert reason(Signature.make(MANIFEST, NEWEST, (vouch(NEW, OLD), vouch(NEWEST, NEW)))) is None
    assert reason(Signature.make(MANIFEST, NEWEST, (vouch(NEWEST, NEW), vouch(NEW, OLD)))) is Reason.UNKNOWN_KEY


def test_a_foreign_key_cannot_vouch() -> None:
    assert reason(Signature.make(MANIFEST, FOREIGN, (vouch(FOREIGN, FOREIGN),))) is Reason.UNKNOWN_KEY
    forged = vouch(FOREIGN, FOREIGN).model_copy(update={"key": vouch(NEW, OLD).key})
    assert reason(Signature.make(MANIFEST, FOREIGN, (forged,))) is Reason.BAD_SIGNATURE
    swapped = vouch(NEW, OLD).model_copy(update={"public_key": public_text(FOREIGN.public_key())})
    assert reason(Signature.make(MANIFEST, FOREIGN, (swapped,))) is Reason.BAD_SIGNATURE


def test_a_statement_ends() -> None:
    signature = Signature.make(MANIFEST, NEW, (vouch(NEW, OLD, NOW),))
    assert reason(signature, now=NOW - timedelta(seconds=1)) is None
    assert reason(signature, now=NOW) is Reason.UNKNOWN_KEY
    later = signature.statements[0].model_copy(update={"expires": NOW + timedelta(days=1)})
    assert reason(Signature.make(MANIFEST, NEW, (later,))) is Reason.BAD_SIGNATURE


def test_the_end_of_a_signature_is_that_of_the_last_way_to_its_signer() -> None:
    day = timedelta(days=1)
    trusts_both = TRUSTED | trusted_keys([public_text(FOREIGN.public_key())])
    chain = (vouch(NEW, OLD, NOW + 3 * day), vouch(NEWEST, NEW, NOW + 2 * day))
    assert Signature.make(MANIFEST, OLD).end(TRUSTED, NOW) is None
    assert Signature.make(MANIFEST, NEW, (vouch(NEW, OLD),)).end(TRUSTED, NOW) is None
    assert Signature.make(MANIFEST, NEW, chain).end(TRUSTED, NOW) == NOW + 3 * day, "what vouches for another key does not count"
    assert Signature.make(MANIFEST, NEWEST, chain).end(TRUSTED, NOW) == NOW + 2 * day
    two_ways = Signature.make(MANIFEST, NEWEST, (*chain, vouch(NEWEST, FOREIGN, NOW + 9 * day)))
    assert two_ways.end(TRUSTED, NOW) == NOW + 2 * day
    assert two_ways.end(trusts_both, NOW) == NOW + 9 * day
    assert two_ways.end(trusted_keys([public_text(NEWEST.public_key())]), NOW) is None


def test_the_roots_of_a_signature_are_the_keys_that_are_enough_to_believe_it() -> None:
    ids = {key: Signature.make(MANIFEST, key).key for key in (OLD, NEW, NEWEST)}
    chain = Signature.make(MANIFEST, NEWEST, (vouch(NEW, OLD, NOW), vouch(FOREIGN, FOREIGN), vouch(NEWEST, NEW)))
    assert chain.roots() == set(ids.values())
    assert chain.roots(NOW) == {ids[NEW], ids[NEWEST]}, "what the old key stated has ended"
    assert chain.model_copy(update={"statements": chain.statements[::-1]}).roots() == {ids[NEW], ids[NEWEST]}, "out of order"
    for key in ids:
        chain.check(MANIFEST, trusted_keys([public_text(key.public_key())]), NOW - timedelta(days=1))


def test_a_statement_is_no_manifest() -> None:
    stated = vouch(NEW, OLD)
    assert reason(Signature(key=stated.key, signature=stated.signature), public_text(NEW.public_key()).encode()) is Reason.BAD_SIGNATURE


@given(st.binary(max_size=200))
def test_any_bytes_are_a_signature_or_rejected(data: bytes) -> None:
    for kind in (Signature, Statement):
        with pytest.raises(Rejected) as caught:
            kind.parse(data)
        assert caught.value.reason is Reason.BAD_SIGNATURE


EDGES = ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00")


@pytest.mark.parametrize("expires", EDGES)
def test_a_statement_that_ends_outside_the_calendar_is_refused(expires: str) -> None:
    document = json.loads(Signature.make(MANIFEST, NEW, (vouch(NEW, OLD),)).encode())
    document["statements"][0]["expires"] = expires
    for kind, own in ((Signature, document), (Statement, document["statements"][0])):
        with pytest.raises(Rejected, match="expires") as caught:
            kind.parse(json.dumps(own).encode())
        assert caught.value.reason is Reason.BAD_SIGNATURE
    with pytest.raises(Rejected, match="expires"):
        Desired.decode(json.dumps({"signature": document}).encode())


@pytest.mark.parametrize("expires", EDGES)
def test_the_dates_of_a_manifest_may_stand_at_the_edge_of_the_calendar(expires: str) -> None:
    data = (ROOT / "edge_agent" / "models" / "classifier" / "manifest.json").read_bytes()
    manifest = Manifest.parse(json.dumps({**json.loads(data), "created": expires, "expires": expires}).encode())
    assert Manifest.parse(manifest.encode()) == manifest
    if expires > "2":
        manifest.check_date(NOW)
    else:
        with pytest.raises(Rejected, match="expired at 0001"):
            manifest.check_date(NOW)


def test_a_statement_may_end_in_any_time_zone() -> None:
    elsewhere = (NOW + timedelta(days=1)).astimezone(timezone(timedelta(hours=-5)))
    assert reason(Signature.parse(Signature.make(MANIFEST, NEW, (vouch(NEW, OLD, elsewhere),)).encode())) is None


def test_a_file_of_a_signature_is_read_again() -> None:
    signature = Signature.make(MANIFEST, NEW, (vouch(NEW, OLD, NOW),))
    assert Signature.parse(signature.encode()) == signature


@pytest.mark.parametrize("text", ["", "abc", "A" * 44, "é" * 44, public_text(OLD.public_key())[:-2]])
def test_what_is_no_key_is_one_line(text: str) -> None:
    with pytest.raises(Rejected, match="public key"):
        trusted_keys([text])


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_what_ships_fits_into_a_retained_message_when_it_is_signed_with_two_statements(kind: str) -> None:
    folder = ROOT / "edge_agent" / "models" / kind
    model = (folder / "model.onnx").read_bytes()
    fields = {"counter": 2**31, "expires": NOW.isoformat(), "chunk_bytes": CHUNK_BYTES, "chunks": digests(model, CHUNK_BYTES)}
    manifest = Manifest.parse(json.dumps({**json.loads((folder / "manifest.json").read_bytes()), **fields}).encode()).encode()
    desired = Desired.of("r" * 64, 1, manifest, Signature.make(manifest, NEWEST, (vouch(NEW, OLD), vouch(NEWEST, NEW))))
    assert desired.manifest_bytes == manifest
    assert len(desired.encode()) <= MAX_RETAINED_BYTES


def test_a_manifest_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(Rejected, match="too many for a retained message") as caught:
        Desired.of("r", 1, bytes(7000), None)
    assert caught.value.reason is Reason.TOO_LARGE


def test_an_empty_desired_asks_for_nothing() -> None:
    assert Desired.decode(b"") == Desired()
    assert Desired().manifest_bytes == b""


def test_a_private_key_is_not_shown_where_a_public_one_is_wanted() -> None:
    with pytest.raises(Rejected, match=r"\.pub") as caught:
        trusted_keys(["-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIB4N\n-----END PRIVATE KEY-----\n"])
    assert "MC4" not in str(caught.value)
