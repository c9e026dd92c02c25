from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.strategy.planned import Planned


def test_each_change_waits_for_its_own_round():
    """The second does not replace the first, whose round has not begun yet."""
    planned = Planned("a")
    planned.plan("b", 2)
    planned.plan("c", 3)

    assert [planned.reach(round) for round in range(5)] == ["a", "a", "b", "c", "c"]
    assert planned.waiting() == []


def test_a_later_wish_for_the_same_round_or_an_earlier_one_counts():
    planned = Planned("a")
    planned.plan("b", 3)
    planned.plan("c", 3)
    planned.plan("d", 5)
    planned.plan("e", 4)

    assert planned.waiting() == [(3, "c"), (4, "e")]
    assert planned.last == "e"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8), st.integers(0, 9))
def test_it_is_the_last_wish_that_is_not_for_a_later_round(wishes, round):
    """By the definition: each wish holds from its round on, over all wishes before it."""
    planned = Planned(-1)
    by_round = [-1] * 10
    for value, begins in wishes:
        planned.plan(value, begins)
        by_round[begins:] = [value] * (10 - begins)
    again = Planned(-2)
    again.load_state_dict(planned.state_dict())

    assert [planned.at(each) for each in range(10)] == by_round
    assert again.reach(round) == planned.reach(round) == by_round[round]
    assert again.state_dict() == planned.state_dict()
