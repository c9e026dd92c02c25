"""HO-SFL and its relatives against a plain loop, and in the limit of many probes against first order."""

import math

import pytest
import torch
from forward_only_cases import straight
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from round_cases import Loses, adamw, descent, momentum, network, train
from sfl_models import same

from lightning_sfl.algorithms import HOSFL, HOSL, ZOSFL

# Lightning says so where a whole step is left out.
pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")

KINDS = {"cut_gradient": HOSFL, "full_loss": HOSL, "both": ZOSFL}


def layers_before(cut: str) -> int:
    return int(cut.split(".")[1]) + 1


@settings(max_examples=12, phases=[Phase.generate])  # to shrink an example would take minutes
@given(draw=st.data())
def test_a_run_ends_as_the_plain_loop_says(draw):
    """With cuts that differ, clients drawn anew, batches of different sizes, lost clients, norms on both sides."""
    surrogate = draw.draw(st.sampled_from(sorted(KINDS)), "surrogate")
    optimizer = draw.draw(st.sampled_from([descent, momentum, adamw]), "optimizer")
    cuts = draw.draw(st.lists(st.sampled_from(["model.0", "model.2", "model.4", "model.5"]), min_size=3, max_size=3))
    probes, kind = draw.draw(st.integers(1, 3), "probes"), draw.draw(st.sampled_from(["gaussian", "rademacher"]))
    uniform, norm = draw.draw(st.booleans(), "uniform"), draw.draw(st.booleans(), "norm")
    every, per_round = draw.draw(st.integers(1, 3), "every"), draw.draw(st.integers(1, 3), "per round")
    lost = draw.draw(st.sets(st.tuples(st.integers(0, 2), st.just("before_gradient"), st.integers(0, 5)), max_size=3))
    attendance = Loses(lost)
    found = train(
        dict(enumerate(cuts)),
        algorithm=KINDS[surrogate](probes=probes, mu=1e-3, distribution=kind),
        steps=6,
        optimizer=optimizer,
        norm=norm,
        weighting="uniform" if uniform else "samples",
        aggregate_every=every,
        clients_per_round=per_round,
        attendance=attendance,
    )
    gone: dict[int, set[int]] = {}
    for step, (indices, round) in enumerate(zip(found.asks.steps, found.asks.rounds, strict=True)):
        earlier = gone.setdefault(round, set())
        for client in earlier & set(indices):  # lost earlier in the round: it does nothing
            del indices[client]
        earlier.update(client for client in indices if (client, "before_gradient", step) in lost)
    expected = straight(
        found,
        optimizer,
        {client: layers_before(cut) for client, cut in enumerate(cuts)},
        probes=probes,
        mu=1e-3,
        kind=kind,
        uniform=uniform,
        norm=norm,
        surrogate=surrogate,
        silent=lambda client, step: (client, "before_gradient", step) in lost,
    )
    for name, tensor in expected.items():  # scalars cross in single precision
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-4, atol=1e-6)


def along(found, first, start, names):
    """How far a step went along first order's, where 1 is as far."""
    pairs = [(found[name] - start[name], first[name] - start[name]) for name in names]
    return sum(float((a * b).sum()) for a, b in pairs) / sum(float((b * b).sum()) for _, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "cut"),
    [
        ({"distribution": "gaussian"}, "model.2"),
        ({"distribution": "rademacher"}, "model.2"),
        ({"weighting": "uniform"}, {0: "model.2", 1: "model.2", 2: "model.4"}),
        ({"accumulates": 2}, "model.2"),
    ],
    ids=["gaussian", "rademacher", "uniform, two cuts", "accumulated"],
)
def test_many_probes_are_first_order_with_the_right_scale(options, cut):
    """One step of SGD: the server's weights as in first-order SplitFed to the bit, the clients' on the way there.

    Of the estimate ĝ, ⟨ĝ, g⟩ / ‖g‖² is the mean of P numbers (gᵀu)² / ‖g‖², of variance 2 for Gaussian directions and
    less for ±1: with P = 1,000 it is 1 within 5·√(2/P) = 0.22, and μ = 1e-4 adds nothing to speak of. Of two
    accumulated batches the sum may be shorter than its parts, half as long here at least: √2 times as much. A gradient
    scaled by a client's share, or by the number of clients or batches, is at 0.5 or less, or at 2 or more.
    """
    accumulates = options.get("accumulates", 1)
    algorithm = HOSFL(probes=1000, mu=1e-4, distribution=options.get("distribution", "gaussian"))
    shared = {
        "norm": False,
        "aggregate_every": 1,
        "weighting": options.get("weighting", "samples"),
        "trainer_options": {"accumulate_grad_batches": accumulates},
    }
    first, hybrid = (
        train(cut, algorithm=a, steps=1, optimizer=descent, **shared).weights for a in ("splitfed_shared", algorithm)
    )
    start = network(norm=False).state_dict()
    clients = [name for name in first if int(name.split(".")[0]) < (3 if cut == "model.2" else 5)]
    assert all(torch.equal(hybrid[name], first[name]) for name in first if name not in clients)
    assert abs(along(hybrid, first, start, clients) - 1) < 0.22 * math.sqrt(accumulates)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [HOSL, ZOSFL])
def test_many_probes_of_the_full_loss_are_first_order_too(algorithm):
    """As above, with P = 500 and so 0.32; the server's weights of ZO-SFL are estimated as well."""
    options = {"steps": 1, "optimizer": descent, "norm": False, "aggregate_every": 1}
    first = train("model.2", algorithm="splitfed_shared", **options).weights
    found = train("model.2", algorithm=algorithm(probes=500, mu=1e-4), **options).weights
    start = network(norm=False).state_dict()
    for before_cut in (True, False):
        names = [name for name in first if (int(name.split(".")[0]) < 3) is before_cut]
        assert abs(along(found, first, start, names) - 1) < 5 * math.sqrt(2 / 500)


def test_it_is_the_module_that_clients_hold_at_the_end_of_every_step():
    """Nothing is averaged, so reading in mid-round shows what there is: two steps of a round as two rounds of one."""
    one = train(algorithm="ho_sfl", aggregate_every=2, steps=6)
    two = train(algorithm="ho_sfl", aggregate_every=1, steps=6)
    assert same(one.weights, two.weights)
