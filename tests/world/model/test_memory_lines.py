import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_sfl.world.model.memory import greatest, lines_through, stacked, upper_envelope

line = arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(0, 50).map(float))


@given(line)
def test_the_envelope_is_the_greatest_of_all_at_every_batch_size(lines):
    found = upper_envelope(lines)
    for size in (1, 2, 3, 7, 64, 1000):
        assert (found[:, 0] + size * found[:, 1]).max() == (lines[:, 0] + size * lines[:, 1]).max()


@given(line)
def test_nothing_in_the_envelope_is_without_use(lines):
    """From one to the next slopes grow and what is fixed falls, and each is the greatest somewhere."""
    found = upper_envelope(lines)
    assert (np.diff(found[:, 1]) > 0).all()
    assert (np.diff(found[:, 0]) < 0).all()
    meets = [1.0, *(-np.diff(found[:, 0]) / np.diff(found[:, 1]))]
    assert meets == sorted(meets)


def test_two_batches_tell_what_is_fixed():
    """10 + 4b is 18 at 2 and 22 at 3."""
    assert lines_through(np.array([18.0]), np.array([22.0]), 2, 3).tolist() == [[10.0, 4.0]]


def test_envelopes_of_different_lengths_make_one_array():
    one, other = np.array([[3.0, 1.0]]), np.array([[9.0, 0.0], [1.0, 2.0]])
    both = stacked([one, other])
    assert both.tolist() == [[[3, 1], [3, 1]], [[9, 0], [1, 2]]]
    assert greatest(both, np.array([5.0, 5.0])).tolist() == [8.0, 11.0]
