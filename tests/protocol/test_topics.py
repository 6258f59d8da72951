import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Reason, Rejected
from protocol.topics import DISCOVERY, SNAPSHOT, TOPICS, Address, SnapshotAddress, Topic

segments = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
addresses = st.builds(Address, segments, segments, segments)


@given(addresses, st.sampled_from(TOPICS))
def test_build_and_parse_are_inverse(address: Address, topic: Topic) -> None:
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
    built = {topic.build(Address("maskfleet", "lobby", "door-1")) for topic in TOPICS}
    assert len(built) == len(TOPICS)
    assert all(topic.count("/") <= 7 for topic in built)
    assert {topic.qos for topic in TOPICS} <= {0, 1}


def test_one_kind_does_not_parse_another() -> None:
    for topic in TOPICS:
        for other in TOPICS:
            if other is not topic:
                with pytest.raises(Rejected):
                    topic.parse(other.build(Address("b", "s", "c")))


@given(addresses, st.sampled_from(TOPICS))
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
