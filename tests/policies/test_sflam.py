"""SFLAM and its baselines on observations of a round."""

import dataclasses

import numpy as np
import pytest
from sflam_cases import decided, drawn_observation, objective, observed, three

from lightning_sfl.allocation import Allocation
from lightning_sfl.link.message import MessageKind
from lightning_sfl.policies.decision import InfeasibleError
from lightning_sfl.policies.equal_bandwidth import EqualBandwidth
from lightning_sfl.policies.fixed_bits import FixedBits
from lightning_sfl.policies.front import latency_energy_front
from lightning_sfl.policies.latency_energy import client_joule
from lightning_sfl.policies.maximum_power import MaximumPower
from lightning_sfl.policies.sflam import SFLAM
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.channel.wireless import OwnBandwidth
from lightning_sfl.world.cost.step_cost import Controls

POLICIES = (SFLAM, MaximumPower, EqualBandwidth, FixedBits)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_believed_is_what_the_world_says(policy):
    rng = np.random.default_rng(2)
    for _ in range(25):
        seen = drawn_observation(rng, int(rng.integers(1, 6)), hard=rng.random() < 0.5)
        weight = rng.uniform(0.05, 1.0)
        decision, cost = decided(policy(weight=weight), seen)
        assert decision.figures["objective"] == pytest.approx(objective(seen, weight, cost), rel=1e-7)
        assert decision.figures["round_s"] == cost.total_s
        assert decision.figures["client_joule"] == client_joule(cost).sum()
        assert decision.figures["objective"] <= decision.figures["first_objective"] * (1 + 1e-9)


def test_uploads_need_not_be_done_before_the_servers_have_exchanged_layers():
    """At 1e6 bit/s between the servers, longer than any upload; so uploads have that long, and no faster is better."""
    seen = three(algorithm="splitfed_v1", inter_server_bit_per_s=1e6)
    decision, cost = decided(SFLAM(weight=0.9), seen)
    assert cost.closing.inter_server_s > cost.closing.upload_s.max()
    assert decision.figures["objective"] == pytest.approx(objective(seen, 0.9, cost), rel=1e-7)
    beside = decided(SFLAM(weight=0.9), three(algorithm="splitfed_v1"))[1]
    assert cost.closing.upload_s.max() > beside.closing.upload_s.max()


def test_u_shapes_have_a_third_stage():
    """As much comes back at the second cut as went up at the first, and its gradient goes up in the turn."""
    seen = three()
    profile = seen.world.profile
    shaped = dataclasses.replace(
        profile,
        turn_flop=profile.client_forward_flop,
        **{f"returned_{kind}": getattr(profile, f"smashed_{kind}") for kind in ("element", "bit")},
        **{f"returned_gradient_{kind}": getattr(profile, f"smashed_{kind}") for kind in ("element", "bit")},
    )
    seen = dataclasses.replace(seen, world=dataclasses.replace(seen.world, profile=shaped))
    for policy in POLICIES:
        decision, cost = decided(policy(), seen)
        assert (cost.steps[0].turn_up_s > 0).all()
        assert decision.figures["objective"] == pytest.approx(objective(seen, 0.5, cost), rel=1e-7)


def test_no_baseline_costs_less():
    """With the same bits and as many subchannels as there are; equal parts are 8 subchannels each."""
    rng = np.random.default_rng(3)
    for _ in range(25):
        seen = drawn_observation(rng, int(rng.integers(1, 6)))
        weight = rng.uniform(0.05, 1.0)
        best = objective(seen, weight, decided(SFLAM(weight=weight), seen)[1])
        for baseline in (*(policy(weight=weight) for policy in POLICIES[1:]), FixedBits(weight=weight, bits=8)):
            assert best <= objective(seen, weight, decided(baseline, seen)[1]) * (1 + 1e-6)


