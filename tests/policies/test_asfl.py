"""ASFL: near the best of all decisions, within all limits, and within its budgets on average."""

import dataclasses
import itertools

import drawn_worlds
import numpy as np
import pytest
from references_splits import all_values

from lightning_sfl.link.message import MessageKind
from lightning_sfl.policies.asfl import ASFL
from lightning_sfl.policies.decision import InfeasibleError, check
from lightning_sfl.policies.latency_only import LatencyOnly
from lightning_sfl.policies.myopic import Myopic
from lightning_sfl.policies.observation import Passed
from lightning_sfl.policies.priced_round import believed, controls_of, limits_of, priced, round_tables
from lightning_sfl.policies.solvers.split_and_controls import solve_split_and_controls
from lightning_sfl.random import generator
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.devices.server import Server

POLICY = ASFL(delay_budget_s=30.0, energy_budget_joule=10.0)


def drawn(case, clients=None, cuts=None, **given):
    """A small case: who sees what, and what a second, a joule and a deepest cut cost."""
    draw = generator(case, "asfl cases")
    clients = int(draw.integers(1, 4)) if clients is None else clients
    cuts = int(draw.integers(1, 5)) if cuts is None else cuts
    parts = {"shared": bool(draw.integers(2)), "memory": bool(draw.integers(2)), "spread": draw.choice([0.3, 1.0])}
    world = drawn_worlds.drawn_world(draw, clients, cuts, **{**parts, **given})
    seen = drawn_worlds.observation(world, cut=draw.integers(0, cuts, clients), rounds=int(draw.integers(1, 3)))
    resplits = bool(draw.integers(2))
    second_price = 10 ** draw.uniform(-3, 0) / world.step(seen.participation()).total_s
    problem = priced(
        seen,
        round_tables(seen, resplits=resplits),
        second_price=second_price,
        joule_price=10 ** draw.uniform(-4, -1, clients),
        base=10 ** draw.uniform(-2, 1) * seen.statistics.second_moment,
        resplits=resplits,
    )
    return seen, problem, resplits


def controls_of_decision(seen, allocation):
    """What was decided, as the world takes it."""

    def of(values):
        return None if values is None else np.array(values, dtype=np.float64)[seen.clients]

    return Controls(
        power_watt=of(allocation.transmit_power_watt),
        clock_hz=of(allocation.clock_hz),
        bandwidth_hz=of(allocation.bandwidth_hz),
    )


def test_it_is_within_a_hundredth_of_the_best_of_all_decisions_and_no_block_makes_it_worse():
    """Law 6 on drawn cases: every choice of cuts with its best controls, of up to 3 clients and 4 cuts."""
    for case in range(30):
        seen, problem, _ = drawn(case)
        limits = limits_of(seen)
        found = solve_split_and_controls(problem, limits)
        values = all_values(problem, limits)
        gap = problem.value(found.cut, limits, found.setting) - values.min()
        assert gap <= 0.01 * (values.max() - values.min()) + 1e-3 * values.min()
        assert all(after <= before for before, after in zip(found.values, found.values[1:], strict=False))
        assert problem.fits[np.arange(len(found.cut)), found.cut].all()


@pytest.mark.slow
def test_law_6_on_two_hundred_cases():
    for case in range(200):
        seen, problem, _ = drawn(case)
        limits = limits_of(seen)
        found = solve_split_and_controls(problem, limits)
        values = all_values(problem, limits)
        gap = problem.value(found.cut, limits, found.setting) - values.min()
        assert gap <= 0.01 * (values.max() - values.min()) + 1e-3 * values.min(), case


def test_what_the_solver_believes_is_what_the_world_says():
    """At a price of z per second and q per joule and nothing else: value = z τ + Σ q E of ``World.round``."""
    for case in range(30):
        seen, problem, resplits = drawn(case)
        limits = limits_of(seen)
        tables = round_tables(seen, resplits=resplits)
        price = np.linspace(0.5, 2.0, len(seen.clients))
        nothing = np.zeros_like(problem.base)
        plain = priced(seen, tables, second_price=0.3, joule_price=price, base=nothing, resplits=resplits)
        found = solve_split_and_controls(plain, limits)
        delay_s, joule = believed(seen, found.cut, controls_of(seen, limits, found.setting), resplits=resplits)
        assert found.values[-1] == pytest.approx(0.3 * delay_s + price @ joule, rel=1e-6)


