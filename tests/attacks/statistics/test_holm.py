from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.statistics.holm import holm

P_VALUES = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.02, 0.5, 1.0])), max_size=6)


def by_closed_testing(p_values: list[float]) -> list[float]:
    """Each is rejected with every set of hypotheses that holds it, by Bonferroni: max over S ∋ i of |S|·min p of S."""
    places = range(len(p_values))
    sets = [chosen for size in places for chosen in combinations(places, size + 1)]
    return [
        max(min(1.0, len(chosen) * min(p_values[place] for place in chosen)) for chosen in sets if own in chosen)
        for own in places
    ]


@given(p_values=P_VALUES)
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    assert holm(p_values) == pytest.approx(by_closed_testing(p_values))


@given(p_values=P_VALUES)
def test_corrected_values_keep_the_order_and_are_never_smaller(p_values):
    adjusted = holm(p_values)

    assert all(p <= corrected <= 1 for p, corrected in zip(p_values, adjusted, strict=True))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [corrected for _, corrected in pairs] == sorted(adjusted)


def test_by_hand():
    """Ascending 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.5."""
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])


def test_a_larger_p_value_never_comes_out_smaller():
    """0.02·2 = 0.04 stays the least for the second, though 0.03·1 is below it."""
    assert holm([0.02, 0.03]) == pytest.approx([0.04, 0.04])


def test_one_test_needs_no_correction_and_none_none():
    assert holm([0.3]) == [0.3]
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"p_values={wrong} is not accepted: give numbers from 0 to 1"):
        holm([0.5, wrong])
