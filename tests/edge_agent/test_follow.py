"""Who is who among faces that move: told by what is alerted of."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import decide
from edge_agent.decide import Rules, State
from edge_agent.follow import Place, match
from edge_agent.scene import Box, Closed, Ending, Face, Incident, Label, Opened, Reading

SIDE_PX, WIDE_PX = 80.0, 1280.0


def reading(x: float, is_bare: bool, size: float = SIDE_PX) -> Reading:
    box = Box(x - size / 2, 300 - size / 2, size, size)
    return Reading(Face(box, 0.9), 0.97 if is_bare else 0.02, Label.WITHOUT_MASK if is_bare else Label.WITH_MASK)


def film(fps: float, seconds: float, *people) -> list[Incident]:
    """What comes of people, nearest first: each tells where its face is at a time, and whether it is bare. Who is mostly hidden is not seen."""
    state, incidents = State(), []
    for number in range(round(fps * seconds)):
        now_s = number / fps
        seen: list[tuple[float, bool]] = []
        for where, is_bare in people:
            x = where(now_s)
            if 0 < x < WIDE_PX and all(abs(x - other) > 0.55 * SIDE_PX for other, _ in seen):
                seen.append((x, is_bare))
        state, new = decide.step(state, tuple(reading(*one) for one in seen), now_s, Rules())
        incidents += new
    return incidents


def walk(faces_per_s: float, meets_at_s: float):
    """Past the middle of the picture at a time."""
    return lambda now_s: WIDE_PX / 2 + faces_per_s * SIDE_PX * (now_s - meets_at_s)


@pytest.mark.parametrize("is_bare_nearer", [True, False])
@pytest.mark.parametrize("faces_per_s", [1, 3, 5])
@pytest.mark.parametrize("fps", [5, 10, 15, 30, 60])
def test_people_who_cross_are_not_exchanged(fps: float, faces_per_s: float, is_bare_nearer: bool) -> None:
    """At five faces a second, an ordinary walk, bare and masked faces jump far over each other between two frames."""
    middle_s = WIDE_PX / 2 / SIDE_PX / faces_per_s
    people = [(walk(faces_per_s, middle_s), True), (walk(-faces_per_s, middle_s), False)]
    incidents = film(fps, 2 * middle_s, *(people if is_bare_nearer else reversed(people)))
    assert [type(one) for one in incidents] == [Opened]


@pytest.mark.parametrize("faces_per_s", [1, 3, 5])
@pytest.mark.parametrize("fps", [5, 15, 30])
def test_who_passes_before_a_poster_does_not_take_its_place(fps: float, faces_per_s: float) -> None:
    passer = walk(faces_per_s, 2 + WIDE_PX / 2 / SIDE_PX / faces_per_s)
    incidents = film(fps, 16, (passer, False), (lambda _: WIDE_PX / 2, True))
    assert [type(one) for one in incidents] == [Opened]


@pytest.mark.parametrize(("fps", "faces_per_s"), [(5, 5), (5, 7), (3, 3.5), (2, 2), (2, 3.5), (15, 7)])
def test_who_walks_past_a_slow_camera_is_one_person(fps: float, faces_per_s: float) -> None:
    middle_s = WIDE_PX / 2 / SIDE_PX / faces_per_s
    assert [type(one) for one in film(fps, 2 * middle_s + 3, (walk(faces_per_s, middle_s), True))] == [Opened, Closed]


@pytest.mark.parametrize("fps", [5, 15, 30])
def test_who_turns_round_is_one_person(fps: float) -> None:
    def there_and_back(now_s: float) -> float:
        return 200 + abs(math.remainder(now_s, 6)) * 3 * SIDE_PX

    assert [type(one) for one in film(fps, 20, (there_and_back, True))] == [Opened]


@pytest.mark.parametrize("is_bare", [True, False])
@pytest.mark.parametrize("fps", [3, 5, 15])
def test_who_comes_beside_where_somebody_left_is_another(fps: float, is_bare: bool) -> None:
    """A face and a half away, one second later: a bare one is alerted of by itself, and a masked one ends nobody's incident as `mask_on`."""

    def first(now_s: float) -> float:
        return 600 if now_s < 4 else -1

    def second(now_s: float) -> float:
        return 600 + 1.5 * SIDE_PX if now_s >= 5 else -1

    incidents = film(fps, 12, (first, True), (second, is_bare))
    assert [one.ending for one in incidents if isinstance(one, Closed)] == [Ending.LEFT]
    assert sum(isinstance(one, Opened) for one in incidents) == 1 + is_bare


def test_who_was_hidden_is_looked_for_where_they_were_going() -> None:
    going = Place(Box(100, 100, 60, 60), 0.0)
    for number in range(1, 6):
        going = going.next(Box(100 + 30 * number, 100, 60, 60), number / 10)
    assert going.foreseen(0.9).x == pytest.approx(370, abs=30)
    assert match([going], [Box(250, 100, 60, 60), Box(370, 100, 60, 60)], 0.9) == {0: 1}


boxes = st.builds(Box, *[st.floats(-2000, 2000)] * 2, *[st.floats(0, 500)] * 2)
places = st.builds(Place, boxes, st.floats(0, 5), st.tuples(*[st.floats(-1e5, 1e5)] * 2))


@given(st.lists(places, max_size=5), st.lists(boxes, max_size=5))
def test_each_box_is_one_face_at_most(known: list[Place], seen: list[Box]) -> None:
    found = match(known, seen, 5.0)
    assert len(set(found.values())) == len(found)
    assert set(found) <= set(range(len(known)))
    assert set(found.values()) <= set(range(len(seen)))
