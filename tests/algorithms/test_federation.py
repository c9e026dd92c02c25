import copy
import gc

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW

from lightning_sfl.algorithms import ALGORITHMS, make_algorithm
from lightning_sfl.algorithms.aggregation import Aggregation, ClientOptimizerState, Weighting
from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.algorithms.placement import Owned, Placement, Placements
from lightning_sfl.clients import Participant, Shard
from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.optimizers import mean_tensor


class Tiny(nn.Module):
    """Two layers; the lower one counts its calls by assignment, and has statistics."""

    def __init__(self):
        super().__init__()
        self.lower = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.upper = nn.Linear(3, 1)
        self.register_buffer("calls", torch.zeros(2))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.upper(self.norm(self.lower(x)))


LOWER = Owned(
    parameters=("lower.weight", "lower.bias", "norm.weight", "norm.bias"),
    buffers=("norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "calls"),
)
UPPER = Owned(parameters=("upper.weight", "upper.bias"))
REPLICAS = Placement(client=LOWER, replica=UPPER, has_common=False)
ALL = Placement(
    client=Owned(parameters=(*LOWER.parameters, *UPPER.parameters), buffers=LOWER.buffers),
    replica=Owned(),
    has_common=False,
)
SHARED = Placement(client=LOWER, replica=Owned(), has_common=True)


def sgd(module):
    return SGD(module.parameters(), lr=0.1, momentum=0.9)


HELD = (5, 10, 5, 20)


def make(placement=REPLICAS, optimizer=sgd, log=None, weighting="samples", state="average"):
    torch.manual_seed(0)
    module = Tiny().double()
    user = optimizer(module)
    aggregation = Aggregation(
        weighting=Weighting(weighting),
        client_optimizer_state=ClientOptimizerState(state),
        client_samples=HELD.__getitem__,
    )
    placements = Placements(by_cut={"norm": placement}, cut_of=lambda client: "norm")
    return module, user, Federation(module, user, placements, LocalLink(log), aggregation)


def batch_of(client, step, rows=4):
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(100 * client + step))


def train(module, optimizer, x):
    """A step of plain training."""
    optimizer.zero_grad()
    module(x).square().mean().backward()
    optimizer.step()


def local_step(module, federation, client, x):
    """A step of one participant."""
    with federation.installed(client):
        module(x).square().mean().backward()
    participant = federation.participants[client]
    participant.samples += len(x)
    for party in participant.parties:
        party.step()


def weights_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def state_of(module, optimizer):
    """The optimizer's state by parameter name, copied."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[parameter]: copy.deepcopy(dict(state)) for parameter, state in optimizer.state.items()}


def assert_identical(tensors, others):
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        if isinstance(value, dict):
            assert_identical(value, others[name])
        else:
            assert torch.equal(value, others[name]), name


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


# Reading the global model


def mid_round(placement=REPLICAS):
    """A second round under way, two of its three participants present with 4 and 2 samples."""
    module, optimizer, federation = make(placement)
    federation.open(0, [0, 1], 0)
    for client in (0, 1):
        local_step(module, federation, client, batch_of(client, 0))
    federation.close(0)
    federation.open(1, [0, 1, 2], 1)
    local_step(module, federation, 0, batch_of(0, 1, rows=4))
    local_step(module, federation, 2, batch_of(2, 1, rows=2))
    return module, optimizer, federation


def test_reading_in_mid_round_shows_the_mean_of_those_present():
    module, optimizer, federation = mid_round()
    first, third = (federation.participants[client] for client in (0, 2))
    expected = {
        name: first.shard.tensors()[name] * (4 / 6) + third.shard.tensors()[name] * (2 / 6) for name in LOWER.parameters
    }
    expected |= {
        name: first.replica.tensors()[name] * (4 / 6) + third.replica.tensors()[name] * (2 / 6)
        for name in UPPER.parameters
    }
    federation.read()
    for name, tensor in expected.items():
        torch.testing.assert_close(module.get_parameter(name).detach(), tensor, rtol=1e-12, atol=1e-12)
    momentum = [
        each.shard.optimizer_state()["lower.weight"]["momentum_buffer"] * weight
        for each, weight in ((first, 4 / 6), (third, 2 / 6))
    ]
    shown = optimizer.state[module.lower.weight]["momentum_buffer"]
    torch.testing.assert_close(shown, sum(momentum), rtol=1e-12, atol=1e-12)
    federation.resume()


@pytest.mark.parametrize("first_round", [False, True])
def test_reading_leaves_no_trace(first_round):
    if first_round:  # the user's optimizer has no state yet, and must have none afterwards
        module, optimizer, federation = make()
        federation.open(0, [0, 1], 0)
        local_step(module, federation, 0, batch_of(0, 0))
    else:
        module, optimizer, federation = mid_round()
    weights, state = weights_of(module), state_of(module, optimizer)
    pointers = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    sent = federation._link.meter.total()
    held = {
        client: {name: tensor.clone() for party in each.parties for name, tensor in party.tensors().items()}
        for client, each in federation.participants.items()
    }
    federation.read()
    assert not torch.equal(module.lower.weight, weights["lower.weight"])
    federation.read()
    with torch.no_grad():  # whatever is done to what is shown
        for tensor in module.state_dict().values():
            tensor.fill_(7)
    federation.resume()
    assert_identical(weights_of(module), weights)
    assert_identical(state_of(module, optimizer), state)
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == pointers
    assert federation._link.meter.total() == sent
    for client, each in federation.participants.items():
        assert_identical({name: t for party in each.parties for name, t in party.tensors().items()}, held[client])
    federation.resume()
    assert_identical(weights_of(module), weights)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("placement", [REPLICAS, SHARED])
def test_training_goes_on_after_reading_as_if_nothing_had_been_read(inference, placement):
    """Evaluation loops run in inference mode, whose tensors autograd refuses to train."""

    def run(read):
        module, optimizer, federation = mid_round(placement)
        for step in (2, 3):
            if read:
                with torch.inference_mode(inference), torch.no_grad():
                    federation.read()
                    module.eval()
                    module.upper(module.norm(module.lower(batch_of(9, step))))
                    module.train()
                federation.resume()
            for client in (0, 1, 2):
                local_step(module, federation, client, batch_of(client, step))
        federation.close(3)
        federation.open(2, [1], 4)
        local_step(module, federation, 1, batch_of(1, 4))
        federation.close(4)
        assert not any(tensor.is_inference() for tensor in module.state_dict().values())
        return weights_of(module), state_of(module, optimizer)

    (weights, state), (expected, expected_state) = run(read=True), run(read=False)
    assert_identical(weights, expected)
    assert_identical(state, expected_state)


def test_what_was_read_in_inference_mode_can_be_trained_on():
    """As when a fit ends within a round: the module keeps the shown weights and state, and is the user's again."""
    module, optimizer, federation = mid_round()
    with torch.inference_mode():
        federation.read()
    expected, own, other = mid_round()
    other.read()
    for step in range(2):
        train(module, optimizer, batch_of(0, step))
        train(expected, own, batch_of(0, step))
    assert_identical(weights_of(module), weights_of(expected))
    assert_identical(state_of(module, optimizer), state_of(expected, own))
    held = [*module.state_dict().values(), *(state["momentum_buffer"] for state in optimizer.state.values())]
    assert not any(tensor.is_inference() for tensor in held)


