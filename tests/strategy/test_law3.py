"""Law 3: SplitFed-V1 does not depend on the cut, and with the cut at the end it is FedAvg."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sfl_models import GPT2, MLP, RESNET, VGG, adamw, fit, same, sgd

from lightning_sfl import SplitFederatedStrategy

SIZES = (3, 7, 6, 5)
PARTS = [[*range(3)], [*range(3, 10)], [*range(10, 16)], [*range(16, 21)]]


def trained(kind, optimizer, cut, algorithm="splitfed_v1", **options):
    """The global weights and buffers, logged values and optimizer state after two epochs, and the random state."""
    module = kind.module(optimizer)
    strategy = SplitFederatedStrategy(
        cut=cut,
        algorithm=algorithm,
        num_clients=len(PARTS),
        partition=PARTS,
        server_inputs=() if cut is None else kind.server_inputs,
        **options,
    )
    trainer = fit(module, kind.loader(sum(SIZES), 4, shuffle=True), strategy, max_epochs=2)
    state = trainer.strategy.optimizers[0].state_dict()["state"]
    return module.state_dict(), trainer.callback_metrics, state, torch.get_rng_state()


def assert_the_same_run(one, other):
    assert same(one[0], other[0])
    assert same(one[1], other[1])
    assert one[2].keys() == other[2].keys()
    assert all(same(one[2][number], other[2][number]) for number in one[2])
    assert torch.equal(one[3], other[3])


@pytest.mark.parametrize("kind", [RESNET, VGG, GPT2], ids=lambda kind: kind.name)
@settings(max_examples=3)
@given(draw=st.data())
def test_splitfed_v1_does_not_depend_on_the_cut(kind, draw):
    """Bit for bit: the link hands on what it gets, and every participant trains a whole copy wherever its halves meet.

    Unequal clients, partial participation, dropout and batch normalisation included. FedAvg has no server at all.
    """
    options = {
        "optimizer": draw.draw(st.sampled_from([adamw, sgd]), "optimizer"),
        "aggregate_every": draw.draw(st.integers(1, 4), "aggregate_every"),
        "clients_per_round": draw.draw(st.integers(1, 4), "clients_per_round"),
        "weighting": draw.draw(st.sampled_from(["samples", "data", "uniform"]), "weighting"),
        "client_optimizer_state": draw.draw(st.sampled_from(["average", "reset", "keep"]), "state"),
    }
    one, other = draw.draw(st.lists(st.sampled_from(kind.cuts), min_size=2, max_size=2, unique=True), "cuts")
    found = trained(kind, cut=one, **options)
    assert_the_same_run(found, trained(kind, cut=other, **options))
    assert_the_same_run(found, trained(kind, cut=None, algorithm="fedavg", **options))


@pytest.mark.parametrize("state", ["average", "reset", "keep"])
@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_at_every_cut_it_is_fedavg_even_with_every_layer_on_the_clients_side(optimizer, state):
    """The cut `model` ends the whole network; labels cross to a server that has but the loss."""
    options = {"optimizer": optimizer, "aggregate_every": 2, "clients_per_round": 3, "client_optimizer_state": state}
    expected = trained(MLP, cut=None, algorithm="fedavg", **options)
    for cut in (*MLP.cuts, "model"):
        assert_the_same_run(trained(MLP, cut=cut, **options), expected)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2", "split_learning"])
def test_it_does_not_hold_for_a_server_that_is_one_copy(algorithm):
    """Layers that move across the cut are then averaged in one place and stepped for all clients in the other."""
    options = {"optimizer": adamw, "algorithm": algorithm, "aggregate_every": 2, "client_optimizer_state": "reset"}
    found = [trained(MLP, cut=cut, **options)[0] for cut in (MLP.cuts[0], MLP.cuts[2])]
    assert not any(torch.allclose(found[0][name], found[1][name], rtol=1e-4) for name in found[0])
