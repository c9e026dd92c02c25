"""Training with codecs at the cuts: straight-through, by client and by round, and what is refused."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from round_cases import (
    Asks,
    assert_close,
    data,
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
from lightning_sfl.algorithms import make_algorithm
from lightning_sfl.allocation import Allocation
from lightning_sfl.cut.carrier import LinkCarrier
from lightning_sfl.link.codecs import (
    BFloat16,
    Chain,
    Draw,
    Form,
    NearestUniform,
    NotFiniteError,
    RandomK,
    Sign,
    StochasticUniform,
    TopK,
)
from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.message import Message, MessageKind
from lightning_sfl.strategy.codecs import CodecPlan, GivenCodecs

FOUR_BITS = NearestUniform(bits=4)

pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")


def through(chain: Chain, tensor: torch.Tensor) -> torch.Tensor:
    """What arrives of a tensor; for codecs that draw nothing."""
    return chain.decode(chain.encode(tensor.detach(), Draw(0, "")), Form.of(tensor))


def encoded_loop(up: Chain, down: Chain | None = None):
    """One step of the straight loop, in which smashed data and cut gradients go through codecs.

    Straight-through (papers.md 4.2): the gradient of what arrived is used for what was sent.
    """

    def train_on(job, parties, main, step, silent):
        shares = job.loss_shares(step)
        main.optimizer.zero_grad()
        for client, indices in step.items():
            images, labels = job.batch(indices)
            hidden = parties[client].network(images)
            received = through(up, hidden).requires_grad_()
            (cross_entropy(main.network(received), labels) * shares[client]).backward()
            parties[client].optimizer.zero_grad()
            hidden.backward(through(up if down is None else down, received.grad / shares[client]))
            parties[client].optimizer.step()
        main.optimizer.step()

    return train_on


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


# What is no number


def marked(places):
    images, labels = data()
    images[places] = torch.nan
    return images, labels


@pytest.mark.parametrize("batching", ["per_client", "merged"])
def test_smashed_data_that_are_no_numbers_leave_their_client_out_as_its_loss_would(batching):
    """Client 0 has one such batch in two, client 1 none but such, and is the first of some runs."""
    xy = marked([3, *range(8, 12)])
    found = train(
        codecs=[FOUR_BITS], xy=xy, steps=9, nonfinite="skip", server_batching=batching, norm=batching != "merged"
    )
    left_out = {
        (client, "skipped", place)
        for place, step in enumerate(found.asks.steps)
        for client, indices in step.items()
        if {3, 8, 9, 10, 11} & set(indices)
    }
    loop = encoded_loop(Chain((FOUR_BITS,)))
    expected = straight(
        job(found, momentum, xy=xy), "splitfed_shared", lost=left_out, norm=batching != "merged", train_on=loop
    )
    assert_close(found.weights, expected)


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("batching", ["per_client", "merged"])
def test_by_default_they_are_an_error_before_any_weight_changes(batching, first):
    xy = marked([*range(8)] if first == 0 else [*range(12, 18)])
    module = Classifier(network(), momentum, schedule=False)
    named = (
        rf"smashed of client {first} in step 0: tensor '0' cannot be encoded.*NaN or infinite.*nonfinite='skip'"
        if batching == "per_client"
        else rf"Client {first} has smashed data that are NaN or infinite \(tensor '0', step 0\)"
    )
    with pytest.raises(ValueError, match=named):
        train(module=module, codecs=[FOUR_BITS], xy=xy, server_batching=batching)
    assert torch.equal(module.model[0].weight, network()[0].weight)


class Breaks(nn.Tanh):
    """On the server: of a batch of this size the last two gradients are NaN, its loss is a number."""

    size = 2

    def forward(self, x):
        hidden = super().forward(x)
        if hidden.requires_grad and len(x) == self.size:
            spoils = torch.where(torch.arange(len(x)) < len(x) - 2, 1.0, torch.nan)[:, None]
            hidden.register_hook(lambda gradient: gradient * spoils)
        return hidden


def breaking(size):
    layers = network(norm=False)
    layers[8] = Breaks()
    layers[8].size = size
    return Classifier(layers, momentum, schedule=False)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2"])
def test_a_cut_gradient_that_is_no_number_leaves_its_client_out_and_no_trace_at_the_server(algorithm):
    """Every other batch of client 2 has two samples. The server's gradients of the others are as they were."""
    options = {"nonfinite": "skip", "norm": False, "steps": 18, "algorithm": algorithm}
    found = train(codecs=[FOUR_BITS], module=breaking(2), **options)
    left_out = {
        (client, "skipped", place)
        for place, step in enumerate(found.asks.steps)
        for client, indices in step.items()
        if len(indices) == 2
    }
    assert left_out
    loop = encoded_loop(Chain((FOUR_BITS,)))
    expected = straight(job(found, momentum), algorithm, lost=left_out, norm=False, train_on=loop)
    assert_close(found.weights, expected)


