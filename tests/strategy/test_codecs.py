"""Training with codecs at the cuts: straight-through, by client and by round, and what is refused."""

import dataclasses

import pytest
import torch
from encoded_loops import FOUR_BITS, encoded_loop, through
from round_cases import (
    Asks,
    assert_close,
    job,
    momentum,
    network,
    straight,
    train,
)
from sfl_models import MLP, Classifier, fit, same, sgd
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sfl import MessageLog, SplitFederatedStrategy
from lightning_sfl.allocation import Allocation
from lightning_sfl.link.codecs import (
    BFloat16,
    Chain,
    Form,
    NearestUniform,
    RandomK,
    Sign,
    StochasticUniform,
    TopK,
)
from lightning_sfl.link.message import Message, MessageKind

pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2", "split_learning"])
@pytest.mark.parametrize("codecs", [(FOUR_BITS,), (TopK(fraction=0.4), FOUR_BITS), (Sign(),)], ids=str)
def test_the_gradient_of_what_arrived_is_used_for_what_was_sent(algorithm, codecs):
    """From the very first step on, which is the one that finds out what crosses."""
    found = train(algorithm=algorithm, codecs=codecs, steps=18 if algorithm != "splitfed_shared" else 7)
    loop = encoded_loop(Chain(codecs))
    assert_close(found.weights, straight(job(found, momentum), algorithm, train_on=loop))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(found.weights, straight(job(found, momentum), algorithm))


def test_merged_too():
    """Without a norm a merged batch is the weighted mean of its clients'. Each is encoded by itself."""
    found = train(codecs=[FOUR_BITS], server_batching="merged", norm=False, steps=7)
    loop = encoded_loop(Chain((FOUR_BITS,)))
    assert_close(found.weights, straight(job(found, momentum), "splitfed_shared", norm=False, train_on=loop))


def test_kinds_can_have_codecs_of_their_own():
    up, down = [TopK(fraction=0.5), NearestUniform(bits=6)], [FOUR_BITS]
    found = train(codecs={"smashed": up, "cut_gradient": down}, steps=7)
    loop = encoded_loop(Chain(tuple(up)), Chain(tuple(down)))
    assert_close(found.weights, straight(job(found, momentum), "splitfed_shared", train_on=loop))
    plain = train(codecs={"cut_gradient": down, "smashed": []}, steps=7)
    loop = encoded_loop(Chain(), Chain(tuple(down)))
    assert_close(plain.weights, straight(job(plain, momentum), "splitfed_shared", train_on=loop))


def test_in_a_u_shape_all_four_crossings_are_encoded():
    """One step of one client by hand; gradients are those of its own mean loss."""
    log, chain = MessageLog(), Chain((FOUR_BITS,))
    fresh = MLP.module(sgd).double()
    strategy = SplitFederatedStrategy(
        cut=("model.1", "model.3"), num_clients=1, partition=[[0, 1, 2]], message_log=log, codecs=[FOUR_BITS]
    )
    fit(MLP.module(sgd), MLP.loader(3, 3), strategy, max_epochs=1, precision="64-true")
    images, labels = (torch.stack(parts) for parts in zip(*(MLP.dataset(3)[i] for i in range(3)), strict=True))
    hidden = fresh.model[:2](images.double())
    smashed = through(chain, hidden).requires_grad_()
    output = fresh.model[2:4](smashed)
    returned = through(chain, output).requires_grad_()
    cross_entropy(fresh.model[4:](returned), labels).backward()
    output_gradient = through(chain, returned.grad)
    output.backward(output_gradient)
    expected = {
        MessageKind.SMASHED: smashed,
        MessageKind.SERVER_OUTPUT: returned,
        MessageKind.OUTPUT_GRADIENT: output_gradient,
        MessageKind.CUT_GRADIENT: through(chain, smashed.grad),
    }
    found = {m.kind: m for m in log.messages(kinds=list(expected))}
    for kind, tensor in expected.items():
        torch.testing.assert_close(found[kind].decoded()["0"], tensor.detach(), rtol=1e-9, atol=1e-12)
        assert found[kind].payload_bit == chain.payload_bit(Form.of(tensor)) == 4 * tensor.numel() + 128


@pytest.mark.parametrize("batching", ["per_client", "merged"])
def test_sixteen_bits_train_as_no_codec_does_and_one_bit_does_not(batching):
    runs = {
        bits: train(
            codecs=[StochasticUniform(bits=bits)] if bits else (), server_batching=batching, norm=False, steps=9
        )
        for bits in (0, 16, 1)
    }
    weights = {bits: torch.cat([tensor.flatten() for tensor in run.weights.values()]) for bits, run in runs.items()}
    assert (weights[16] - weights[0]).norm() < 1e-4 * weights[0].norm()
    assert (weights[1] - weights[0]).norm() > 1e-2 * weights[0].norm()


