"""What losses are divided by: between a step's own number of faces and the usual one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.detector_usual import Usual


def told(*numbers: float) -> Usual:
    usual = Usual()
    for number in numbers:
        usual.number(torch.tensor(number))
    return usual


def test_the_first_step_is_usual() -> None:
    assert Usual().number(torch.tensor(40)) == 40


@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(0, 1000))
def test_it_lies_between_the_own_number_and_the_usual_one(before: list[int], own: int) -> None:
    usual = told(*before)
    found = float(usual.number(torch.tensor(own)))
    low, high = sorted([max(1, own), float(usual.mean)])
    assert low * 0.9999 <= found <= high * 1.0001


def test_a_face_of_a_step_with_few_counts_more_but_not_as_much_more() -> None:
    usual = told(*[100.0] * 500)
    assert 1 / float(usual.number(torch.tensor(4.0))) == pytest.approx(5 / 100, rel=0.02), "not 25 times a usual one's, but 5"


def test_what_is_usual_changes_and_an_odd_first_step_is_forgotten() -> None:
    assert float(told(1.0, *[100.0] * 50).mean) == pytest.approx(100, rel=0.03)
    assert float(told(*[10.0] * 300, *[100.0] * 500).mean) == pytest.approx(100, rel=0.02)


def test_a_resumed_one_goes_on() -> None:
    usual, again = told(10.0, 90.5), Usual()
    again.load_state_dict(usual.state_dict())
    assert again.number(torch.tensor(7.0)) == usual.number(torch.tensor(7.0))
