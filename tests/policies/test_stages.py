"""The tables that solvers choose from say what the world says."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from observed_worlds import inter_server, observed
from world_cases import hand_profile, numbers

from lightning_sfl.policies.decision import InfeasibleError
from lightning_sfl.policies.stages import end_stages, largest_batches, stage_lines, stages
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.environments import make_environment
from lightning_sfl.world.world import Ends


@given(
    st.sampled_from(["hasfl", "wei_chen", "safsl"]),
    st.sampled_from(["splitfed_shared", "splitfed_v1"]),
    st.booleans(),
    st.integers(0, 2**16),
    st.data(),
)
def test_a_round_made_of_the_tables_is_the_worlds(environment, algorithm, two_servers, seed, data):
    """T = max(broadcast, line) + I (max up + Σ server + max back) + max(upload, line) + averaging, for drawn cuts and
    batches."""
    server = inter_server(make_environment(environment, 4, seed).server, 1e4 if two_servers else None)
    seen = observed(environment, seed=seed, algorithm=algorithm, aggregate_every=3, server=server)
    cut = np.array(data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4)))
    size = np.array(data.draw(st.lists(st.integers(1, 99), min_size=4, max_size=4)))

    step, ends = stage_lines(seen).at(size), end_stages(seen)
    own = (np.arange(4), cut)
    line = ends.inter_server_s(cut)
    expected = (
        max(ends.broadcast_s[own].max(), line)
        + 3 * (step.up_s[own].max() + step.server_s[own].sum() + step.back_s[own].max())
        + max(ends.upload_s[own].max(), line)
        + ends.aggregation_s[cut.max()]
    )

    assert (line > 0) == (two_servers and (algorithm == "splitfed_v1" or len(set(cut)) > 1))
    assert seen.world.round(seen.participation(cut, size), Ends(), round=3).total_s == pytest.approx(expected, rel=1e-9)


def test_lines_go_through_the_table_of_any_batch():
    seen = observed("safsl", seed=1)
    size = np.array([5, 17, 2, 90])
    for name in ("up_s", "server_s", "back_s"):
        assert getattr(stage_lines(seen).at(size), name) == pytest.approx(getattr(stages(seen, size), name), rel=1e-9)


def test_the_largest_batch_is_the_last_that_fits():
    """Of one client with 10,000 byte: at cut a 8·100 + 10 b ≤ 10,000 gives 920, at b 8·400 + 30 b gives 226, at c
    8·900 + 100 b gives 28. Its 500 samples cap the first; with at most 100 asked for, that caps two."""
    fleet = Fleet(clock_hz=numbers(1e9), flop_per_cycle=1.0, memory_byte=1e4)
    seen = observed(clients=1, fleet=fleet, samples=np.array([500]))
    assert largest_batches(seen, 10**6).tolist() == [[500, 226, 28]]
    assert largest_batches(seen, 100).tolist() == [[100, 100, 28]]


def test_a_cut_that_does_not_fit_at_all_has_no_batch():
    fleet = Fleet(clock_hz=numbers(1e9, 1e9), flop_per_cycle=1.0, memory_byte=numbers(811, 1e9))
    seen = observed(clients=2, fleet=fleet)
    assert largest_batches(seen, 100).tolist() == [[1, 0, 0], [100, 100, 100]]


def test_a_client_without_memory_for_anything_is_named():
    """One sample at cut a takes 8·100 + 10 = 810 byte."""
    fleet = Fleet(clock_hz=numbers(1e9, 1e9), flop_per_cycle=1.0, memory_byte=numbers(1e9, 809))
    with pytest.raises(InfeasibleError, match=r"memory_byte=809 of client 1 is too little.*'a', takes 810"):
        largest_batches(observed(clients=2, fleet=fleet), 100)


def test_the_turns_of_a_u_shape_are_refused():
    profile = dataclasses.replace(hand_profile(), returned_bit=np.ones((3, 2)))
    with pytest.raises(ValueError, match="first ones of a U-shape"):
        stage_lines(observed(profile=profile))
