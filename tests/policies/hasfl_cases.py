"""Small drawn problems for HASFL and its baselines: a world with all that a policy sees of it."""

import dataclasses

import numpy as np
from world_cases import hand_profile, numbers, whole

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies import reach
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.devices.server import Server
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World


def affine(per_sample, fixed=None):
    """Functions of the batch size, (C, 2)."""
    per_sample = np.asarray(per_sample, dtype=np.float64)
    return np.stack([np.zeros_like(per_sample) if fixed is None else fixed, per_sample], axis=1)


def drawn_profile(draw, cuts, *, activations_shrink=None):
    """A model of 1 GFLOP or so per sample and up to 10 million parameters, with all its cuts drawn."""
    share = np.sort(draw.uniform(0.02, 0.98, cuts))
    forward = 1e9 * 10 ** draw.uniform(-1, 0.5)
    elements = np.round(10 ** draw.uniform(2, 5, cuts))
    if activations_shrink if activations_shrink is not None else draw.random() < 0.5:
        elements = np.sort(elements)[::-1]
    parameters = np.sort(np.round(10 ** draw.uniform(3, 7, cuts))).astype(np.int64)
    bit = affine(32 * elements, fixed=draw.choice([0.0, 100.0], cuts))
    no_bit = affine(np.zeros(cuts))
    memory = np.stack([16.0 * parameters, np.cumsum(4 * elements) + 10], axis=1)[:, None]
    return Profile(
        cuts=tuple(f"block{place}" for place in range(cuts)),
        client_forward_flop=affine(share * forward),
        client_backward_flop=affine(2 * share * forward),
        server_forward_flop=affine((1 - share) * forward, fixed=np.full(cuts, draw.choice([0.0, 1e7]))),
        server_backward_flop=affine(2 * (1 - share) * forward),
        smashed_element=affine(elements)[:, None],
        smashed_bit=bit,
        cut_gradient_element=affine(elements)[:, None],
        cut_gradient_bit=bit,
        turn_flop=no_bit,
        returned_element=no_bit[:, None],
        returned_bit=no_bit,
        returned_gradient_element=no_bit[:, None],
        returned_gradient_bit=no_bit,
        beside_bit=affine(np.full(cuts, 64.0)),
        client_parameters=parameters,
        client_parameter_byte=4.0 * parameters,
        client_buffer_byte=0.0 * parameters,
        update_parameters=parameters,
        update_bit=32.0 * parameters,
        optimizer_state_bit=32.0 * parameters * draw.choice([0, 1, 2]),
        client_training_memory_line=memory,
        client_forward_memory_line=memory / 2,
        batch_byte=numbers(0, 1),
        whole=hand_profile().whole,
    )


def drawn_world(draw, clients, cuts, *, works=None, memory_byte=None, uplink=None, between_servers=None, spread=1.0):
    """Devices of 0.01 to 10 TFLOPS at most, rates of 1 to 100 Mbit/s or so, a server of up to 100 TFLOPS."""
    tera, mega = 1e12, 1e6
    speed = tera * 10 ** draw.uniform(-spread, spread, clients)
    rates = mega * 10 ** draw.uniform(1 - spread, 1 + spread, clients) if uplink is None else uplink
    if between_servers is None:
        between_servers = draw.choice([0.0, 1e7, 3e8])
    return World(
        profile=drawn_profile(draw, cuts),
        fleet=Fleet(
            clock_hz=np.full(clients, 1e9),
            flop_per_cycle=speed / 1e9,
            memory_byte=np.full(clients, np.inf) if memory_byte is None else memory_byte,
        ),
        channel=RateChannel(mean_uplink_bit_per_s=rates, mean_downlink_bit_per_s=4 * rates),
        server=Server(
            clock_hz=2e9,
            flop_per_cycle=tera * 10 ** draw.uniform(0, 2) / 2e9,
            works=works or draw.choice(["serial", "parallel"]),
            inter_server_bit_per_s=between_servers or None,
        ),
        algorithm=str(draw.choice(["splitfed_shared", "splitfed_shared", "splitfed_v1"])),
        aggregate_every=int(draw.choice([1, 5, 15])),
    )


