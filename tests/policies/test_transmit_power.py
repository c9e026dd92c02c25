"""Powers in given bands, against golden sections, successive convex approximation and closed forms."""

import dataclasses

import numpy as np
import pytest
from references_sflam import least_costs, successive_convex
from sflam_cases import drawn_sending

from lightning_sfl.policies.solvers.power import at_most_power, least_power


def test_the_least_cost_is_found_on_drawn_cases():
    """Within 1e-3 of (full power - best) of nested golden sections over the deadlines, on 200 cases."""
    rng = np.random.default_rng(1)
    for case in range(200):
        clients = int(rng.integers(1, 5))
        sending = drawn_sending(rng, clients, stages=1 + case % 2, weight=1.0 if case % 9 == 0 else None)
        band = 1e6 * rng.dirichlet(np.ones(clients) * 3)
        best, worst = least_costs(sending, band[None], rounds=20)[0], at_most_power(sending, band).cost
        assert least_power(sending, band).cost <= best + 1e-3 * (worst - best) + 1e-9


def test_three_stages():
    """A third stage that is the second one again, at half the price each, costs the same."""
    rng = np.random.default_rng(2)
    sending = drawn_sending(rng, 4)
    half = sending.price_per_s * np.array([1.0, 0.5])
    doubled = dataclasses.replace(
        sending,
        price_per_s=np.append(half, half[1]),
        offset_s=sending.offset_s[[0, 1, 1]],
        bit=sending.bit[[0, 1, 1]],
        floor_s=np.zeros(3),
    )
    band = np.full(4, 250e3)
    assert least_power(doubled, band).cost == pytest.approx(least_power(sending, band).cost, rel=1e-5)


def test_successive_convex_approximation_ends_where_the_exact_search_does():
    """SCA falls from step to step and ends within 1e-3 of the exact search, after three steps and more."""
    rng = np.random.default_rng(3)
    steps = []
    for _ in range(20):
        sending = drawn_sending(rng, int(rng.integers(1, 4)), stages=1, weight=rng.uniform(0.1, 0.9))
        band = np.full(len(sending.most_watt), 3e5)
        costs = successive_convex(sending, band)
        exact = least_power(sending, band).cost
        assert (np.diff(costs) <= 1e-9).all()
        assert exact <= costs[-1] * (1 + 1e-6)
        assert costs[-1] <= exact * (1 + 1e-3)
        steps.append(len(costs) - 1)
    assert max(steps) >= 3


def test_clients_send_as_slowly_as_the_slowest_allows():
    """Client 1 hears 100 times as well. Only time counts: client 0 sends at full power, 1 just meets its end."""
    rng = np.random.default_rng(4)
    sending = dataclasses.replace(
        drawn_sending(rng, 2, stages=1, weight=1.0),
        gain_to_noise_hz_per_watt=np.array([1e5, 1e7]),
        most_watt=np.ones(2),
        bit=np.full((1, 2), 1e5),
        offset_s=np.zeros((1, 2)),
    )
    band = np.full(2, 1e5)
    sent = least_power(sending, band)
    first = 1e5 / (1e5 * np.log2(2.0))  # 1 bit per second and hertz at P|h|²/(B N0) = 1
    assert sent.deadline_s == pytest.approx([first])
    assert sending.watt(sent.airtime, band) == pytest.approx([1.0, 0.01])  # the other needs the same ratio


def test_powers_are_within_the_limit_and_deadlines_are_met():
    rng = np.random.default_rng(5)
    for _ in range(100):
        clients = int(rng.integers(1, 6))
        sending = drawn_sending(rng, clients, hard=2.0)
        band = 1e6 * rng.dirichlet(np.ones(clients))
        sent = least_power(sending, band)
        assert (sending.watt(sent.airtime, band) <= sending.most_watt * (1 + 1e-9)).all()
        assert (sending.stage_s(sent.airtime) <= sent.deadline_s * (1 + 1e-9)).all()
        assert sent.cost == pytest.approx(sending.cost(sent.airtime, band), rel=1e-12)


def test_nothing_is_returned_that_does_not_beat_what_is_known():
    sending = drawn_sending(np.random.default_rng(6), 3)
    band = np.full(3, 3e5)
    best = least_power(sending, band).cost
    assert least_power(sending, band, to_beat=best * 0.999) is None
    assert least_power(sending, band, to_beat=best * 1.001).cost <= best * 1.001


def test_slopes_are_those_of_the_energy():
    """Against central differences, from the lowest load, where the exponential has no digits left, to high ones."""
    sending = drawn_sending(np.random.default_rng(7), 3)

    def energy(airtime, band):
        return sending.joule(airtime, band) - sending.least_joule

    for load in (1e-6, 1e-3, 0.1, 3.0, 30.0):
        band = np.full(3, 1e5)
        airtime = np.full(3, np.log(2.0) / (1e5 * load))
        found = sending.energy(airtime, band)
        assert found.joule == pytest.approx(sending.joule(airtime, band).sum(), rel=1e-12)
        step = 1e-3
        number = (energy(airtime * (1 + step), band) - energy(airtime * (1 - step), band)) / (2 * step * airtime)
        assert found.by_airtime == pytest.approx(number, rel=1e-2 if load < 1e-5 else 2e-3)
        number = (energy(airtime, band * (1 + step)) - energy(airtime, band * (1 - step))) / (2 * step * band)
        assert found.by_band == pytest.approx(number, rel=1e-2 if load < 1e-5 else 2e-3)


def test_who_sends_nothing_costs_nothing():
    rng = np.random.default_rng(8)
    sending = drawn_sending(rng, 3)
    bit = sending.bit * np.array([1, 0, 1])
    silent = dataclasses.replace(sending, bit=bit, sent_bit=bit.sum(axis=0))
    others = [0, 2]
    alone = dataclasses.replace(
        silent,
        **{name: getattr(silent, name)[..., others] for name in ("offset_s", "bit", "sent_bit")},
        gain_to_noise_hz_per_watt=silent.gain_to_noise_hz_per_watt[others],
        most_watt=silent.most_watt[others],
        floor_s=silent.offset_s[:, 1],
    )
    band = np.full(3, 3e5)
    assert least_power(silent, band).cost == pytest.approx(least_power(alone, band[:2]).cost, rel=1e-5)