def test_a_buffer_that_evaluation_assigns_while_the_global_model_is_read_is_not_fed_back():
    """The forward's `self.calls = self.calls + 1` puts a new tensor, made in inference mode, in the buffer's place."""
    module, _, federation = mid_round()
    weights = weights_of(module)
    with torch.inference_mode():
        federation.read()
        module.eval()
        module(batch_of(9, 0))
        module.train()
    federation.resume()
    assert_identical(weights_of(module), weights)
    local_step(module, federation, 0, batch_of(0, 2))
    federation.close(2)


def test_a_round_can_end_after_evaluation_assigned_a_buffer_between_rounds():
    """Plain training goes on from such a tensor, made in inference mode; so does a round."""
    module, _, federation = make()
    with torch.inference_mode():
        federation.read()
        module.eval()
        module(batch_of(9, 0))
        module.train()
    federation.resume()
    assert module.calls.tolist() == [1.0, 1.0]
    federation.open(0, [0], 0)
    local_step(module, federation, 0, batch_of(0, 0))
    federation.close(0)
    assert module.calls.tolist() == [2.0, 2.0]


def test_reading_between_rounds_shows_the_module_as_it_is():
    module, _, federation = make()
    weights = weights_of(module)
    federation.read()
    assert_identical(weights_of(module), weights)
    federation.resume()
    federation.open(0, [0], 0)
    federation.read()  # nobody has stepped yet
    assert_identical(weights_of(module), weights)
    federation.resume()


def test_global_weights_are_copies_of_what_reading_shows():
    module, _, federation = mid_round()
    before = weights_of(module)
    found = federation.global_weights()
    assert_identical(weights_of(module), before)
    federation.read()
    assert_identical(found, weights_of(module))
    again = federation.global_weights()
    assert_identical(again, found)
    for tensor in again.values():
        tensor.zero_()
    assert_identical(weights_of(module), found)
    federation.resume()
    federation.close(1)
    assert_identical(federation.global_weights(), weights_of(module))
    for name, tensor in found.items():
        torch.testing.assert_close(weights_of(module)[name], tensor)


# Memory


def alive():
    """How many participants and shards there are."""
    gc.collect()
    kinds = [type(each) for each in gc.get_objects()]
    return kinds.count(Participant), kinds.count(Shard)


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
    assert set(ALGORITHMS) == {"splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning", "fedavg"}
    message = r"algorithm='splitfed' is not known\. Accepted are 'splitfed_shared', 'splitfed_v1', 'splitfed_v2'"
    with pytest.raises(ValueError, match=message):
        make_algorithm("splitfed")