def test_no_codecs_change_nothing_and_encode_nothing():
    plain, empty = train(steps=7), train(steps=7, codecs={"smashed": [], "client_update": ()})
    assert same(plain.weights, empty.weights)
    assert not any(message.codings for message in empty.log.messages())


# By client and by round


def texts(found, *kinds):
    """The codecs of every message, by (client, round)."""
    kinds = kinds or (MessageKind.SMASHED, MessageKind.CUT_GRADIENT)
    seen: dict = {}
    for message in found.log.messages(kinds=kinds):
        seen.setdefault((message.client, message.round), set()).add(
            ", ".join(sorted({str(coding.chain) for coding in message.codings.values()}))
        )
    return seen


def test_clients_can_have_codecs_of_their_own():
    found = train(codecs={0: [Sign()], 2: {"smashed": [StochasticUniform(bits=2)]}}, steps=6)
    assert texts(found) == {
        **{(0, turn): {"Sign()"} for turn in range(2)},
        **{(1, turn): {""} for turn in range(2)},
        **{(2, turn): {"", "StochasticUniform(bits=2)"} for turn in range(2)},
    }


def test_bits_change_by_client_at_the_next_round():
    """Asked for in step 1 of rounds of three steps, and again in step 4: rounds 1 and 2. 32 is no quantiser at all."""
    plan = {1: Allocation(bits=[2, 16, 32]), 4: Allocation(bits=[4, 32, 1])}
    found = train(codecs=[TopK(fraction=0.5), StochasticUniform(bits=8)], plan=plan, steps=12)
    bits = [(8, 8, 8), (2, 16, 32), (4, 32, 1), (4, 32, 1)]
    assert texts(found) == {
        (client, turn): {"TopK(fraction=0.5)" + ("" if bit == 32 else f", StochasticUniform(bits={bit})")}
        for turn, by_client in enumerate(bits)
        for client, bit in enumerate(by_client)
    }


def test_allocated_bits_are_those_of_smashed_data_and_gradients_and_not_of_updates():
    codecs = {"smashed": [StochasticUniform(bits=8)], "client_update": [StochasticUniform(bits=8)]}
    found = train(codecs=codecs, plan={0: Allocation(bits=[2, 2, 2])}, steps=6)
    assert texts(found, MessageKind.SMASHED)[0, 1] == {"StochasticUniform(bits=2)"}
    assert texts(found, MessageKind.CUT_GRADIENT)[0, 1] == {""}
    assert texts(found, MessageKind.CLIENT_UPDATE)[0, 1] == {"StochasticUniform(bits=8)"}


@pytest.mark.parametrize("codecs", [(), (TopK(fraction=0.5),), {"client_update": [StochasticUniform(bits=8)]}])
def test_bits_for_a_client_without_a_quantiser_are_refused_and_nothing_changes(codecs):
    plan = {0: Allocation(bits=[32, 4, 32], batch_size=[1, 1, 1])}
    asks = Asks()
    with pytest.raises(ValueError, match=r"bits=...\) gives client 1 4 bits, and there is no uniform quantiser in its"):
        train(codecs=codecs, plan=plan, steps=6)
    found = train(codecs=codecs, plan={0: Allocation(bits=[32, 32, 32])}, steps=6, callbacks=[asks])
    assert [len(step[0]) for step in asks.steps] == [4] * 6
    assert len(found.asks.losses) == 6


@pytest.mark.parametrize("bits", [[0, 8, 8], [8, 17, 8], [8, 8, 8.5], [True, 8, 8], [8, 8, 33], 8, ["8", 8, 8]])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(
        ValueError, match=r"bits=.* is not accepted: give one integer from 1 to 16 per registered client"
    ):
        Allocation(bits=bits)


# Client updates


@pytest.mark.parametrize("state", ["average", "reset"])
def test_of_an_update_the_change_since_the_broadcast_is_encoded(state):
    """The next broadcast is this one and the weighted mean of the decoded changes; counters go as they are."""
    codecs = {"client_update": [TopK(fraction=0.3), NearestUniform(bits=5)]}
    found = train(codecs=codecs, steps=6, client_optimizer_state=state)
    sent = list(found.log.messages(kinds=[MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE]))
    first = next(m for m in sent if m.kind is MessageKind.BROADCAST and m.round == 0).decoded()
    then = next(m for m in sent if m.kind is MessageKind.BROADCAST and m.round == 1).decoded()
    updates = {m.client: m for m in sent if m.kind is MessageKind.CLIENT_UPDATE and m.round == 0}
    samples = {client: sum(len(step[client]) for step in found.asks.steps[:3]) for client in range(3)}
    for name, tensor in then.items():
        if not tensor.is_floating_point():
            assert all(name not in update.codings for update in updates.values())
            continue
        change = sum(updates[c].decoded()[name] * samples[c] for c in range(3)) / sum(samples.values())
        torch.testing.assert_close(tensor, first[name] + change, rtol=1e-9, atol=1e-12)
        assert all(update.codings[name].is_difference for update in updates.values())
    assert not any(m.codings for m in found.log.messages(kinds=[MessageKind.OPTIMIZER_STATE, MessageKind.BROADCAST]))