def test_the_solver_believes_what_each_clients_own_quantiser_does():
    """As above, of three of four clients; the second and the fourth quantise what goes up, the others nothing."""
    for case in range(8):
        seen, problem, resplits = drawn(case, clients=4, cuts=3)
        world = dataclasses.replace(seen.world, quantised={MessageKind.SMASHED: np.array([False, True, False, True])})
        seen = drawn_worlds.observation(world, clients=np.array([0, 1, 3]))
        seen = dataclasses.replace(seen, bits=np.full(3, 2.0))
        limits, tables = limits_of(seen), round_tables(seen, resplits=resplits)
        nothing, price = np.zeros_like(problem.base), np.full(3, 0.7)
        plain = priced(seen, tables, second_price=0.3, joule_price=price, base=nothing, resplits=resplits)
        found = solve_split_and_controls(plain, limits)
        delay_s, joule = believed(seen, found.cut, controls_of(seen, limits, found.setting), resplits=resplits)
        assert found.values[-1] == pytest.approx(0.3 * delay_s + price @ joule, rel=1e-6)


def hard(case):
    """A world with a fault: a channel near zero, one client, one cut, memory for the first cut alone, huge, tiny."""
    draw = generator(case, "hard cases")
    clients, cuts = int(draw.integers(1, 5)), int(draw.integers(1, 5))
    world = drawn_worlds.drawn_world(
        draw,
        clients,
        cuts,
        shared=bool(draw.integers(2)),
        memory=bool(draw.integers(2)),
        spread=draw.choice([0.3, 1, 2]),
    )
    fault = draw.integers(4)
    if fault == 0:
        gain = world.channel.uplink_gain.copy()
        gain[0] *= 1e-6
        world = dataclasses.replace(world, channel=dataclasses.replace(world.channel, uplink_gain=gain))
    if fault == 1:
        speed = world.fleet.flop_per_cycle * 10 ** draw.uniform(-4, 4, clients)
        world = dataclasses.replace(world, fleet=dataclasses.replace(world.fleet, flop_per_cycle=speed))
    if fault == 2:
        world = dataclasses.replace(world, server=dataclasses.replace(world.server, inter_server_bit_per_s=1e6))
    return draw, world


def decide_hard(case):
    draw, world = hard(case)
    registered = len(world.fleet.clock_hz)
    clients = np.sort(draw.permutation(registered)[: int(draw.integers(1, registered + 1))])
    queues = {str(client): 10 ** draw.uniform(-4, 4) for client in clients.tolist()}
    seen = drawn_worlds.observation(
        world, clients=clients, memory={"delay_queue": 10 ** draw.uniform(-4, 4), "energy_queue": queues}
    )
    for policy in (POLICY, LatencyOnly(), Myopic(delay_budget_s=30.0, energy_budget_joule=10.0)):
        decision = policy.decide(seen)
        check(policy, seen, decision)
        cut = world.profile.index(decision.allocation.cut)[clients]
        controls = controls_of_decision(seen, decision.allocation)
        delay_s, joule = believed(seen, cut, controls, resplits=True)
        assert decision.figures["delay_s"] == pytest.approx(delay_s)
        assert decision.figures["energy_joule"] == pytest.approx(joule.sum())


def test_every_decision_is_within_the_limits():
    for case in range(25):
        decide_hard(case)


@pytest.mark.exhaustive
def test_a_thousand_decisions_are_within_the_limits():
    for case in range(1000):
        decide_hard(case)


