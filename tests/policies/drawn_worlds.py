"""Worlds for policies, drawn: a profile, devices, channel and server of plausible sizes."""

import dataclasses

import numpy as np
from world_cases import _profile

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.simulation import Scene
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.world.channel.fading import Static
from lightning_sfl.world.channel.seen import as_seen
from lightning_sfl.world.channel.wireless import OwnBandwidth, SharedBandwidth, WirelessChannel
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.devices.server import Server
from lightning_sfl.world.world import World


def drawn_profile(draw, cuts):
    """A model of about 300 MFLOP and 10^6 parameters, whose activations mostly shrink with depth."""
    share = np.sort(draw.uniform(0.02, 0.98, cuts))
    forward = 3e8 * share
    weights = (1e6 * np.sort(draw.uniform(0.001, 1.0, cuts) ** 2)).astype(np.int64) + 1
    element = np.round(65536 * np.exp(-4 * share) * draw.uniform(0.3, 2.0, cuts)) + 1

    def per_sample(values):
        return np.stack([np.zeros(len(values)), np.asarray(values, dtype=np.float64)], axis=1)

    whole = _profile(
        cuts=("",),
        flop=tuple(per_sample([value]) for value in (3e8, 6e8, 0, 0)),
        element=per_sample([0]),
        parameters=np.array([weights[-1] + 1000]),
        sample_byte=np.array([4e5]),
        whole=None,
    )
    return _profile(
        cuts=tuple(f"layer{place}" for place in range(cuts)),
        flop=tuple(per_sample(values) for values in (forward, 2 * forward, 3e8 - forward, 6e8 - 2 * forward)),
        element=per_sample(element),
        parameters=weights,
        sample_byte=4e5 * share,
        whole=whole,
    )


def drawn_world(draw, clients, cuts, *, shared=False, spread=1.0, fading=None, memory=False, steps=None):
    """Devices of about 10 GFLOP/s and links of about 10 Mbit/s, both spread over ``spread`` powers of ten each way."""
    power = draw.uniform(0.1, 1.0, clients)
    clock = 1e9 * draw.uniform(0.5, 2.0, clients)
    band = 5e6
    profile = drawn_profile(draw, cuts)
    held = np.full(clients, np.inf)
    if memory:
        least, most = (profile.training_memory_byte(cut, 4) for cut in (0, cuts - 1))
        held = least * 1.001 + (most - least) * draw.choice([0.0, 0.5, 1.0], clients)
    noise = 4e-21
    received = 10 ** draw.uniform(0.5 - 2 * spread, 0.5 + spread, clients) * band * noise / power
    return World(
        profile=profile,
        fleet=Fleet(
            clock_hz=clock,
            flop_per_cycle=10 * 10 ** draw.uniform(-spread, spread, clients),
            lowest_clock_hz=clock * draw.uniform(0.05, 0.5, clients),
            watt_per_cubic_hz=np.full(clients, 1e-27),
            transmit_power_watt=power,
            memory_byte=held,
        ),
        channel=WirelessChannel(
            uplink_gain=np.minimum(received, 1.0),
            downlink_gain=np.full(clients, 1e-9),
            client_power_watt=power,
            server_power_watt=1.0,
            uplink_bandwidth=SharedBandwidth(total_hz=band * clients)
            if shared
            else OwnBandwidth(bandwidth_hz=band * draw.uniform(0.5, 2.0, clients)),
            downlink_bandwidth=OwnBandwidth(bandwidth_hz=np.full(clients, 2 * band)),
            noise_watt_per_hz=noise,
            fading=Static() if fading is None else fading,
        ),
        server=Server(clock_hz=2e9, flop_per_cycle=1000.0, watt_per_cubic_hz=1e-26, transmit_power_watt=1.0),
        aggregate_every=int(draw.integers(1, 16)) if steps is None else steps,
    )


def drift_of(world):
    """Second moments in proportion to the parameters before the cut."""
    share = world.profile.update_parameters / world.profile.update_parameters.max()
    return GradientStatistics(smoothness=10.0, variance=16.0, second_moment=share, loss_gap=1.0)


def scene(world, cut=0, batch_size=4, **given):
    clients = len(world.fleet.clock_hz)
    return Scene(
        world=world,
        cut=np.full(clients, cut),
        batch_size=np.full(clients, batch_size),
        statistics=drift_of(world),
        **given,
    )


def observation(world, *, cut=0, batch_size=4, round=0, rounds=1, clients=None, **given):
    """All clients of the world, or some, at a common cut or at (N,) cuts."""
    registered = len(world.fleet.clock_hz)
    clients = np.arange(registered) if clients is None else clients
    cuts = np.broadcast_to(np.asarray(cut), registered)
    seen = dataclasses.replace(world, channel=as_seen(world.channel, registered, round=round, start_s=0.0))
    parts = {
        "samples": np.full(len(clients), 1000),
        "controls": Controls(),
        "statistics": drift_of(world),
        "learning_rate": 1e-3,
    }
    return Observation(
        **{
            **parts,
            "round": round,
            "rounds": rounds,
            "world": seen,
            "clients": clients,
            "cut": cuts[clients].copy(),
            "batch_size": np.full(len(clients), batch_size),
            "now": Allocation(
                cut=[world.profile.cuts[place] for place in cuts.tolist()], batch_size=[batch_size] * registered
            ),
            **given,
        }
    )
