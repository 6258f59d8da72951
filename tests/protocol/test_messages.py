import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Reason, Rejected
from protocol.messages import (
    MAX_PAYLOAD_BYTES,
    MESSAGES,
    Alert,
    Birth,
    Command,
    CommandAck,
    Discovery,
    Health,
    IncidentEnded,
    Message,
    Model,
    NoMask,
    PlainMessage,
    Snapshot,
    Status,
    Telemetry,
)
from protocol.rollouts import (
    ROLLOUT_MESSAGES,
    Chunk,
    CoordinatorStatus,
    Desired,
    Installed,
    Report,
    Reported,
    RolloutAck,
    RolloutCommand,
    RolloutLog,
    RolloutState,
    Trial,
    UpdateState,
    Want,
)
from protocol.signature import Signature

ALL = (*MESSAGES, *ROLLOUT_MESSAGES)
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MODEL = Model(name="door", version="1", digest="ab")
SAMPLES: tuple[Message, ...] = (
    Status(value="online"),
    NoMask(value="ON"),
    Birth(
        boot="b",
        session=2,
        agent_version="1",
        python_version="3",
        classifier=MODEL,
        detector=MODEL,
        camera_asked="demo:",
        camera_got="960x540 at 15 fps",
    ),
    Health(boot="b", capture="stalled", reason="no frame for 4 s", last_frame_age_s=4.2, restarts=1, outbox=0, lost=0),
    Telemetry(
        boot="b",
        fps_capture=30,
        fps_processed=29.5,
        frames_dropped=1,
        latency_p50_ms=12,
        latency_p95_ms=20,
        detect_ms=9,
        classify_ms=1,
        faces=1.5,
        temperature_c=None,
        memory_mb=88,
        outbox=0,
        model="door 1",
    ),
    Alert(id="b-1", boot="b", seq=1, started=STARTED, p_no_mask=0.98, votes="5/6", faces=2, model="door 1"),
    Command(id="1", op="detect", args={"on": False}, expires=STARTED),
    Snapshot(jpeg=b"\xff\xd8\xff"),
    CommandAck(id="1", ok=False, reason="no"),
    Discovery(document={"device": {"identifiers": ["x"]}}),
    IncidentEnded(id="b-1", boot="b", seq=1, started=STARTED, duration_s=3.5, worst_p_no_mask=1, frames=40, ended="mask_on"),
    Desired(rollout="r1", attempt=1, manifest="e30=", signature=Signature(key="ab" * 8, signature="A" * 86 + "==")),
    Reported(
        installed_version="door 1",
        latest_version="door 2",
        in_progress=True,
        update_percentage=40,
        boot="b",
        seq=3,
        rollout="r1",
        kind="classifier",
        digest="ab",
        state=UpdateState.FETCHING,
        trial=Trial(frames=1, faces=2, disagreed=0),
        classifier=Installed(name="door", version="1", digest="ab", counter=1),
        detector=Installed(name="face", version="1", digest="ab"),
    ),
    Want(site="lobby", camera="door-1", chunks=(0, 5)),
    Chunk(data=b"\x00raw\xff"),
    Report(),
    RolloutState(
        epoch=1,
        seq=1,
        phase="running",
        kind="detector",
        name="face",
        version="2",
        digest="ab",
        counter=2,
        wave=1,
        waves=4,
        cameras=100,
        waiting=99,
        updating=1,
        committed=0,
        rejected=0,
        failed=0,
        rolled_back=0,
        offline=0,
        updated=STARTED,
    ),
    RolloutLog(epoch=1, seq=1, at=STARTED, event="wave", text="wave 1 of 4"),
    RolloutCommand(id="1", op="pause", rollout="r1"),
    RolloutAck(id="1", ok=True),
    CoordinatorStatus(value="online"),
)
JSON_SAMPLES = [sample for sample in SAMPLES if not isinstance(sample, PlainMessage | Discovery | Snapshot | Chunk)]


def test_every_message_has_a_sample() -> None:
    assert {type(sample) for sample in SAMPLES} == set(ALL)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_encode_and_decode_are_inverse(message: Message) -> None:
    assert type(message).decode(message.encode()) == message
    assert len(message.encode()) < 2000


@pytest.mark.parametrize("message", JSON_SAMPLES, ids=lambda message: type(message).__name__)
def test_json_messages_carry_their_version_and_ignore_unknown_fields(message: Message) -> None:
    document = json.loads(message.encode())
    assert document["v"] == 1
    assert type(message).decode(json.dumps({**document, "from_the_future": [1, 2]}).encode()) == message
    with pytest.raises(Rejected):
        type(message).decode(json.dumps({**document, "v": 2}).encode())


@given(st.binary(max_size=300), st.sampled_from(ALL))
def test_any_bytes_give_a_message_or_rejected(payload: bytes, kind: type[Message]) -> None:
    try:
        message = kind.decode(payload)
    except Rejected as error:
        assert error.reason is Reason.BAD_PAYLOAD
        assert "\n" not in str(error)
    else:
        assert kind.decode(message.encode()) == message


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5), lambda own: st.lists(own, max_size=3), max_leaves=5
)


@given(st.data())
def test_a_field_of_another_type_gives_a_message_or_rejected(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from(JSON_SAMPLES))
    document = json.loads(sample.encode())
    document[data.draw(st.sampled_from(sorted(document)))] = data.draw(json_values)
    try:
        type(sample).decode(json.dumps(document).encode())
    except Rejected as error:
        assert error.reason is Reason.BAD_PAYLOAD


def test_a_payload_that_is_too_large_is_refused_unparsed() -> None:
    with pytest.raises(Rejected) as caught:
        Alert.decode(b"x" * (MAX_PAYLOAD_BYTES + 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_the_reason_names_the_field() -> None:
    document = {**json.loads(SAMPLES[5].encode()), "p_no_mask": 1.5}
    with pytest.raises(Rejected, match="alert: p_no_mask"):
        Alert.decode(json.dumps(document).encode())


def test_a_time_without_a_zone_is_refused() -> None:
    document = {**json.loads(SAMPLES[5].encode()), "started": "2026-01-02T03:04:05"}
    with pytest.raises(Rejected, match="started"):
        Alert.decode(json.dumps(document).encode())


def test_an_empty_discovery_removes() -> None:
    assert Discovery(document=None).encode() == b""
    assert Discovery.decode(b"") == Discovery(document=None)


@pytest.mark.parametrize("manifest", ["e30", "e3 0=", "é", "\u0000"])
def test_a_manifest_that_is_not_base64_is_a_bad_release(manifest: str) -> None:
    with pytest.raises(Rejected) as caught:
        Desired(rollout="r", attempt=1, manifest=manifest).manifest_bytes  # noqa: B018
    assert caught.value.reason is Reason.BAD_RELEASE
