"""Shares in a rollout's rules are the decimal figures that somebody wrote, not the floats next to them: 14 of 25 are 0.56."""

from fleet_driver import ANSWER_S, RULES, SOAK_S, Driver
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.rollouts import UpdateState as U
from trainer.rollout_state import Fate, Heard, Phase, Start, Tick

PARTS = st.integers(1, 40).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole)))
PERCENT = st.integers(0, 100)


def begun(cameras: int, **rules: object) -> Driver:
    fleet = Driver(cameras, RULES.model_copy(update={"threshold": 0.0, "quorum": 1.0, "max_failures": 1000, **rules}))
    fleet(Start)
    return fleet


@given(PARTS, PERCENT)
@example((14, 25), 56)
@example((23, 25), 92)
def test_threshold(parts: tuple[int, int], percent: int) -> None:
    good, whole = parts
    fleet = begun(whole, waves=("100%",), threshold=percent / 100)
    for number, name in enumerate(fleet.names):
        fleet.answer(name, U.COMMITTED if number < good else U.FAILED)
    assert (fleet.state.phase is Phase.PAUSED) == (100 * good < percent * whole)


@given(PARTS, PERCENT)
@example((14, 25), 56)
def test_quorum_of_answers(parts: tuple[int, int], percent: int) -> None:
    answered, whole = parts
    fleet = begun(whole + 1, waves=(str(whole), "100%"), quorum=percent / 100)
    for name in fleet.of(Fate.UPDATING)[:answered]:
        fleet.answer(name)
    assert (fleet.state.phase is Phase.SOAKING) == (answered > 0 and 100 * answered >= percent * whole)


@given(PARTS, PERCENT)
@example((14, 25), 56)
def test_quorum_after_the_soak(parts: tuple[int, int], percent: int) -> None:
    there, whole = parts
    fleet = begun(whole + 1, waves=(str(whole), "100%"), quorum=percent / 100)
    for name in fleet.of(Fate.UPDATING):
        fleet.answer(name)
    for name in fleet.of(Fate.COMMITTED)[there:]:
        fleet(Heard, name, is_online=False)
    fleet.now_s += SOAK_S + ANSWER_S
    fleet(Tick)
    assert (fleet.state.phase is Phase.PAUSED) == (100 * there < percent * whole)


@given(PARTS, PERCENT)
@example((7, 24), 28)
def test_failures(parts: tuple[int, int], percent: int) -> None:
    bad, whole = parts
    fleet = begun(whole + 1, waves=("1", "100%"), max_failures=1, max_failure_share=percent / 100)
    fleet.wave()
    for number, name in enumerate(fleet.of(Fate.UPDATING)):
        fleet.answer(name, U.FAILED if number >= whole - bad else U.COMMITTED)
    assert (fleet.state.phase is Phase.PAUSED) == (bad > 0 and 100 * bad >= percent * (whole + 1))