def test_queues_remember_by_how_much_budgets_were_overdrawn():
    """Z: 1 + 45/30 - 1 = 1.5, then 1.5 + 0 - 1 = 0.5, then 0. Q of client 0: 1 + 20/10 - 1 = 2; of client 1: 0."""
    world = drawn_worlds.drawn_world(generator(0, "queues"), 2, 3)
    passed = (
        Passed(round=0, delay_s=45.0, clients=np.array([0, 1]), joule=np.array([20.0, 0.0])),
        Passed(round=1, delay_s=0.0, clients=np.array([1]), joule=np.array([5.0])),
    )
    first = POLICY.decide(drawn_worlds.observation(world, passed=passed))
    assert first.memory["delay_queue"] == pytest.approx(0.5)
    assert first.memory["energy_queue"] == pytest.approx({"0": 2.0, "1": 0.0})
    later = (Passed(round=2, delay_s=3.0, clients=np.array([0]), joule=np.array([5.0])),)
    then = POLICY.decide(drawn_worlds.observation(world, passed=later, memory=first.memory))
    assert then.memory["delay_queue"] == 0
    assert then.memory["energy_queue"] == pytest.approx({"0": 1.5, "1": 0.0})


def test_the_same_is_seen_the_same_is_decided():
    world = drawn_worlds.drawn_world(generator(1, "asfl"), 3, 4, shared=True)
    assert POLICY.decide(drawn_worlds.observation(world)) == POLICY.decide(drawn_worlds.observation(world))


def test_a_long_delay_queue_makes_rounds_shorter_and_a_long_energy_queue_makes_them_cheaper():
    world = drawn_worlds.drawn_world(generator(2, "asfl"), 3, 4, spread=0.3)
    late, drawn_up = (
        {"delay_queue": z, "energy_queue": {str(n): q for n in range(3)}} for z, q in ((1e3, 0), (0.1, 1e3))
    )
    fast, cheap = (POLICY.decide(drawn_worlds.observation(world, memory=memory)) for memory in (late, drawn_up))
    assert fast.figures["delay_s"] < cheap.figures["delay_s"]
    assert fast.figures["energy_joule"] > cheap.figures["energy_joule"]


def test_with_a_large_trade_off_the_drift_alone_decides():
    world = drawn_worlds.drawn_world(generator(3, "asfl"), 3, 4, steps=15)
    deep = dataclasses.replace(POLICY, trade_off=1e9).decide(drawn_worlds.observation(world, cut=3)).allocation
    assert deep.cut == ["layer0"] * 3


def test_layers_that_move_cost_something_if_they_are_reckoned():
    """Everybody at the deepest cut, with a little to gain from a shallower one: not worth an upload of layers."""
    moved = []
    for case in range(8):
        world = drawn_worlds.drawn_world(generator(case, "asfl moves"), 3, 4, steps=1)
        seen = drawn_worlds.observation(world, cut=3)
        for resplit in (True, False):
            policy = ASFL(delay_budget_s=30.0, resplit=resplit)
            moved.append((resplit, policy.decide(seen).allocation.cut != ["layer3"] * 3))
    assert sum(found for resplit, found in moved if resplit) < sum(found for resplit, found in moved if not resplit)


def test_where_rates_are_given_and_clocks_are_fixed_only_cuts_are_decided():
    world = drawn_worlds.drawn_world(generator(4, "asfl"), 3, 4)
    fleet = dataclasses.replace(world.fleet, lowest_clock_hz=world.fleet.clock_hz)
    rates = RateChannel(mean_uplink_bit_per_s=np.full(3, 1e6), mean_downlink_bit_per_s=np.full(3, 1e7))
    seen = drawn_worlds.observation(dataclasses.replace(world, fleet=fleet, channel=rates))
    for policy in (POLICY, LatencyOnly(), Myopic(delay_budget_s=1.0, energy_budget_joule=1.0)):
        decision = policy.decide(seen)
        check(policy, seen, decision)
        assert decision.allocation.transmit_power_watt is None
        assert decision.allocation.bandwidth_hz is None
        assert decision.allocation.clock_hz is None
        assert decision.allocation.cut is not None


