"""Observations of small drawn worlds."""

import dataclasses

import numpy as np
from world_cases import hand_profile

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.statistics import assumed
from lightning_sfl.world.channel.seen import as_seen
from lightning_sfl.world.environments import make_environment
from lightning_sfl.world.world import World


def observed(environment="wei_chen", clients=4, seed=0, round=3, registered=None, **given):
    """An environment of the literature with the model of round numbers, seen at the beginning of a round."""
    registered = registered or clients
    made = make_environment(environment, registered, seed)
    options = {name: given.pop(name) for name in ("algorithm", "aggregate_every", "server") if name in given}
    profile = given.pop("profile", hand_profile())
    world = World(
        profile=profile,
        fleet=given.pop("fleet", made.fleet),
        channel=as_seen(given.pop("channel", made.channel), registered, round=round, start_s=0.0),
        server=options.pop("server", made.server),
        **options,
    )
    names = [profile.cuts[0]] * registered
    fields = {
        "round": round,
        "rounds": 1,
        "world": world,
        "clients": np.arange(clients),
        "samples": np.full(clients, 100),
        "cut": np.zeros(clients, dtype=np.int64),
        "batch_size": np.full(clients, 8),
        "now": Allocation(cut=names, batch_size=[8] * registered),
        "statistics": assumed(profile, profile.update_parameters.astype(np.float64)),
        "learning_rate": 0.1,
    }
    return Observation(**{**fields, **given})


def inter_server(server, rate):
    """The same server, away from the one that aggregates."""
    return dataclasses.replace(server, inter_server_bit_per_s=rate)
