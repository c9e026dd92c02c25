"""Law 1: one client, any valid cut, any first-order algorithm: the weights of plain Lightning, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sfl_models import BERT, GPT2, KINDS_WITH_SLOW, LLAMA, RESNET, VGG, adamw, fit, same, sgd

from lightning_sfl import SplitFederatedStrategy

ALGORITHMS = ("splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning", "fedavg")


def strategy_for_one_client(kind, cut, algorithm, size, every, state="average") -> SplitFederatedStrategy:
    return SplitFederatedStrategy(
        cut=None if algorithm == "fedavg" else cut,
        num_clients=1,
        algorithm=algorithm,
        partition=[list(range(size))],
        aggregate_every=every,
        client_optimizer_state=state,
        server_inputs=() if algorithm == "fedavg" else kind.server_inputs,
    )


@pytest.mark.parametrize("kind", KINDS_WITH_SLOW, ids=lambda kind: kind.name)
@settings(max_examples=7)
@given(draw=st.data())
def test_one_client_trains_bit_for_bit_like_plain_lightning(kind, draw):
    """Batch normalisation, dropout, shuffling, momentum and AdamW's state included; random numbers are drawn alike."""
    cut = draw.draw(st.sampled_from(kind.cuts), "cut")
    algorithm = draw.draw(st.sampled_from(ALGORITHMS), "algorithm")
    optimizer = draw.draw(st.sampled_from([sgd, adamw]), "optimizer")
    size = draw.draw(st.integers(5, 13), "size")
    batch_size = draw.draw(st.integers(2, 5), "batch_size")
    every = draw.draw(st.integers(1, 4), "aggregate_every")
    shuffle = draw.draw(st.booleans(), "shuffle")
    state = draw.draw(st.sampled_from(["average", "keep"]), "client_optimizer_state")
    results = []
    for strategy in ("auto", strategy_for_one_client(kind, cut, algorithm, size, every, state)):
        module = kind.module(optimizer)
        trainer = fit(
            module,
            kind.loader(size, batch_size, shuffle=shuffle),
            strategy,
            val=kind.loader(4, 4),
            max_epochs=2,
        )
        results.append((module.state_dict(), trainer.callback_metrics, torch.get_rng_state(), trainer.global_step))
    plain, split = results
    assert same(plain[0], split[0])
    assert same(plain[1], split[1])
    assert torch.equal(plain[2], split[2])
    assert plain[3] == split[3]


@pytest.mark.parametrize("state", ["average", "keep"])
@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_plain_lightning_whether_state_is_averaged_or_kept(algorithm, optimizer, state):
    """Two steps to a round, over six steps, with batch normalisation and dropout."""
    results = []
    for strategy in ("auto", strategy_for_one_client(RESNET, "model.1", algorithm, 9, 2, state)):
        module = RESNET.module(optimizer)
        fit(module, RESNET.loader(9, 3, shuffle=True), strategy, max_epochs=2)
        results.append(module.state_dict())
    assert same(*results)


def test_it_does_not_hold_where_state_is_reset():
    """Momentum built up before the aggregation is gone after it."""
    results = []
    for strategy in ("auto", strategy_for_one_client(RESNET, "model.1", "splitfed_shared", 9, 2, "reset")):
        module = RESNET.module(sgd)
        fit(module, RESNET.loader(9, 3, shuffle=True), strategy, max_epochs=1)
        results.append(module.state_dict())
    assert not same(*results)


@pytest.mark.parametrize(
    ("kind", "cut", "algorithm", "state"),
    [
        (RESNET, "model.1", "splitfed_shared", "average"),
        (VGG, "model.1", "splitfed_v1", "keep"),
        (GPT2, GPT2.cuts[1], "split_learning", "keep"),
        (BERT, BERT.cuts[1], "splitfed_v2", "average"),
        (RESNET, "model.2", "fedavg", "keep"),
    ],
)
def test_the_optimizer_state_is_that_of_plain_lightning(kind, cut, algorithm, state):
    """Under the module's own names and in the user's own groups, so that either can resume the other.

    9 samples by 3 are 3 steps: a fit of one epoch ends with a round of 3, one of two epochs within a round of 4.
    """
    for every, epochs in ((3, 1), (4, 2)):
        states = []
        for strategy in ("auto", strategy_for_one_client(kind, cut, algorithm, 9, every, state)):
            module = kind.module(adamw)
            trainer = fit(module, kind.loader(9, 3), strategy, max_epochs=epochs)
            states.append(trainer.strategy.optimizers[0].state_dict())
        plain, split = states
        assert plain["param_groups"] == split["param_groups"]
        assert plain["state"].keys() == split["state"].keys()
        for index, own in plain["state"].items():
            assert same(own, split["state"][index])


def test_one_client_with_workers_and_an_own_generator_sees_the_plain_runs_batches():
    results = []
    for strategy in ("auto", strategy_for_one_client(LLAMA, LLAMA.cuts[1], "splitfed_shared", 11, 1)):
        module = LLAMA.module(sgd)
        loader = LLAMA.loader(11, 4, shuffle=True, generator=torch.Generator().manual_seed(5), num_workers=1)
        fit(module, loader, strategy, max_epochs=3)
        results.append(module.state_dict())
    assert same(*results)


def test_the_default_cut_trains_like_plain_lightning_too():
    """The search for the default runs on a copy and leaves no trace in random state, buffers or logged values."""
    results = []
    for strategy in ("auto", strategy_for_one_client(RESNET, None, "splitfed_shared", 8, 1)):
        module = RESNET.module(sgd)
        trainer = fit(module, RESNET.loader(8, 4, shuffle=True), strategy, max_epochs=2)
        results.append((module.state_dict(), trainer.callback_metrics))
    assert same(results[0][0], results[1][0])
    assert same(results[0][1], results[1][1])