def observed(world, *, draw=None, statistics=None, batch_size=8, samples=10**6, cut=None, registered=None, **given):
    """What a policy sees of a world in which all devices take part, with batches and the first cut as they are now."""
    clients = given.pop("clients", np.arange(len(world.fleet.clock_hz)))
    cuts, registered = len(world.profile.cuts), registered or int(clients.max()) + 1
    cut = np.zeros(len(clients), np.int64) if cut is None else cut
    batch_size = np.broadcast_to(batch_size, len(clients)).astype(np.int64)
    names, sizes = [world.profile.cuts[0]] * registered, [1] * registered
    for client, place, size in zip(clients.tolist(), cut.tolist(), batch_size.tolist(), strict=True):
        names[client], sizes[client] = world.profile.cuts[place], size
    return Observation(
        round=given.pop("round", 0),
        rounds=1,
        world=world,
        clients=clients,
        samples=np.broadcast_to(samples, len(clients)).astype(np.int64),
        cut=cut,
        batch_size=batch_size,
        now=given.pop("now", Allocation(cut=names, batch_size=sizes)),
        statistics=drawn_statistics(draw, cuts) if statistics is None else statistics,
        learning_rate=5e-4,
        **given,
    )


def drawn_statistics(draw, cuts):
    """Variance and drift that are about as large, at a step of 5e-4, an I of 15 and batches of 8."""
    return GradientStatistics(
        smoothness=10.0,
        variance=10 ** draw.uniform(0, 2),
        second_moment=np.sort(10 ** draw.uniform(-2, 0.5, cuts)),
        loss_gap=1.0,
    )


def wide_problem(seen, most_batch, share=1.0):
    """The problem at 5 times what variance and drift come to now and in the middle, or can come to at the least.

    Much is within such a target, and at a share of .4 less; the policies' default one is near.
    """
    problem = reach.time_to_target(seen, 1.0, most_batch)
    found = problem.nearest()
    least = problem.target - float(problem.slack(found.cut, found.batch_size))
    usual = problem.variance_factor * len(seen.clients) * mean_inverse_batch(seen)
    usual += float(problem.drift[len(problem.drift) // 2])
    return dataclasses.replace(problem, target=share * 5.0 * max(usual, least))


def mean_inverse_batch(seen):
    return float((1 / np.minimum(seen.batch_size, seen.samples)).mean())


def default_target(seen):
    return reach.default_target(reach.time_to_target(seen, 1.0, 64), mean_inverse_batch(seen))


def hard_case(case):
    """One to five clients and cuts: little memory, next to no channel, one sample, speeds far apart."""
    draw = np.random.default_rng(case)
    clients, cuts = int(draw.integers(1, 6)), int(draw.integers(1, 6))
    memory = 10 ** draw.uniform(5, 9, clients) if draw.random() < 0.5 else None
    uplink = 10 ** draw.uniform(-3, 9, clients) if draw.random() < 0.3 else None
    world = drawn_world(draw, clients, cuts, memory_byte=memory, uplink=uplink, spread=draw.choice([0.0, 1.0, 3.0]))
    if memory is not None and draw.random() < 0.5:  # somebody can only just hold the first cut
        memory[0] = float(world.memory_at(whole(0), whole(1))[0])
        world = dataclasses.replace(world, fleet=dataclasses.replace(world.fleet, memory_byte=memory))
    return observed(
        world,
        draw=draw,
        samples=draw.integers(1, 100, clients),
        cut=draw.integers(0, cuts, clients),
        batch_size=draw.integers(1, 100, clients),
    )


def decided(seen, decision):
    """Cut and batch of every client that takes part."""
    cut = seen.world.profile.index([decision.allocation.cut[client] for client in seen.clients])
    return cut, np.array(decision.allocation.batch_size)[seen.clients]