def test_energy_that_is_not_modelled_has_no_budget():
    world = drawn_worlds.drawn_world(generator(5, "asfl"), 3, 4)
    fleet = dataclasses.replace(world.fleet, watt_per_cubic_hz=np.array([1e-27, np.nan, 1e-27]))
    seen = drawn_worlds.observation(dataclasses.replace(world, fleet=fleet))
    with pytest.raises(ValueError, match="energy of client 1 is not modelled"):
        POLICY.decide(seen)
    with pytest.raises(ValueError, match="energy of client 1 is not modelled"):
        Myopic(delay_budget_s=1.0, energy_budget_joule=1.0).decide(seen)
    check(POLICY, seen, ASFL(delay_budget_s=30.0).decide(seen))


def test_a_client_without_memory_is_named():
    world = drawn_worlds.drawn_world(generator(6, "asfl"), 3, 4)
    fleet = dataclasses.replace(world.fleet, memory_byte=np.array([1e12, 1e12, 10.0]))
    for policy in (POLICY, LatencyOnly()):
        with pytest.raises(InfeasibleError, match="memory_byte=10 of client 2"):
            policy.decide(drawn_worlds.observation(dataclasses.replace(world, fleet=fleet)))


def test_what_is_not_accepted():
    with pytest.raises(ValueError, match="delay_budget_s=0"):
        ASFL(delay_budget_s=0)
    with pytest.raises(ValueError, match="energy_budget_joule"):
        ASFL(energy_budget_joule=[1.0, -1.0])
    with pytest.raises(ValueError, match="trade_off=-1"):
        ASFL(trade_off=-1)
    with pytest.raises(ValueError, match="delay_budget_s=0"):
        Myopic(delay_budget_s=0, energy_budget_joule=1.0)
    with pytest.raises(ValueError, match="energy_budget_joule=0"):
        Myopic(delay_budget_s=1, energy_budget_joule=0)
    world = drawn_worlds.drawn_world(generator(7, "asfl"), 3, 4)
    with pytest.raises(ValueError, match="2 entries for 3 registered"):
        ASFL(energy_budget_joule=[1.0, 2.0]).decide(drawn_worlds.observation(world))
    with pytest.raises(ValueError, match="algorithm='splitfed_v2'"):
        POLICY.decide(drawn_worlds.observation(dataclasses.replace(world, algorithm="splitfed_v2")))


def test_latency_only_is_the_shortest_round_at_full_power():
    """Against every choice of cuts, costed by the world, with a server that serves all at once, too."""
    for case, works in enumerate(("serial", "parallel")):
        world = drawn_worlds.drawn_world(generator(case, "latency"), 3, 3, shared=True)
        server = Server(clock_hz=1e9, flop_per_cycle=10.0, works=works)
        seen = drawn_worlds.observation(dataclasses.replace(world, server=server), cut=1)
        decided = LatencyOnly().decide(seen)
        every = [
            believed(seen, np.array(cut), Controls(), resplits=True)[0] for cut in itertools.product(range(3), repeat=3)
        ]
        assert decided.figures["delay_s"] == pytest.approx(min(every), rel=1e-6)
        assert decided.allocation.transmit_power_watt == pytest.approx(world.fleet.transmit_power_watt)


def test_myopic_keeps_budgets_in_every_round_where_that_can_be():
    world = drawn_worlds.drawn_world(generator(8, "myopic"), 3, 4, spread=0.3, steps=4)
    seen = drawn_worlds.observation(world)
    cut = world.profile.index(LatencyOnly().decide(seen).allocation.cut)
    fastest_s, joule = believed(seen, cut, Controls(), resplits=True)
    decided = Myopic(delay_budget_s=20 * fastest_s, energy_budget_joule=(0.9 * joule).tolist()).decide(seen)
    assert decided.figures["overdrawn"] == 0
    assert decided.figures["delay_s"] <= 20 * fastest_s
    never = Myopic(delay_budget_s=1.0, energy_budget_joule=1e-9).decide(seen)
    assert never.figures["overdrawn"] == 1
