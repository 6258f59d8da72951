import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Reason, Rejected
from protocol.release import MAX_MANIFEST_BYTES, Golden, Manifest


@pytest.fixture
def manifest_bytes(classifier_release: Path) -> bytes:
    return (classifier_release / "manifest.json").read_bytes()


def test_parse_and_encode_are_inverse(manifest_bytes: bytes) -> None:
    manifest = Manifest.parse(manifest_bytes)
    assert Manifest.parse(manifest.encode()) == manifest


def test_the_model_must_be_the_manifests(manifest_bytes: bytes, classifier_release: Path) -> None:
    manifest = Manifest.parse(manifest_bytes)
    model = (classifier_release / "model.onnx").read_bytes()
    manifest.check_model(model)
    with pytest.raises(Rejected) as caught:
        manifest.check_model(model[:-1])
    assert caught.value.reason is Reason.WRONG_DIGEST


@given(st.binary(max_size=200))
def test_any_other_bytes_are_rejected(data: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        Manifest.parse(data)
    assert caught.value.reason is Reason.BAD_RELEASE


def test_a_huge_manifest_is_refused_unread() -> None:
    with pytest.raises(Rejected) as caught:
        Manifest.parse(b" " * (MAX_MANIFEST_BYTES + 1))
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "oracle"), ("digest", "abc"), ("threshold", 2), ("unsure", [0.1]), ("temperature", 0), ("created", "yesterday"), ("v", 2)],
)
def test_a_wrong_field_is_named(manifest_bytes: bytes, field: str, value: object) -> None:
    with pytest.raises(Rejected, match=f"manifest: {field}"):
        Manifest.parse(json.dumps({**json.loads(manifest_bytes), field: value}).encode())


def test_golden_inputs_are_the_same_everywhere() -> None:
    golden = Golden(seed="maskfleet", shape=(2, 3), outputs={}, tolerance=0.001)
    assert golden.input_bytes().hex() == "502d3e08699b"


@pytest.mark.parametrize("shape", [[-1, 128, 128, 3], [4096, 4096, 4096], [0], [], [1] * 9])
def test_a_golden_input_is_bounded(manifest_bytes: bytes, shape: list[int]) -> None:
    document = json.loads(manifest_bytes)
    document["golden"]["shape"] = shape
    with pytest.raises(Rejected, match=r"manifest: golden\.shape"):
        Manifest.parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("needed", "agent", "is_enough"),
    [("0", "0.1.0", True), ("0.1", "0.1.0", True), ("0.10", "0.9.9", False), ("1.2.3", "1.2.4.dev1", True), ("1", "1.0rc1", True), ("1", "?", False)],
)
def test_an_old_agent_is_told(manifest_bytes: bytes, needed: str, agent: str, is_enough: bool) -> None:
    manifest = Manifest.parse(json.dumps({**json.loads(manifest_bytes), "minimum_agent": needed}).encode())
    if is_enough:
        manifest.check_agent(agent)
    else:
        with pytest.raises(Rejected) as caught:
            manifest.check_agent(agent)
        assert caught.value.reason is Reason.AGENT_TOO_OLD


def test_an_expired_release_is_refused_and_a_clock_in_1970_cannot_tell(manifest_bytes: bytes) -> None:
    manifest = Manifest.parse(json.dumps({**json.loads(manifest_bytes), "expires": "2030-01-01T00:00:00Z"}).encode())
    manifest.check_date(datetime(2029, 12, 31, tzinfo=UTC))
    manifest.check_date(datetime(1970, 1, 1, tzinfo=UTC))
    with pytest.raises(Rejected) as caught:
        manifest.check_date(datetime(2030, 1, 1, tzinfo=UTC))
    assert caught.value.reason is Reason.EXPIRED


@pytest.mark.parametrize("chunks", [["ab"], ["ab" * 32] * 3, ["ab" * 32] * 50])
def test_the_chunks_must_make_the_model(manifest_bytes: bytes, chunks: list[str]) -> None:
    with pytest.raises(Rejected, match="manifest: "):
        Manifest.parse(json.dumps({**json.loads(manifest_bytes), "chunks": chunks}).encode())
