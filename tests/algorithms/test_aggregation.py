from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_sfl.algorithms.aggregation import Aggregation, ClientOptimizerState, Weighting, proportional
from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.algorithms.placement import Owned, Placement, Placements
from lightning_sfl.clients import Participant
from lightning_sfl.link.link import LocalLink

HELD = (10, 30, 60)


def aggregation(weighting=Weighting.SAMPLES, state=ClientOptimizerState.AVERAGE):
    return Aggregation(weighting=weighting, client_optimizer_state=state, client_samples=HELD.__getitem__)


def participant(client, samples):
    return Participant(client=client, shard=None, replica=None, samples=samples)


# Weights


def test_weights_sum_to_one_and_are_exact_for_one():
    assert proportional([7]) == [1.0]
    assert proportional([3, 1]) == [0.75, 0.25]
    assert sum(proportional([1, 2, 3, 5, 7, 11])) == pytest.approx(1, abs=1e-15)
    assert proportional([]) == []


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (Weighting.SAMPLES, [3 / 4, 1 / 4]),  # 6 and 2 processed
        (Weighting.DATA, [1 / 7, 6 / 7]),  # 10 and 60 held
        (Weighting.UNIFORM, [1 / 2, 1 / 2]),
    ],
)
def test_participants_weigh_by_what_they_processed_what_they_hold_or_alike(weighting, expected):
    """In the order in which they are given; client 1 holds 30 samples, is absent, and counts nowhere."""
    present = [participant(0, 6), participant(2, 2)]
    assert aggregation(weighting).weights(present) == expected
    assert aggregation(weighting).weights(present[::-1]) == expected[::-1]


@pytest.mark.parametrize("weighting", Weighting)
def test_one_participant_weighs_exactly_one_and_nobody_nothing(weighting):
    assert aggregation(weighting).weights([participant(1, 7)]) == [1.0]
    assert aggregation(weighting).weights([]) == []


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (Weighting.SAMPLES, {2: 1 / 8, 0: 3 / 8, 1: 4 / 8}),
        (Weighting.DATA, {2: 1 / 8, 0: 3 / 8, 1: 4 / 8}),  # data held weigh in the averaging alone
        (Weighting.UNIFORM, {2: 1 / 3, 0: 1 / 3, 1: 1 / 3}),
    ],
)
def test_the_servers_loss_is_weighted_by_batch_sizes_or_not_at_all(weighting, expected):
    found = aggregation(weighting).loss_weights({2: 2, 0: 6, 1: 8})
    assert found == expected
    assert list(found) == list(expected)


@given(
    sizes=st.dictionaries(st.integers(0, 2), st.integers(1, 10**6), min_size=1), weighting=st.sampled_from(Weighting)
)
def test_weights_are_the_exact_proportions_to_rounding(sizes, weighting):
    counts = {
        Weighting.SAMPLES: sizes,
        Weighting.DATA: {client: HELD[client] for client in sizes},
        Weighting.UNIFORM: dict.fromkeys(sizes, 1),
    }[weighting]
    weights = aggregation(weighting).weights([participant(client, samples) for client, samples in sizes.items()])
    for weight, count in zip(weights, counts.values(), strict=True):
        assert weight == float(Fraction(count, sum(counts.values())))


# Optimizer state, where it can be told in closed form

RATE, MOMENTUM = 0.5, 0.75
SLOPES = (1.0, -3.0, 0.5)
ONE = Owned(parameters=("weight",))


class Slope(nn.Module):
    """A weight whose loss is a line: its gradient is the client's slope wherever it stands."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))


def run(state, placement, rounds, steps=1, weighting=Weighting.UNIFORM):
    """The weight after rounds of these participants, each with so many steps of one sample."""
    module = Slope()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    placements = Placements(by_cut={None: placement}, cut_of=lambda client: None)
    federation = Federation(module, optimizer, placements, LocalLink(), aggregation(weighting, state))
    for round, clients in enumerate(rounds):
        federation.open(round, clients, round)
        for client in clients:
            for _ in range(steps):
                with federation.installed(client):
                    (module.weight * SLOPES[client]).backward()
                federation.participants[client].samples += 1
                for party in federation.participants[client].parties:
                    party.step()
        federation.close(round)
    return module.weight.item()


def speed(steps):
    """Σ_{i<t} μ^i, the momentum after t steps on a gradient of one."""
    return (1 - MOMENTUM**steps) / (1 - MOMENTUM)


PLACEMENTS = [
    pytest.param(Placement(client=ONE, replica=Owned(), has_common=False), id="client"),
    pytest.param(Placement(client=Owned(), replica=ONE, has_common=False), id="replica"),
]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_averaged_momentum_is_that_of_the_mean_gradient_whoever_takes_part(placement):
    """v ← μ v + ḡ with the mean gradient of those present: 1, -3, then -1 (of both), then 1/2."""
    found = run(ClientOptimizerState.AVERAGE, placement, [[0], [1], [0, 1], [2]])
    velocity, expected = 0.0, 0.0
    for gradient in (1.0, -3.0, -1.0, 0.5):
        velocity = MOMENTUM * velocity + gradient
        expected -= RATE * velocity
    assert found == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("steps", [1, 3])
def test_reset_momentum_grows_within_a_round_and_begins_anew_in_the_next(placement, steps):
    """A round of I steps moves the weight by -γ ḡ Σ_{t=1..I} (1 - μ^t)/(1 - μ), every time."""
    found = run(ClientOptimizerState.RESET, placement, [[0, 1], [1], [2]], steps)
    moves = sum(speed(step + 1) for step in range(steps))
    assert found == pytest.approx(-RATE * moves * ((1 - 3) / 2 - 3 + 0.5), rel=1e-14)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_kept_momentum_counts_a_clients_own_steps_alone(placement):
    """Client k's t-th step has the momentum g_k (1 - μ^t)/(1 - μ), however many rounds it has been away."""
    rounds = [[0], [1], [1, 2], [0, 1]]
    found = run(ClientOptimizerState.KEEP, placement, rounds)
    own, expected = [0, 0, 0], 0.0
    for clients in rounds:
        for client in clients:
            own[client] += 1
            expected -= RATE * SLOPES[client] * speed(own[client]) / len(clients)
    assert own == [2, 3, 1]
    assert found == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_three_rules_are_one_in_a_single_round(placement):
    found = {state: run(state, placement, [[0, 1]], steps=4) for state in ClientOptimizerState}
    assert len(set(found.values())) == 1
    assert found["keep"] == pytest.approx(RATE * sum(speed(step) for step in range(1, 5)), rel=1e-14)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_mean_by_data_weighs_momentum_as_it_weighs_the_weights(placement):
    """10 and 30 held: ḡ = (1 - 9)/4 = -2 in both rounds, and momentum follows it."""
    found = run(ClientOptimizerState.AVERAGE, placement, [[0, 1], [0, 1]], weighting=Weighting.DATA)
    assert found == pytest.approx(RATE * 2 * (speed(1) + speed(2)), rel=1e-14)
