"""Clients' optimizer state at an aggregation."""

import copy

import pytest
import torch
from federation_cases import (
    ALL,
    LOWER,
    REPLICAS,
    SHARED,
    assert_identical,
    batch_of,
    local_step,
    make,
    sgd,
    state_of,
    train,
    weights_of,
)
from torch.optim import Adagrad, AdamW

from lightning_sfl.link.log import MessageLog

# Optimizer state at an aggregation


def play(federation, module, rounds):
    """Rounds of these participants, one step of each; returns their parts' states as they were at each round's end."""
    ends = []
    for round, clients in enumerate(rounds):
        federation.open(round, clients, round)
        for client in clients:
            local_step(module, federation, client, batch_of(client, round))
        ends.append({client: own_state(federation, client) for client in clients})
        federation.close(round)
    return ends


def own_state(federation, client):
    """Copies of the optimizer state of a participant's shard and replica."""
    return [copy.deepcopy(party.optimizer_state()) for party in federation.participants[client].parties]


def assert_equal_states(found, expected):
    for own, other in zip(found, expected, strict=True):
        assert_identical(own, other)


@pytest.mark.parametrize("optimizer", [sgd, lambda m: AdamW(m.parameters(), lr=0.1), lambda m: Adagrad(m.parameters())])
@pytest.mark.parametrize("placement", [REPLICAS, SHARED])
def test_a_client_that_keeps_its_state_has_it_back_rounds_later(placement, optimizer):
    """Whoever used the memory meanwhile; of a replica too. Who comes for the first time has none."""
    module, _, federation = make(placement, optimizer, state="keep")
    ends = play(federation, module, [[0, 1], [1, 2], [2, 1]])
    federation.open(3, [3, 0, 1], 3)
    assert_equal_states(own_state(federation, 0), ends[0][0])
    assert_equal_states(own_state(federation, 1), ends[2][1])
    assert set(own_state(federation, 0)[0]) == set(LOWER.parameters)
    assert set(own_state(federation, 0)[1]) == set(placement.replica.parameters)
    with pytest.raises(AssertionError):
        assert_equal_states(own_state(federation, 1), ends[1][1])
    assert own_state(federation, 3) == [{}, {}]


def test_a_client_whose_steps_are_all_skipped_in_a_round_keeps_what_it_had_before():
    module, _, federation = make(state="keep")
    (first,) = play(federation, module, [[0, 1]])
    federation.open(1, [0, 1], 1)
    local_step(module, federation, 1, batch_of(1, 1))
    federation.close(1)
    federation.open(2, [1, 0], 2)
    assert_equal_states(own_state(federation, 0), first[0])


def test_kept_state_goes_along_with_a_saved_federation():
    module, _, federation = make(state="keep")
    (first,) = play(federation, module, [[0, 1]])
    saved = copy.deepcopy(federation.state_dict())
    play(federation, module, [[0]])
    resumed = make(state="keep")[2]
    resumed.load_state_dict(saved)
    resumed.open(1, [0, 2], 1)
    assert_equal_states(own_state(resumed, 0), first[0])
    assert own_state(resumed, 2) == [{}, {}]


@pytest.mark.parametrize(("before", "after"), [(REPLICAS, ALL), (ALL, REPLICAS)])
def test_kept_state_follows_layers_that_another_cut_moves_between_client_and_replica(before, after):
    """Both are the participant's own: a run that goes on at another cut gives either its part of the state."""
    module, _, federation = make(before, state="keep")
    (first,) = play(federation, module, [[0, 1]])
    resumed = make(after, state="keep")[2]
    resumed.load_state_dict(copy.deepcopy(federation.state_dict()))
    resumed.open(1, [0], 1)
    shard, replica = own_state(resumed, 0)
    assert_identical({**shard, **replica}, {**first[0][0], **first[0][1]})
    assert set(replica) == set(after.replica.parameters)


@pytest.mark.parametrize("optimizer", [sgd, lambda m: AdamW(m.parameters(), lr=0.1)])
@pytest.mark.parametrize("placement", [REPLICAS, SHARED])
def test_state_that_is_reset_is_gone_after_every_aggregation(placement, optimizer):
    """The client's, the replica's, and what the user's optimizer shows of both; a common server's is left alone."""
    module, user, federation = make(placement, optimizer, state="reset")
    if placement is SHARED:
        federation.open(0, [0], 0)
        local_step(module, federation, 0, batch_of(0, 0))
        user.step()
        federation.close(0)
    play(federation, module, [[0, 1], [1, 2]])
    assert set(state_of(module, user)) == ({"upper.weight", "upper.bias"} if placement is SHARED else set())
    federation.open(5, [0, 1, 3], 5)
    assert [own_state(federation, client) for client in (0, 1, 3)] == [[{}, {}]] * 3


def test_state_that_is_reset_lives_through_the_round():
    """The second of two steps has momentum, v = 0.9 g₁ + g₂, as in plain training from where the round began."""
    module, _, federation = make(state="reset")
    plain, own, _ = make()
    for round in range(2):
        federation.open(round, [0], 2 * round)
        for step in (2 * round, 2 * round + 1):
            local_step(module, federation, 0, batch_of(0, step))
            train(plain, own, batch_of(0, step))
        federation.close(2 * round + 1)
        own.state.clear()
    assert_identical(weights_of(module), weights_of(plain))


@pytest.mark.parametrize("placement", [REPLICAS, SHARED])
@pytest.mark.parametrize("state", ["reset", "keep"])
def test_nothing_but_weights_and_buffers_is_sent_unless_state_is_averaged(state, placement):
    log = MessageLog()
    module, _, federation = make(placement, log=log, state=state)
    play(federation, module, [[0, 1], [1, 2], [0]])
    messages = list(log.messages())
    assert [m.kind.value for m in messages] == (["broadcast"] * 2 + ["client_update"] * 2) * 2 + [
        "broadcast",
        "client_update",
    ]
    assert all(tuple(m.tensors) == (*LOWER.parameters, *LOWER.buffers) for m in messages)


@pytest.mark.parametrize("state", ["average", "keep"])
def test_between_rounds_the_users_optimizer_shows_the_weighted_mean_of_the_states(state):
    """Of 4 and 2 samples, 2/3 and 1/3, though a client that keeps its own goes on from that."""
    module, user, federation = make(state=state)
    federation.open(0, [0, 1], 0)
    for client, rows in ((0, 4), (1, 2)):
        local_step(module, federation, client, batch_of(client, 0, rows))
    ends = [own_state(federation, client) for client in (0, 1)]
    federation.close(0)
    shown = state_of(module, user)
    for part in (0, 1):
        for name in ends[0][part]:
            one, other = (end[part][name]["momentum_buffer"] for end in ends)
            torch.testing.assert_close(shown[name]["momentum_buffer"], one * 2 / 3 + other / 3, rtol=1e-12, atol=1e-12)
