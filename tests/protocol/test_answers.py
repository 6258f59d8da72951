"""Commands that cannot be read are answered all the same, where there is something to answer by."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.answers import refused
from protocol.errors import Rejected
from protocol.messages import Command, CommandAck
from protocol.rollouts import RolloutAck, RolloutCommand


def answer(payload: bytes) -> CommandAck | None:
    with pytest.raises(Rejected) as caught:
        Command.decode(payload)
    return refused(CommandAck, payload, caught.value)


@pytest.mark.parametrize(("id_", "by"), [(1764324000000, "1764324000000"), (-1, "-1"), (1.5, "1.5"), ("x" * 65, "x" * 64), (10**99, "1" + "0" * 63)])
def test_an_id_that_is_a_number_or_too_long_is_answered_by_its_text(id_: object, by: str) -> None:
    ack = answer(json.dumps({"id": id_, "op": "report"}).encode())
    assert ack is not None
    assert (ack.id, ack.ok) == (by, False)
    assert ack.reason.startswith("command: id: ")


def test_the_coordinator_answers_it_too() -> None:
    payload = b'{"id": 7, "op": "status"}'
    with pytest.raises(Rejected) as caught:
        RolloutCommand.decode(payload)
    assert refused(RolloutAck, payload, caught.value) == RolloutAck(id="7", ok=False, reason="rollout/command: id: Input should be a valid string")


@pytest.mark.parametrize("id_", ["true", "null", "[1]", "{}", '""', "NaN", "1e999", "-Infinity"])
def test_what_is_no_id_is_answered_by_none(id_: str) -> None:
    assert answer(f'{{"id": {id_}, "op": "report"}}'.encode()) is None


@given(st.text() | st.integers() | st.floats())
def test_whatever_the_id_is_an_answer_can_be_sent(id_: object) -> None:
    ack = refused(CommandAck, json.dumps({"id": id_}).encode(), Rejected("bad_payload", "why"))
    assert ack is None or CommandAck.decode(ack.encode()) == ack
