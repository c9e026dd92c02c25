"""Codecs meet what is no number: who is left out then, and what an error names."""

from types import SimpleNamespace

import pytest
import torch
from encoded_loops import FOUR_BITS, encoded_loop
from round_cases import (
    assert_close,
    data,
    job,
    momentum,
    network,
    straight,
    train,
)
from sfl_models import Classifier, same
from torch import nn

from lightning_sfl.algorithms import make_algorithm
from lightning_sfl.cut.carrier import LinkCarrier
from lightning_sfl.link.codecs import (
    Chain,
    NotFiniteError,
)
from lightning_sfl.link.link import LocalLink
from lightning_sfl.strategy.codecs import CodecPlan, GivenCodecs

pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")


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
