"""Clients that run forward only, with codecs at the cut."""

import math

import pytest
import torch
from round_cases import PARTS, descent, network, train
from sfl_models import Classifier
from torch import nn

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.algorithms import HOSFL, HOSL, ZOSFL
from lightning_sfl.allocation import Allocation
from lightning_sfl.link.codecs import StochasticUniform, TopK
from lightning_sfl.link.message import MessageKind

ALL = pytest.mark.parametrize("algorithm", [HOSFL, HOSL, ZOSFL])


@ALL
def test_smashed_data_and_gradients_are_encoded_and_scalars_are_not(algorithm):
    """With 16 bits a run ends near the one without a codec, and with 2 it does not."""
    ends = {}
    for bits in (None, 16, 2):
        codecs = () if bits is None else [StochasticUniform(bits=bits)]
        run = train(algorithm=algorithm(probes=2, mu=0.1), codecs=codecs, optimizer=descent, steps=3, norm=False)
        ends[bits] = torch.cat([own.flatten() for own in run.weights.values()])
        for message in run.log.messages():
            encoded = message.kind in (MessageKind.SMASHED, MessageKind.CUT_GRADIENT) and bits is not None
            assert bool(message.codings) is encoded
    start = torch.cat([own.flatten() for own in network(norm=False).state_dict().values()])
    moved = float((ends[None] - start).norm())
    assert float((ends[16] - ends[None]).norm()) < 0.01 * moved
    assert float((ends[2] - ends[None]).norm()) > 0.05 * moved


def test_the_client_probes_from_what_it_has_and_not_from_what_arrived():
    """The anchor is the client's own z: a top-k codec that zeroes most of it would make scalars of the size of z.

    Divided by μ = 1e-6, these would be a million and not slopes.
    """
    run = train(algorithm=HOSFL(probes=3, mu=1e-6), codecs={"smashed": [TopK(fraction=0.1)]}, steps=2)
    scalars = [m.tensors["scalars"] for m in run.log.messages(kinds=[MessageKind.SCALARS]) if m.is_uplink]
    assert max(float(each.abs().max()) for each in scalars) / 1e-6 < 1e4


def test_bits_may_change_while_it_trains():
    run = train(
        algorithm="ho_sfl",
        codecs=[StochasticUniform(bits=8)],
        plan={1: Allocation(bits=[4, 8, 16])},
        steps=4,
        aggregate_every=2,
        parts=[[*range(8)], [*range(8, 16)], [*range(16, 24)]],
    )
    bits = {
        (m.step, m.client): m.tensors["0"].numel() * 8 / (4 * 8) for m in run.log.messages(kinds=[MessageKind.SMASHED])
    }
    assert {client: bits[1, client] for client in range(3)} == {0: 8, 1: 8, 2: 8}
    assert {client: bits[3, client] for client in range(3)} == {0: 4, 1: 8, 2: 16}


class Broken(nn.Module):
    """Gives client 2, who alone has batches of 2, no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, dtype=torch.float64))

    def forward(self, x):
        return x * (self.weight * (math.nan if len(x) == 2 else 1))


@ALL
@pytest.mark.parametrize("nonfinite", ["error", "skip"])
def test_smashed_data_that_are_no_numbers(algorithm, nonfinite):
    """Named with client and step, or left out; whoever is left out has no scalars in the mean."""
    module = Classifier(nn.Sequential(Broken(), nn.Linear(6, 3).double()), descent, schedule=False)
    options = {
        "algorithm": algorithm(probes=1),
        "module": module,
        "parts": [PARTS[0], PARTS[1], [12, 13]],
        "codecs": [StochasticUniform(bits=8)],
        "nonfinite": nonfinite,
        "steps": 2,
    }
    if nonfinite == "error":
        with pytest.raises(ValueError, match=r"smashed of client 2 in step 0.*nonfinite='skip'"):
            train("model.0", **options)
        assert torch.equal(module.model[0].weight, torch.ones(6, dtype=torch.float64))
        return
    run = train("model.0", **options)
    assert all(bool(own.isfinite().all()) for own in run.weights.values())
    assert not torch.equal(module.model[0].weight, torch.ones(6, dtype=torch.float64))
    assert {m.client for m in run.log.messages(kinds=[MessageKind.SMASHED])} == {0, 1}


def test_codecs_for_updates_are_refused():
    with pytest.raises(ValueError, match="whose clients send no updates"):
        SplitFederatedStrategy(cut="a", algorithm="ho_sfl", codecs={"client_update": [TopK(fraction=0.5)]})
