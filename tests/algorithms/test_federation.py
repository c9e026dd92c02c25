"""Rounds: what participants get, what they send, and what is left when they have gone."""

import copy
import gc

import pytest
import torch
from federation_cases import (
    LOWER,
    SHARED,
    Tiny,
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

from lightning_sfl.algorithms import ALGORITHMS, make_algorithm
from lightning_sfl.algorithms.placement import Owned
from lightning_sfl.clients import Participant, Shard
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.optimizers import mean_tensor

# Opening and closing a round


def test_a_round_ends_in_the_mean_of_its_participants_weighted_by_their_samples():
    """By hand: two models trained apart on 3 · 4 and 2 · 2 samples weigh 12/16 and 4/16."""
    module, optimizer, federation = make()
    apart = {}
    for client, steps, rows in ((5, 3, 4), (2, 2, 2)):
        model = copy.deepcopy(module)
        own = sgd(model)
        for step in range(steps):
            train(model, own, batch_of(client, step, rows))
        apart[client] = (weights_of(model), state_of(model, own))
    federation.open(0, [2, 5], 0)
    assert federation.round == 0
    for step in range(3):
        local_step(module, federation, 5, batch_of(5, step, 4))
        if step < 2:
            local_step(module, federation, 2, batch_of(2, step, 2))
    federation.close(2)
    assert federation.round is None
    assert federation.participants == {}
    found, state = weights_of(module), state_of(module, optimizer)
    for name, value in apart[5][0].items():
        if value.is_floating_point():
            expected = 0.75 * value + 0.25 * apart[2][0][name]
            torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12)
    assert found["norm.num_batches_tracked"].item() == 3  # an integer: the maximum of 3 and 2
    assert found["calls"].tolist() == [2.75, 2.75]
    assert state.keys() == apart[5][1].keys()
    for name, own in apart[5][1].items():
        expected = 0.75 * own["momentum_buffer"] + 0.25 * apart[2][1][name]["momentum_buffer"]
        torch.testing.assert_close(state[name]["momentum_buffer"], expected, rtol=1e-12, atol=1e-12)


def test_the_next_round_begins_where_the_last_one_ended():
    module, optimizer, federation = make()
    federation.open(0, [0, 1], 0)
    for client in (0, 1):
        local_step(module, federation, client, batch_of(client, 0))
    federation.close(0)
    weights, state = weights_of(module), state_of(module, optimizer)
    federation.open(1, [1, 2], 1)
    for participant in federation.participants.values():
        assert participant.samples == 0
        held = {**participant.shard.tensors(), **participant.replica.tensors()}
        assert_identical(held, {name: weights[name] for name in held})
        assert held.keys() == weights.keys()
        assert_identical({**participant.shard.optimizer_state(), **participant.replica.optimizer_state()}, state)
    assert list(federation.participants) == [1, 2]
    assert [participant.client for participant in federation.participants.values()] == [1, 2]