def test_what_baselines_leave():
    seen = three()
    full = decided(MaximumPower(), seen)[0].allocation
    assert full.transmit_power_watt == pytest.approx([0.5, 1.0, 0.2], rel=1e-12)
    equal = decided(EqualBandwidth(), seen)[0].allocation
    assert equal.bandwidth_hz == pytest.approx([1e6 / 3] * 3)
    assert decided(FixedBits(bits=5), seen)[0].allocation.bits == [5, 5, 5]
    assert full.bits == equal.bits == [8, 8, 8]


def test_bits_are_the_fewest_within_the_limit():
    """1/(4 (2^q - 1)²) is 1.1e-3 for 4 bits and 2.6e-4 for 5."""
    assert SFLAM(most_error=1.2e-3).decide(three()).allocation.bits == [4, 4, 4]
    assert SFLAM(most_error=1.1e-3).decide(three()).allocation.bits == [5, 5, 5]
    assert SFLAM(most_error=0.0).decide(three()).allocation.bits == [32, 32, 32]
    assert SFLAM(most_error=1.0, bits=(32, 3, 6)).decide(three()).allocation.bits == [3, 3, 3]


def test_who_has_no_quantiser_has_no_bits():
    """The second client's messages of neither kind go through one."""
    seen = three()
    whose = {
        MessageKind.SMASHED: np.array([True, False, False]),
        MessageKind.CUT_GRADIENT: np.array([False, False, True]),
    }
    seen = dataclasses.replace(seen, world=dataclasses.replace(seen.world, quantised=whose))
    assert SFLAM(most_error=1.2e-3).decide(seen).allocation.bits == [4, 32, 4]


def test_nobody_has_a_quantiser():
    decision = SFLAM().decide(three(bits=None))
    assert decision.allocation.bits is None
    assert "no bits, since nobody has a quantiser" in decision.reason
    assert decision.figures["objective"] < 1.0


def test_the_round_gets_longer_and_cheaper_as_energy_counts_more():
    for policy in (SFLAM(), FixedBits()):
        points = latency_energy_front(policy, three(), (1.0, 0.9, 0.5, 0.2, 0.05))
        assert [point.weight for point in points] == [1.0, 0.9, 0.5, 0.2, 0.05]
        assert (np.diff([point.round_s for point in points]) > 0).all()
        assert (np.diff([point.client_joule for point in points]) < 0).all()
        assert points[2].decision == policy.decide(three())


def test_who_takes_no_part_keeps_what_it_has():
    """Of five clients 1, 3 and 4 take part; the band is theirs, and the others are left as they were."""
    seen = observed(gain=np.full(5, 1e-11), most_watt=np.full(5, 0.5), clock_hz=np.full(5, 1e8))
    here = np.array([1, 3, 4])
    few = dataclasses.replace(
        seen,
        clients=here,
        **{name: getattr(seen, name)[here] for name in ("samples", "cut", "batch_size", "bits")},
        now=Allocation(cut=["b"] * 5, batch_size=[8] * 5, transmit_power_watt=[0.3] * 5, bits=[7] * 5),
    )
    allocation = decided(SFLAM(), few)[0].allocation
    assert [allocation.transmit_power_watt[client] for client in (0, 2)] == [0.3, 0.3]
    assert allocation.bits == [7, 8, 7, 8, 8]
    assert sum(allocation.bandwidth_hz[client] for client in here) == pytest.approx(1e6)


def test_clocks_and_powers_that_were_given_before():
    """Clocks at half count as they are; powers and bands that were given before are decided anew."""
    slow = Controls(clock_hz=np.array([5e7, 2.5e7, 4.5e7]), power_watt=np.full(3, 0.01), bandwidth_hz=np.full(3, 1e3))
    fleet = dataclasses.replace(three().world.fleet, lowest_clock_hz=np.full(3, 1e6))
    seen = dataclasses.replace(three(), world=dataclasses.replace(three().world, fleet=fleet), controls=slow)
    decision, cost = decided(SFLAM(), seen)
    assert cost.steps[0].forward_s == pytest.approx(2 * decided(SFLAM(), three())[1].steps[0].forward_s)
    assert decision.figures["objective"] == pytest.approx(objective(seen, 0.5, cost), rel=1e-7)
    assert decision.figures["round_s"] == cost.total_s
    assert decision.allocation.clock_hz is None
    assert min(decision.allocation.bandwidth_hz) > 1e4