def test_fedavg_has_codecs_for_its_updates():
    plain, encoded = (
        train(algorithm="fedavg", steps=9, codecs=codecs) for codecs in ((), {"client_update": [BFloat16()]})
    )
    assert_close(encoded.weights, plain.weights, rtol=0.2)
    assert not same(encoded.weights, plain.weights)


def test_error_feedback_ends_closer_to_training_without_codecs():
    plain = train(steps=36, norm=False)
    away = {}
    for feeds_back in (False, True):
        codecs = {"client_update": [TopK(fraction=0.1, error_feedback=feeds_back)]}
        found = train(codecs=codecs, steps=36, norm=False)
        away[feeds_back] = sum((found.weights[name] - plain.weights[name]).norm().item() for name in plain.weights)
        assert bool(found.trainer.strategy.link.memory.state_dict()) == feeds_back
    assert away[True] < away[False]


# What is refused


@pytest.mark.parametrize(
    ("codecs", "message"),
    [
        (StochasticUniform(bits=8), "is not accepted as codecs: give a sequence"),
        ([8], "8 is not accepted as a codec"),
        ("StochasticUniform", "is not accepted as codecs"),
        ([Sign(), TopK(fraction=0.1)], "ends in packed integers"),
        ({"label": [Sign()]}, "'label' is not accepted; give a sequence of codecs, or sequences for 'smashed', 'cut"),
        ({"mask": []}, "'mask' is not accepted"),
        ({"broadcast": [Sign()]}, "broadcasts and optimizer state are sent as they are"),
        ({"optimizer_state": [Sign()]}, "'optimizer_state' is not accepted"),
        ({"activations": [Sign()]}, "'activations' is not accepted"),
        ({3: [Sign()]}, r"codecs=\{3: ...\} is not accepted beside clients: give clients from 0 to 2"),
        ({0: [Sign()], "smashed": [Sign()]}, r"codecs=\{'smashed': ...\} is not accepted beside clients"),
        ({-1: [Sign()]}, "give clients from 0 to 2 alone"),
        ({0: {"label": [Sign()]}}, "codecs of client 0: 'label' is not accepted"),
        ([TopK(fraction=0.1, error_feedback=True)], "error_feedback=True is for 'client_update' alone"),
        (
            {"smashed": [RandomK(fraction=0.1, error_feedback=True)]},
            "What was left out of 'smashed' belongs to records",
        ),
        ({"server_output": [Sign()]}, "names 'server_output', which crosses in a U-shape alone"),
    ],
)
def test_codecs_that_cannot_be_are_refused(codecs, message):
    with pytest.raises(ValueError, match=message):
        SplitFederatedStrategy(cut="model.2", num_clients=3, codecs=codecs)


def test_without_a_cut_there_is_nothing_to_encode_at_one():
    with pytest.raises(
        ValueError, match=r"does not go with algorithm='fedavg', which has no cut.* Accepted is \{'client_u"
    ):
        SplitFederatedStrategy(algorithm="fedavg", codecs=[Sign()])


class Counts(Classifier):
    """An integer tensor crosses beside the activations."""

    class Both(nn.Module):
        def forward(self, x):
            return torch.tanh(x), (x > 0).sum(1)

    class Reads(nn.Module):
        def forward(self, pair):
            return pair[0] * (1 + pair[1][:, None])

    def __init__(self):
        layers = network(norm=False)
        super().__init__(nn.Sequential(layers[0], self.Both(), self.Reads(), *layers[3:]), momentum, schedule=False)


def test_integers_among_the_smashed_data_are_refused_by_name():
    module = Counts()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"smashed of client 0 in step 0: tensor '1' cannot be encoded .* type int64"):
        train("model.1", module=module, codecs=[FOUR_BITS])
    assert same(module.state_dict(), before)
    train("model.1", module=Counts(), steps=2)


def test_a_spoilt_message_is_refused_before_anything_is_applied(monkeypatch):
    """Of a range that is not finite nothing is decoded."""
    module = Classifier(network(), momentum, schedule=False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    whole = Message.decoded

    def spoilt(message):
        tensors = {name: part + torch.inf if name.endswith("range") else part for name, part in message.tensors.items()}
        return whole(dataclasses.replace(message, tensors=tensors))

    monkeypatch.setattr(Message, "decoded", spoilt)
    with pytest.raises(ValueError, match=r"Message \d+, smashed of client 0 in step 0: tensor '0' cannot be decoded"):
        train(module=module, codecs=[FOUR_BITS])
    assert same(module.state_dict(), before)