@pytest.mark.parametrize("optimizer", [sgd, lambda m: AdamW(m.parameters(), lr=0.1), lambda m: Adagrad(m.parameters())])
@pytest.mark.parametrize("steps_per_round", [1, 3])
def test_one_participant_trains_bit_for_bit_like_the_module_alone(optimizer, steps_per_round):
    module, user, federation = make(optimizer=optimizer)
    plain, own, _ = make(optimizer=optimizer)
    for step in range(6):
        if step % steps_per_round == 0:
            federation.open(step // steps_per_round, [0], step)
        local_step(module, federation, 0, batch_of(0, step))
        train(plain, own, batch_of(0, step))
        if (step + 1) % steps_per_round == 0:
            federation.close(step)
    assert_identical(weights_of(module), weights_of(plain))
    assert_identical(state_of(module, user), state_of(plain, own))


def test_step_counts_and_constants_stay_exact_over_many_means():
    """Seven parties at step 3 or 5 each: seven times a seventh of it is not itself in single precision."""
    assert not torch.equal(mean_tensor([torch.tensor(3.0)] * 7, [1 / 7] * 7), torch.tensor(3.0))
    module, user, federation = make(optimizer=lambda m: AdamW(m.parameters(), lr=0.1))
    module.calls = torch.tensor([2.0, 2.0])
    for round in range(5):
        federation.open(round, range(7), round)
        for client in range(7):
            local_step(module, federation, client, batch_of(client, round))
        federation.close(round)
        assert {state["step"].item() for state in state_of(module, user).values()} == {round + 1}
        assert module.calls.tolist() == [round + 3.0] * 2


def test_a_common_server_part_is_left_to_the_users_optimizer():
    """The participants' gradients add up on the module's own upper layer; its lower layers get none."""
    module, optimizer, federation = make(SHARED)
    upper = module.upper.weight.detach().clone()
    gradient = torch.zeros_like(upper)
    for client in (0, 1):
        model = copy.deepcopy(module)
        model(batch_of(client, 0)).square().mean().backward()
        gradient += model.upper.weight.grad
    federation.open(0, [0, 1], 0)
    for client in (0, 1):
        with federation.installed(client):
            module(batch_of(client, 0)).square().mean().backward()
        federation.participants[client].samples += 4
    torch.testing.assert_close(module.upper.weight.grad, gradient, rtol=1e-12, atol=1e-12)
    assert module.lower.weight.grad is None
    optimizer.step()
    for participant in federation.participants.values():
        for party in participant.parties:
            party.step()
    federation.close(0)
    torch.testing.assert_close(module.upper.weight.detach(), upper - 0.1 * gradient, rtol=1e-12, atol=1e-12)
    assert set(state_of(module, optimizer)) == {name for name, _ in module.named_parameters()}


def test_with_nobody_present_nothing_changes():
    """Participants that processed no sample, because each of their steps was skipped, are not averaged."""
    module, optimizer, federation = make()
    federation.open(0, [0], 0)
    local_step(module, federation, 0, batch_of(0, 0))
    federation.close(0)
    weights, state = weights_of(module), state_of(module, optimizer)
    link = federation._link
    federation.open(1, [0, 1], 1)
    with federation.installed(0):
        module(batch_of(0, 1))  # the buffers change, and the step is skipped
    sent = link.meter.total(uplink=True)
    federation.close(1)
    assert_identical(weights_of(module), weights)
    assert_identical(state_of(module, optimizer), state)
    assert link.meter.total(uplink=True) == sent
    assert federation.participants == {}


def test_who_processed_nothing_is_left_out_of_the_mean():
    module, _, federation = make()
    alone, own, _ = make()
    federation.open(0, [0, 1], 0)
    local_step(module, federation, 1, batch_of(1, 0))
    federation.close(0)
    train(alone, own, batch_of(1, 0))
    assert_identical(weights_of(module), weights_of(alone))


def test_what_crosses_in_a_round():
    """The lower layers of 9 + 3 parameters, 3 + 3 statistics and 2 + 3 more in 64 bits and back; no replica does."""
    log = MessageLog()
    module, _, federation = make(log=log)
    for round in range(2):
        federation.open(round, [0, 1], round)
        local_step(module, federation, 0, batch_of(0, round))
        federation.close(round)
    crossed = [(str(m.kind), m.sender, m.receiver, m.round, m.step, m.cut) for m in log.messages()]
    update, state = "client_update", "optimizer_state"
    assert crossed == [
        ("broadcast", "fed_server", "client/0", 0, 0, "norm"),
        ("broadcast", "fed_server", "client/1", 0, 0, "norm"),
        (update, "client/0", "fed_server", 0, 0, "norm"),
        (state, "client/0", "fed_server", 0, 0, "norm"),
        ("broadcast", "fed_server", "client/0", 1, 1, "norm"),
        (state, "fed_server", "client/0", 1, 1, "norm"),
        ("broadcast", "fed_server", "client/1", 1, 1, "norm"),
        (state, "fed_server", "client/1", 1, 1, "norm"),
        (update, "client/0", "fed_server", 1, 1, "norm"),
        (state, "client/0", "fed_server", 1, 1, "norm"),
    ]
    for message in log.messages(kinds=[MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE]):
        assert tuple(message.tensors) == (*LOWER.parameters, *LOWER.buffers)
        # lower 6 + 3, norm 3 + 3, statistics 3 + 3, one integer, calls 2: 24 elements of 64 bits
        assert message.payload_bit == 24 * 64
    for message in log.messages(kinds=[MessageKind.OPTIMIZER_STATE]):
        assert set(message.tensors) == {f"{name}/momentum_buffer" for name in LOWER.parameters}


def test_an_update_carries_what_the_client_holds_when_it_is_sent():
    log = MessageLog()
    module, _, federation = make(log=log)
    federation.open(0, [0], 0)
    local_step(module, federation, 0, batch_of(0, 0))
    held = {name: tensor.clone() for name, tensor in federation.participants[0].shard.tensors().items()}
    federation.close(0)
    (update,) = log.messages(kinds=[MessageKind.CLIENT_UPDATE])
    assert_identical(dict(update.tensors), held)
    federation.open(1, [0], 1)
    local_step(module, federation, 0, batch_of(0, 1))
    assert_identical(dict(update.tensors), held)


# Memory


def alive():
    """How many participants and shards there are."""
    gc.collect()
    kinds = [type(each) for each in gc.get_objects()]
    return kinds.count(Participant), kinds.count(Shard)


@pytest.mark.slow
def test_memory_grows_with_participants_and_not_with_clients_or_rounds():
    """Two participants with two parties each, whoever they are of a thousand clients."""
    module, _, federation = make()
    participants, shards = alive()
    for round in range(20):
        clients = [50 * round, 50 * round + 7]
        federation.open(round, clients, round)
        local_step(module, federation, clients[0], batch_of(0, round))
        federation.close(round)
    assert alive() == (participants + 2, shards + 4)
    federation.open(20, [1, 2, 3], 20)
    assert alive() == (participants + 3, shards + 6)


def test_parties_that_are_used_again_bring_nothing_along():
    """A client that has not stepped in this round has neither samples nor state of whom the memory belonged to."""
    module, optimizer, federation = make()
    federation.open(0, [0, 1], 0)
    local_step(module, federation, 0, batch_of(0, 0))
    first = federation.participants[0]
    weights = weights_of(module)
    first.samples = 0  # its step is not counted: nothing is averaged
    federation.close(0)
    federation.open(1, [8, 9], 1)
    assert first in federation.participants.values()
    for each in federation.participants.values():
        held = {name: tensor for party in each.parties for name, tensor in party.tensors().items()}
        assert_identical(held, {name: weights[name] for name in held})
        assert [party.optimizer_state() for party in each.parties] == [{}, {}]
        assert each.samples == 0
    assert state_of(module, optimizer) == {}


# Placements and names


def test_under_fedavg_clients_own_all_that_is_trained_or_kept():
    """Frozen parameters and buffers outside the state dict are constants that everybody has."""
    module = Tiny()
    module.lower.bias.requires_grad_(False)
    module.register_buffer("mask", torch.ones(1), persistent=False)
    placement = make_algorithm("fedavg").place(module, None, None)
    assert placement.client.parameters == (
        "lower.weight",
        "norm.weight",
        "norm.bias",
        "upper.weight",
        "upper.bias",
    )
    assert set(placement.client.buffers) == set(LOWER.buffers)
    assert placement.replica == Owned()
    assert not placement.has_common


def test_algorithms_are_known_by_name():
    assert {name: make_algorithm(name).name for name in ALGORITHMS} == {name: name for name in ALGORITHMS}
    first_order = {"splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning", "fedavg"}
    assert set(ALGORITHMS) == first_order | {"ho_sfl", "zo_sfl", "hosl", "heron_sfl"}
    message = r"algorithm='splitfed' is not known\. Accepted are 'splitfed_shared', 'splitfed_v1', 'splitfed_v2'"
    with pytest.raises(ValueError, match=message):
        make_algorithm("splitfed")