def test_energy_of_computing_counts_where_it_is_modelled():
    """Otherwise that of sending alone, so nothing is NaN."""
    seen = three()
    fleet = dataclasses.replace(seen.world.fleet, watt_per_cubic_hz=np.full(3, np.nan))
    unmodelled = dataclasses.replace(seen, world=dataclasses.replace(seen.world, fleet=fleet))
    decision, cost = decided(SFLAM(), unmodelled)
    assert decision.figures["client_joule"] == pytest.approx(cost.radio_joule.sum())
    decision, cost = decided(SFLAM(), seen)
    assert decision.figures["client_joule"] == pytest.approx((cost.radio_joule + cost.compute_joule).sum())


def test_where_nobody_sends_anything_nothing_is_allocated():
    """In federated averaging with all layers frozen."""
    seen = three(algorithm="fedavg")
    frozen = dataclasses.replace(seen.world.profile.whole, update_bit=np.zeros(1), optimizer_state_bit=np.zeros(1))
    profile = dataclasses.replace(seen.world.profile, whole=frozen)
    seen = dataclasses.replace(seen, world=dataclasses.replace(seen.world, profile=profile))
    for policy in POLICIES:
        decision = policy().decide(seen)
        assert decision.allocation.transmit_power_watt is None
        assert decision.reason == "nobody sends anything"


def test_decisions_are_a_function_of_what_is_seen():
    assert SFLAM().decide(three()) == SFLAM().decide(three())


def test_what_cannot_be_allocated_is_refused():
    rates = RateChannel(mean_uplink_bit_per_s=np.full(3, 1e6), mean_downlink_bit_per_s=np.full(3, 1e6))
    with pytest.raises(ValueError, match="SFLAM divides a shared band, and here are the rates of RateChannel"):
        SFLAM().decide(three(channel=rates))
    own = dataclasses.replace(three().world.channel, uplink_bandwidth=OwnBandwidth(bandwidth_hz=np.full(3, 1e6)))
    with pytest.raises(ValueError, match="MaximumPower divides a shared band, and here are a band of its own for"):
        MaximumPower().decide(three(channel=own))
    with pytest.raises(ValueError, match="splitfed_v2 serves one after the other"):
        SFLAM().decide(three(algorithm="splitfed_v2"))
    with pytest.raises(InfeasibleError, match=r"SFLAM\(most_error=1e-06\) cannot be met by client 0: with 6 bits the"):
        SFLAM(most_error=1e-6, bits=(2, 6)).decide(three())
    with pytest.raises(InfeasibleError, match="subchannels=2 are too few for 3 clients: each needs one, and client 2"):
        SFLAM(subchannels=2).decide(three())


@pytest.mark.parametrize(
    ("policy", "given", "says"),
    [
        (SFLAM, {"weight": 0.0}, r"SFLAM\(weight=0.0\) is not accepted: give a number above 0 and at most 1"),
        (SFLAM, {"weight": float("nan")}, "weight=nan"),
        (EqualBandwidth, {"weight": 1.1}, r"EqualBandwidth\(weight=1.1\)"),
        (SFLAM, {"most_error": -1.0}, r"most_error=-1.0.*at least 0"),
        (SFLAM, {"bits": ()}, r"bits=\(\).*from 1 to 16, or 32"),
        (SFLAM, {"bits": (8, 17)}, r"bits=\(8, 17\)"),
        (SFLAM, {"subchannels": 0}, "subchannels=0.*at least 1"),
        (FixedBits, {"bits": 0}, r"FixedBits\(bits=0\).*from 1 to 16, or 32"),
        (FixedBits, {"weight": 2.0}, r"FixedBits\(weight=2.0\)"),
        (FixedBits, {"subchannels": -1}, r"FixedBits\(subchannels=-1\)"),
    ],
)
def test_parameters_are_checked(policy, given, says):
    with pytest.raises(ValueError, match=says):
        policy(**given)