class Skips(Classifier):
    """Has no loss on a batch of two."""

    def training_step(self, batch, batch_idx):
        return None if len(batch[0]) == 2 else super().training_step(batch, batch_idx)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_gradients_accumulated_before_stay_as_they_are(algorithm):
    """Bit for bit as where the client has no loss, which touches nothing."""
    options = {"norm": False, "steps": 9, "algorithm": algorithm, "nonfinite": "skip", "codecs": [FOUR_BITS]}
    accumulates = {"accumulate_grad_batches": 2}
    found = train(module=breaking(2), trainer_options=accumulates, **options)
    expected = train(
        module=Skips(network(norm=False), momentum, schedule=False), trainer_options=accumulates, **options
    )
    assert any(len(step[2]) == 2 for step in found.asks.steps)
    assert same(found.weights, expected.weights)


def test_merged_such_a_gradient_leaves_out_the_whole_step():
    """Ten samples together: the batch of client 2 has two. The others have their gradients by then."""
    found = train(
        codecs=[FOUR_BITS], module=breaking(10), nonfinite="skip", norm=False, steps=9, server_batching="merged"
    )
    left_out = {
        (client, "skipped", place)
        for place, step in enumerate(found.asks.steps)
        for client in step
        if sum(map(len, step.values())) == 10
    }
    assert left_out
    loop = encoded_loop(Chain((FOUR_BITS,)))
    expected = straight(job(found, momentum), "splitfed_shared", lost=left_out, norm=False, train_on=loop)
    assert_close(found.weights, expected)


@pytest.mark.parametrize(("batching", "size"), [("per_client", 2), ("merged", 10)])
def test_by_default_such_a_gradient_is_an_error_that_names_it(batching, size):
    named = r"cut_gradient of client \d in step \d: tensor '0' cannot be encoded by .*NaN or infinite.*nonfinite='skip'"
    with pytest.raises(ValueError, match=named):
        train(codecs=[FOUR_BITS], module=breaking(size), norm=False, steps=18, server_batching=batching)


@pytest.mark.parametrize("widens", [True, False])
def test_an_overflow_of_a_loss_scale_is_left_to_the_scaler(widens):
    """It takes back its scale when it sees the overflow, and steps nobody; nothing is sent. Else it is an error."""
    link = LocalLink(
        codecs=CodecPlan(GivenCodecs.of([FOUR_BITS], 1, make_algorithm("splitfed_v1"), is_u_shape=False), 0)
    )
    split = SimpleNamespace(cut="model.2")
    carrier = LinkCarrier(
        link=link, client=0, round=0, step=0, split=split, server_scale=1.0, widens=widens, origin=None
    )
    gradient = torch.tensor([1.0, torch.inf], dtype=torch.float16)
    if not widens:
        with pytest.raises(NotFiniteError, match="cut_gradient of client 0 in step 0"):
            carrier.carry_back((gradient,))
        return
    (arrived,) = carrier.carry_back((gradient,))
    assert torch.equal(arrived, gradient)
    assert link.meter.total().messages == 0
