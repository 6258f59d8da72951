import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Reason, Rejected
from protocol.topics import (
    CAMERA_TOPICS,
    CHUNK,
    DISCOVERY,
    ROLLOUT_STATE,
    SNAPSHOT,
    STATUS,
    TOPICS,
    WANT,
    Address,
    ChunkAddress,
    Fleet,
    ReleaseAddress,
    RolloutAddress,
    SnapshotAddress,
    Topic,
)

segments = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
pieces = st.from_regex(r"(0|[1-9][0-9]{0,3})(-(0|[1-9][0-9]{0,2})-[1-9][0-9]{0,2})?", fullmatch=True)
addresses = st.builds(Address, segments, segments, segments)
alike = st.builds(Address, *[st.from_regex(r"[a_-]{1,3}", fullmatch=True)] * 3)
ADDRESSES = {
    Address: addresses,
    Fleet: st.builds(Fleet, segments),
    SnapshotAddress: st.builds(SnapshotAddress, segments, segments, segments, segments),
    RolloutAddress: st.builds(RolloutAddress, segments, segments),
    ReleaseAddress: st.builds(ReleaseAddress, segments, digests),
    ChunkAddress: st.builds(ChunkAddress, segments, digests, pieces),
}
SAMPLES = {
    Address: Address("b", "s", "c"),
    Fleet: Fleet("b"),
    SnapshotAddress: SnapshotAddress("b", "s", "c", "x"),
    RolloutAddress: RolloutAddress("b", "r"),
    ReleaseAddress: ReleaseAddress("b", "ab" * 16),
    ChunkAddress: ChunkAddress("b", "ab" * 16, "5-0-2"),
}


@given(st.data(), st.sampled_from(TOPICS))
def test_build_and_parse_are_inverse(data: st.DataObject, topic: Topic) -> None:
    address = data.draw(ADDRESSES[topic.address])
    assert topic.parse(topic.build(address)) == address


@given(st.text(max_size=80), st.sampled_from(TOPICS))
def test_parse_accepts_what_build_gives_and_nothing_else(text: str, topic: Topic) -> None:
    try:
        address = topic.parse(text)
    except Rejected as error:
        assert error.reason is Reason.BAD_TOPIC
    else:
        assert topic.build(address) == text


@given(segments, st.sampled_from(list(". +#/\n\0é$")), st.integers(0, 64))
def test_a_segment_never_holds_what_some_broker_chokes_on(segment: str, bad: str, at: int) -> None:
    for parts in ((segment[:at] + bad + segment[at:], "a", "b"), ("a", segment[:at] + bad + segment[at:], "b"), ("a", "b", "")):
        with pytest.raises(Rejected, match="letters, digits"):
            Address(*parts)


def test_topics_are_told_apart_and_stay_portable() -> None:
    built = {topic.build(SAMPLES[topic.address]) for topic in TOPICS}
    assert len(built) == len(TOPICS)
    assert all(topic.count("/") <= 7 for topic in built)
    assert {topic.qos for topic in TOPICS} <= {0, 1}


def test_one_kind_does_not_parse_another() -> None:
    for topic in TOPICS:
        for other in TOPICS:
            if other is not topic:
                with pytest.raises(Rejected):
                    topic.parse(other.build(SAMPLES[other.address]))


def test_an_address_of_another_kind_builds_nothing() -> None:
    with pytest.raises(TypeError):
        STATUS.build(Fleet("b"))


def test_a_scope_may_be_anything_that_the_topic_lies_in() -> None:
    release = ReleaseAddress("b", "ab" * 16)
    assert CHUNK.filter(release) == f"b-release/{'ab' * 16}/chunk/+"
    assert WANT.filter("b") == "b-release/+/want"
    assert ROLLOUT_STATE.filter("b") == "b/rollout/+/state"


@pytest.mark.parametrize("release", ["", "ab", "AB" * 16, "zz" * 16, "ab" * 17])
def test_a_release_is_named_by_its_digest(release: str) -> None:
    with pytest.raises(Rejected):
        ReleaseAddress("b", release)


@pytest.mark.parametrize("piece", ["", "-1", "05", "10000", "1-2", "1-0-0", "1-0-2-3", "x"])
def test_a_chunk_is_named_by_its_number(piece: str) -> None:
    with pytest.raises(Rejected):
        ChunkAddress("b", "ab" * 16, piece)


@given(addresses, st.sampled_from(CAMERA_TOPICS))
def test_a_filter_names_one_camera_or_all_of_a_base(address: Address, topic: Topic) -> None:
    assert topic.filter(address) == topic.build(address)
    assert topic.filter(address.base) == f"{address.base}/camera/+/+/{topic.leaf}"


def test_the_discovery_topic_is_one_level_below_home_assistants() -> None:
    built = DISCOVERY.build(Address("maskfleet", "lobby", "door-1"))
    assert built == "homeassistant/device/maskfleet_lobby_door-1/config"
    with pytest.raises(Rejected):
        DISCOVERY.parse(built)


@given(addresses, segments)
def test_each_picture_has_a_topic_of_its_own(camera: Address, name: str) -> None:
    address = SnapshotAddress.of(camera, name)
    assert SNAPSHOT.build(address) == f"{camera.base}/camera/{camera.site}/{camera.camera}/snapshot/{name}"
    assert SNAPSHOT.parse(SNAPSHOT.build(address)) == address
    assert SNAPSHOT.filter(camera) == SNAPSHOT.filter(camera.base).replace("/+/+/", f"/{camera.site}/{camera.camera}/")
    with pytest.raises(Rejected):
        SNAPSHOT.parse(f"{camera.base}/camera/{camera.site}/{camera.camera}/alert/{name}")
    with pytest.raises(Rejected):
        SnapshotAddress.of(camera, f"{name}/#")


@given(alike, alike)
def test_no_two_cameras_have_one_name(one: Address, other: Address) -> None:
    assert (one.name == other.name) == (one == other)


def test_names_that_run_together_alike_are_two() -> None:
    assert Address("b", "hall", "east-door").name != Address("b", "hall-east", "door").name
