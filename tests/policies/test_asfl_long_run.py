"""ASFL over many rounds of block fading."""

import dataclasses

import drawn_worlds
import numpy as np
import pytest

from lightning_sfl.policies.asfl import ASFL
from lightning_sfl.policies.latency_only import LatencyOnly
from lightning_sfl.policies.simulation import simulate
from lightning_sfl.random import generator
from lightning_sfl.world.channel.fading import BlockRayleigh


def faded():
    """Two clients near the server, whose energy is that of computing: deep fades would need any amount of power."""
    world = drawn_worlds.drawn_world(generator(1, "asfl long"), 2, 3, spread=0.3, steps=4, fading=BlockRayleigh(seed=1))
    gain = 100 * world.channel.uplink_gain
    return dataclasses.replace(world, channel=dataclasses.replace(world.channel, uplink_gain=gain))


def long_run(rounds, trade_off):
    """Budgets of twice the delay of the shortest rounds, and of six tenths of their energy."""
    scene = drawn_worlds.scene(faded())
    free = simulate(LatencyOnly(), scene, rounds)
    delay_s, joule = 2.0 * free.delay_s.mean(), 0.6 * free.joule.mean(axis=0)
    policy = ASFL(delay_budget_s=delay_s, energy_budget_joule=joule.tolist(), trade_off=trade_off)
    trace = simulate(policy, scene, rounds)
    drift = (trace.cut.max(axis=1)[:, None] == np.arange(3)).mean(axis=0) @ scene.statistics.second_moment
    return trace.delay_s.mean() / delay_s, trace.joule.mean(axis=0) / joule, drift, trace


@pytest.mark.slow
def test_averages_approach_the_budgets():
    delay, energy, _, _ = long_run(50, 1.0)
    assert delay <= 1.1
    assert (energy <= 1.1).all()


@pytest.mark.slow
def test_averages_keep_the_budgets_and_the_trade_off_is_one():
    """After 200 rounds: within 5 %; a larger V gives no more drift."""
    found = [long_run(200, trade_off) for trade_off in (0.1, 1.0, 10.0)]
    for delay, energy, _, _ in found:
        assert delay <= 1.05
        assert (energy <= 1.05).all()
    drifts = [drift for _, _, drift, _ in found]
    assert drifts[0] >= drifts[1] >= drifts[2]
