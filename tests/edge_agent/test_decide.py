"""What must hold of decisions, whatever is seen."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import decide
from edge_agent.decide import Rules, State
from edge_agent.follow import Place, match
from edge_agent.scene import Box, Closed, Ending, Face, Incident, Label, Opened, Reading

RULES = Rules(votes_needed=3, votes_kept=5, age_s=0.3, smallest_px=24, lost_s=1.0, cooldown_s=2.0)
BARE, MASKED, UNSURE = Label.WITHOUT_MASK, Label.WITH_MASK, Label.UNSURE


def reading(label: Label, x: float = 100, size: float = 60) -> Reading:
    p = {BARE: 0.97, MASKED: 0.02, UNSURE: 0.5}[label]
    return Reading(Face(Box(x, 100, size, size), 0.9), p, label)


def play(frames: list[tuple[Reading, ...]], rules: Rules = RULES, dt: float = 0.1, state: State | None = None) -> tuple[State, list[Incident]]:
    state, incidents = state or State(), []
    for index, readings in enumerate(frames):
        state, new = decide.step(state, readings, index * dt, rules)
        incidents += new
    return state, incidents


def test_a_bare_face_is_one_alert_however_long_it_stays() -> None:
    state, incidents = play([(reading(BARE),)] * 200)
    assert [type(one) for one in incidents] == [Opened]
    assert state.open_incidents == 1
    opened = incidents[0]
    assert (opened.seq, opened.started_s, opened.bare_votes, opened.faces) == (1, 0.0, 4, 1)


def test_an_incident_starts_where_the_bare_votes_began() -> None:
    _, incidents = play([(reading(MASKED),)] * 30 + [(reading(BARE),)] * 2 + [(reading(MASKED),)] + [(reading(BARE),)] * 10)
    assert incidents[0].started_s == 3.0


def test_nothing_is_confirmed_before_its_age() -> None:
    (opened,) = play([(reading(BARE),)] * 20)[1]
    assert opened.confirmed_s >= RULES.age_s


def test_votes_that_are_never_sure_open_nothing() -> None:
    """What is no face at all is often read as a bare one, at p between one half and 0.8."""
    doubtful = (Reading(Face(Box(100, 100, 60, 60), 0.9), 0.75, BARE),)
    assert play([doubtful] * 100)[1] == []
    assert len(play([doubtful] * 10 + [(reading(BARE),)] * 10)[1]) == 1


def test_what_was_taken_for_a_face_for_an_hour_does_not_delay_who_comes() -> None:
    """Who steps to where a spot was taken for a face in one frame of ten is followed as that spot, and must not inherit its share."""
    spot = [(reading(UNSURE),), *[()] * 9] * 3600
    _, incidents = play([*spot, *[(reading(BARE),)] * 60], dt=0.1)
    assert [type(one) for one in incidents] == [Opened]
    assert incidents[0].confirmed_s - len(spot) * 0.1 < 4


def test_a_misreading_now_and_then_is_not_where_an_incident_starts() -> None:
    """A mask that is read as none once in six frames, until it is taken off."""
    masked = [(reading(BARE),), *[(reading(MASKED),)] * 5] * 50
    _, incidents = play([*masked, *[(reading(BARE),)] * 20], Rules())
    assert [type(one) for one in incidents] == [Opened]
    assert abs(incidents[0].started_s - len(masked) * 0.1) < 0.5


def test_what_is_taken_for_a_face_now_and_then_opens_nothing() -> None:
    """A hand at a mask: surely bare, in one frame of three."""
    flicker = [(reading(BARE),), (), ()] * 20
    assert play(flicker)[1] == []
    _, incidents = play([*flicker, *[(reading(BARE),)] * 30])
    assert [type(one) for one in incidents] == [Opened], "a face that stays is seen in the end"
    assert len(play([(reading(BARE),), (reading(BARE),), ()] * 20)[1]) == 1


def test_a_camera_that_is_slow_misses_nobody() -> None:
    """Between its frames the room is not known to be empty."""
    state, incidents = State(), []
    for number in range(12):
        now_s = number * 0.9
        state, found = decide.step(state, (reading(BARE),), now_s, RULES)
        incidents += found
        for silent_s in (0.3, 0.6):
            state, found = decide.wait(state, now_s + silent_s, RULES)
            incidents += found
    assert [type(one) for one in incidents] == [Opened]
    state, incidents = decide.wait(state, now_s + RULES.lost_s, RULES)
    assert [one.ending for one in incidents] == [Ending.LEFT]
    assert state.tracks == ()


def test_a_mask_that_goes_on_ends_it_and_one_that_comes_off_is_a_new_one() -> None:
    _, incidents = play([(reading(BARE),)] * 10 + [(reading(MASKED),)] * 30 + [(reading(BARE),)] * 10)
    assert [type(one) for one in incidents] == [Opened, Closed, Opened]
    assert incidents[1].ending is Ending.MASK_ON
    assert (incidents[0].seq, incidents[1].seq, incidents[2].seq) == (1, 1, 2)
    assert incidents[1].worst_p_no_mask == 0.97


def test_a_new_incident_does_not_begin_in_the_last_one() -> None:
    """Whoever looks down for ten minutes before the mask comes off again was not bare for them."""
    frames = [(reading(BARE),)] * 10 + [(reading(MASKED),)] * 3 + [(reading(UNSURE),)] * 6000 + [(reading(BARE),)] * 10
    _, incidents = play(frames)
    assert incidents[2].started_s == (10 + 3 + 6000) * 0.1


def test_a_face_that_leaves_ends_it_when_it_was_last_seen() -> None:
    _, incidents = play([(reading(BARE),)] * 10 + [()] * 15)
    assert incidents[-1].ending is Ending.LEFT
    assert incidents[-1].ended_s == 0.9


def test_half_a_second_behind_a_pillar_is_the_same_person() -> None:
    state, incidents = play([(reading(BARE),)] * 10 + [()] * 5 + [(reading(BARE),)] * 10)
    assert len(incidents) == 1
    assert state.next_track == 2


def test_flicker_neither_opens_nor_closes() -> None:
    assert play([(reading(BARE),), (reading(MASKED),), (reading(MASKED),)] * 30)[1] == []
    _, incidents = play([(reading(BARE),)] * 10 + [(reading(MASKED),), (reading(BARE),), (reading(BARE),)] * 20)
    assert [type(one) for one in incidents] == [Opened]


@pytest.mark.parametrize("fps", [15, 30, 60, 120])
def test_a_hand_before_the_mouth_for_a_moment_is_no_mask_however_many_frames_show_it(fps: int) -> None:
    moment = [(reading(BARE),)] * (3 * fps) + [(reading(MASKED),)] * round(0.15 * fps)
    _, incidents = play([*moment * 3, *[(reading(BARE),)] * fps], Rules(), dt=1 / fps)
    assert [type(one) for one in incidents] == [Opened]


@pytest.mark.parametrize("fps", [2, 5, 15, 30, 60, 120])
def test_a_mask_that_goes_on_is_seen_at_any_rate(fps: int) -> None:
    _, incidents = play([(reading(BARE),)] * (4 * fps) + [(reading(MASKED),)] * (4 * fps), Rules(), dt=1 / fps)
    assert [type(one) for one in incidents] == [Opened, Closed]
    assert incidents[1].ended_s - 4 <= 5 / min(fps, 15)


def test_unsure_readings_are_no_votes() -> None:
    assert play([(reading(UNSURE),)] * 100)[1] == []
    _, incidents = play([(reading(BARE),)] * 10 + [(reading(UNSURE),)] * 100)
    assert [type(one) for one in incidents] == [Opened]


def test_a_face_that_is_too_small_or_too_young_waits() -> None:
    assert play([(reading(BARE, size=20),)] * 50)[1] == []
    assert play([(reading(BARE),)] * 3)[1] == []


def test_cooldown_holds_back_the_next_incident_of_a_face() -> None:
    frames = [(reading(BARE),)] * 10 + [(reading(MASKED),)] * 5 + [(reading(BARE),)] * 40
    _, incidents = play(frames)
    closed, reopened = incidents[1], incidents[2]
    assert reopened.confirmed_s >= closed.ended_s + RULES.cooldown_s


def test_two_people_are_two_incidents() -> None:
    state, incidents = play([(reading(BARE, x=100), reading(BARE, x=400))] * 20)
    assert [one.seq for one in incidents] == [1, 2]
    assert state.open_incidents == 2


def test_a_walking_face_is_followed_at_five_frames_per_second() -> None:
    frames = [(reading(BARE, x=100 + 40 * step),) for step in range(20)]
    state, incidents = play(frames, dt=0.2)
    assert len(incidents) == 1
    assert state.next_track == 2


def test_the_nearer_face_keeps_its_track() -> None:
    places = (Place(Box(100, 100, 60, 60), 0), Place(Box(160, 100, 60, 60), 0))
    assert match(places, (Box(150, 100, 60, 60), Box(95, 100, 60, 60)), 0.1) == {0: 1, 1: 0}


def test_stopping_ends_what_is_open_and_nothing_else() -> None:
    state, _ = play([(reading(BARE, x=100), reading(MASKED, x=400))] * 20)
    state, incidents = decide.close_all(state, 2.0)
    assert [(one.ending, one.track) for one in incidents] == [(Ending.STOPPED, 1)]
    assert state.open_incidents == 0
    assert decide.close_all(state, 3.0)[1] == ()


readings = st.lists(
    st.builds(
        reading, st.sampled_from([BARE, MASKED, UNSURE]), x=st.sampled_from([0.0, 50.0, 100.0, 400.0]), size=st.sampled_from([10.0, 40.0, 60.0])
    ),
    max_size=3,
).map(tuple)
rules = st.integers(1, 5).flatmap(
    lambda needed: st.builds(
        Rules,
        votes_needed=st.just(needed),
        votes_kept=st.integers(needed, 2 * needed - 1),
        age_s=st.sampled_from([0.0, 0.5]),
        smallest_px=st.just(24.0),
        lost_s=st.sampled_from([0.3, 1.0]),
        cooldown_s=st.sampled_from([0.0, 1.0]),
    )
)
films = st.lists(st.tuples(readings, st.floats(0.01, 0.6)), max_size=60)


@given(films, rules)
def test_incidents_are_well_formed_whatever_is_seen(film, own_rules: Rules) -> None:
    """Never two open for one track, nor two at one time; each open one ends, once; fewer than K bare readings of a track never alert."""
    state, now_s = State(), 0.0
    open_by_track: dict[int, int] = {}
    bare_readings: dict[int, int] = defaultdict(int)
    ended: set[int] = set()
    over_s: dict[int, float] = {}
    last_seq = 0
    for seen, dt in film:
        now_s += dt
        found = match([track.place for track in state.tracks], [one.face.box for one in seen], now_s)
        matched = {index: state.tracks[t].number for t, index in found.items()}
        newcomers = [index for index in range(len(seen)) if index not in matched]
        matched.update({index: state.next_track + n for n, index in enumerate(newcomers)})
        for index, one in enumerate(seen):
            bare_readings[matched[index]] += one.label is BARE
        state, incidents = decide.step(state, seen, now_s, own_rules)
        for incident in incidents:
            if isinstance(incident, Opened):
                assert incident.track not in open_by_track
                assert incident.seq == last_seq + 1
                assert bare_readings[incident.track] >= own_rules.votes_needed
                assert incident.bare_votes >= own_rules.votes_needed
                assert over_s.get(incident.track, 0.0) <= incident.started_s <= incident.confirmed_s == now_s
                open_by_track[incident.track] = last_seq = incident.seq
            else:
                assert open_by_track.pop(incident.track) == incident.seq
                assert incident.seq not in ended
                assert incident.started_s <= incident.ended_s <= now_s
                ended.add(incident.seq)
                over_s[incident.track] = incident.ended_s
        assert state.open_incidents == len(open_by_track)
    _, incidents = decide.close_all(state, now_s)
    assert {incident.seq for incident in incidents} == set(open_by_track.values())


@given(films, rules)
def test_an_empty_room_ends_everything_by_itself(film, own_rules: Rules) -> None:
    state, now_s = State(), 0.0
    for seen, dt in film:
        now_s += dt
        state, _ = decide.step(state, seen, now_s, own_rules)
    state, _ = decide.step(state, (), now_s + own_rules.lost_s + 0.001, own_rules)
    assert state.open_incidents == 0
    assert state.tracks == ()


@given(films, rules)
def test_the_same_film_gives_the_same_incidents(film, own_rules: Rules) -> None:
    def watch() -> list[Incident]:
        state, now_s, incidents = State(), 0.0, []
        for seen, dt in film:
            now_s += dt
            state, new = decide.step(state, seen, now_s, own_rules)
            incidents += new
        return incidents

    assert watch() == watch()
