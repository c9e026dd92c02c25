"""Drawn cases for SFLAM: what sending costs, and observations of clients that share a band."""

import dataclasses

import numpy as np
from world_cases import hand_profile

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies.decision import check
from lightning_sfl.policies.latency_energy import client_joule
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.solvers.power import at_most_power
from lightning_sfl.policies.solvers.sending import Sending
from lightning_sfl.policies.statistics import assumed
from lightning_sfl.world.channel.wireless import SharedBandwidth, WirelessChannel
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.devices.server import Server
from lightning_sfl.world.world import Ends, World


def drawn_sending(rng, clients, stages=2, weight=None, hard=1.0):
    """Time and energy at full power in equal parts of 1 MHz weigh together 1, the weight is drawn unless given."""
    weight = rng.uniform(0.02, 1.0) if weight is None else weight
    bit = 10 ** rng.uniform(4, 6, (stages, 1)) * 10 ** rng.uniform(0, 0.5 * hard, (stages, clients))
    sending = Sending(
        price_per_s=np.ones(stages),
        offset_s=rng.uniform(0, 1, (stages, clients)) * rng.uniform(0, 3),
        bit=bit,
        floor_s=np.zeros(stages),
        sent_bit=bit.sum(axis=0),
        price_per_joule=1.0,
        gain_to_noise_hz_per_watt=10 ** rng.uniform(5, 5 + 3 * hard, clients),
        most_watt=rng.uniform(0.05, 2.0, clients),
    )
    first = at_most_power(sending, np.full(clients, 1e6 / clients))
    seconds = float(first.deadline_s.sum())
    return dataclasses.replace(
        sending,
        price_per_s=np.full(stages, weight / seconds),
        price_per_joule=(1.0 - weight) / (first.cost - seconds),
    )


def observed(
    *,
    gain,
    most_watt,
    clock_hz,
    algorithm="splitfed_shared",
    aggregate_every=2,
    total_hz=1e6,
    batch_size=8,
    scale=1e3,
    bits=32.0,
    inter_server_bit_per_s=None,
    channel=None,
    **given,
):
    """Clients that all cut at b of the hand-made profile, whose every element stands for ``scale`` of them."""
    clients = len(gain)
    hand = hand_profile()
    crossing = ("smashed_element", "smashed_bit", "cut_gradient_element", "cut_gradient_bit", "update_bit")
    whole = dataclasses.replace(hand.whole, update_bit=scale * hand.whole.update_bit)
    scaled = {name: scale * getattr(hand, name) for name in crossing}
    profile = dataclasses.replace(hand, **scaled, whole=whole)
    fleet = Fleet(
        clock_hz=np.asarray(clock_hz),
        flop_per_cycle=np.full(clients, 1e-3),
        watt_per_cubic_hz=np.full(clients, 1e-28),
        transmit_power_watt=np.asarray(most_watt),
    )
    shared = SharedBandwidth(total_hz=total_hz)
    channel = channel or WirelessChannel(
        uplink_gain=np.asarray(gain),
        downlink_gain=np.full(clients, 1e-9),
        client_power_watt=np.asarray(most_watt),
        server_power_watt=10.0,
        uplink_bandwidth=shared,
        downlink_bandwidth=shared,
    )
    world = World(
        profile=profile,
        fleet=fleet,
        channel=channel,
        server=Server(clock_hz=1e9, flop_per_cycle=1e-3, inter_server_bit_per_s=inter_server_bit_per_s),
        algorithm=algorithm,
        aggregate_every=aggregate_every,
        probes=2 if algorithm.endswith("o_sfl") else None,
    )
    return Observation(
        **{
            "round": 0,
            "rounds": 1,
            "world": world,
            "clients": np.arange(clients),
            "samples": np.full(clients, 100),
            "cut": np.full(clients, 1),
            "batch_size": np.full(clients, batch_size),
            "bits": None if bits is None else np.full(clients, bits),
            "now": Allocation(cut=["b"] * clients, batch_size=[batch_size] * clients),
            "statistics": assumed(profile, profile.update_parameters.astype(float)),
            "learning_rate": 0.1,
            **given,
        }
    )


def drawn_observation(rng, clients, hard=False, **given):
    """Clients of drawn gains, powers and clocks; hard: of which one hardly hears the server, at widely drawn scales."""
    gain = 10 ** rng.uniform(-12, -9, clients)
    clock_hz = 10 ** rng.uniform(6, 8, clients)
    if hard:
        gain[rng.integers(clients)] = 10 ** rng.uniform(-19, -13)
        clock_hz = 10 ** rng.uniform(5.1, 9.9, clients)
        given = {"scale": 10 ** rng.uniform(0, 6), "total_hz": 10 ** rng.uniform(4, 9), **given}
    algorithms = ("splitfed_shared", "splitfed_v1", "fedavg", "ho_sfl")
    return observed(
        **{
            "gain": gain,
            "most_watt": rng.uniform(0.05, 2.0, clients),
            "clock_hz": clock_hz,
            "algorithm": algorithms[rng.integers(4)],
            "aggregate_every": int(rng.integers(1, 4)),
            "inter_server_bit_per_s": None if rng.random() < 0.5 else 10 ** rng.uniform(6, 8),
            **given,
        }
    )


def three(**given):
    return observed(
        **{"gain": [1e-10, 3e-11, 2e-12], "most_watt": [0.5, 1.0, 0.2], "clock_hz": [1e8, 5e7, 9e7], **given}
    )


def decided(policy, seen):
    """A decision that is accepted, and what its round costs."""
    decision = policy.decide(seen)
    check(policy, seen, decision)
    return decision, cost_of(seen, decision.allocation)


def cost_of(seen, allocation):
    """What the world says."""
    bits = seen.bits if allocation.bits is None else np.array(allocation.bits, dtype=float)[seen.clients]
    power_watt, bandwidth_hz = np.array([allocation.transmit_power_watt, allocation.bandwidth_hz])[:, seen.clients]
    controls = dataclasses.replace(seen.controls, power_watt=power_watt, bandwidth_hz=bandwidth_hz)
    return seen.world.round(seen.participation(bits=bits, controls=controls), Ends(), round=seen.round)


def at_full_power(seen, bits=32.0):
    """Everybody at the highest power in an equal part of the band."""
    radio, clients = seen.radio, len(seen.clients)
    equal_hz = np.full(clients, radio.total_hz / clients)
    controls = dataclasses.replace(seen.controls, power_watt=radio.most_watt, bandwidth_hz=equal_hz)
    chosen = None if seen.bits is None else np.broadcast_to(np.asarray(bits, dtype=float), (clients,)).copy()
    return seen.world.round(seen.participation(bits=chosen, controls=controls), Ends(), round=seen.round)


def objective(seen, weight, cost):
    reference = at_full_power(seen)
    energy = client_joule(cost).sum() / client_joule(reference).sum()
    return weight * cost.total_s / reference.total_s + (1 - weight) * energy
