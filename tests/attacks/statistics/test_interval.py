import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.statistics.interval import RESAMPLES, bootstrap_mean, paired_gain

VALUES = torch.tensor(np.random.default_rng(0).normal(20, 3, size=40))
OWN_CLIENTS = torch.arange(40)
ONE_CLIENT = torch.zeros(40, dtype=torch.int64)


def ends(found):
    return found.low, found.high


def test_gives_the_mean_and_how_many_records_and_clients():
    found = bootstrap_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([7, 3, 7]))

    assert (found.mean, found.records, found.clients) == (3, 3, 2)


@pytest.mark.parametrize("clients_N", [OWN_CLIENTS, OWN_CLIENTS // 4, ONE_CLIENT])
def test_contains_the_mean_and_lies_within_the_values(clients_N):
    found = bootstrap_mean(VALUES, clients_N)

    assert float(VALUES.min()) < found.low < found.mean < found.high < float(VALUES.max())


@pytest.mark.parametrize("clients_N", [torch.arange(8), torch.arange(8) // 3, torch.zeros(8)])
def test_equal_values_leave_no_room(clients_N):
    found = bootstrap_mean(torch.full((8,), 7.0), clients_N)

    assert (found.low, found.mean, found.high) == (7, 7, 7)


# Whole clients


@given(
    means=st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=8),
    records=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
)
def test_equal_records_of_a_client_count_as_its_mean(means, records, order):
    """K clients with r equal records each: a resampled mean Σ r·m / Σ r is the mean of K drawn m's, whatever r is."""
    rows = [(value, client) for client, value in enumerate(means) for _ in range(records)]
    order.shuffle(rows)
    values_N, clients_N = torch.tensor([value for value, _ in rows]), torch.tensor([client for _, client in rows])

    found = bootstrap_mean(values_N, clients_N)

    expected = bootstrap_mean(torch.tensor(means), torch.arange(len(means)))
    assert ends(found) == pytest.approx(ends(expected), abs=1e-12)
    assert found.mean == pytest.approx(expected.mean)


def test_the_width_is_that_of_the_clients_means():
    """20 clients with 10 equal records each: standard error s/√19; taken record by record, s/√200, a third of it.

    Student's t of 19 degrees of freedom is 2.093 where the normal has 1.96.
    """
    means_K = torch.tensor(np.random.default_rng(1).normal(0, 1, size=20))
    values_N, clients_N = means_K.repeat_interleave(10), torch.arange(20).repeat_interleave(10)

    found = bootstrap_mean(values_N, clients_N)
    by_record = bootstrap_mean(values_N, torch.arange(200))

    error = float(means_K.std(correction=0)) / 20**0.5
    assert found.high - found.low == pytest.approx(2 * 2.093 * error * (20 / 19) ** 0.5, rel=0.1)
    assert by_record.high - by_record.low == pytest.approx(2 * 1.96 * error / 10**0.5, rel=0.1)


def test_records_of_a_single_client_are_resampled():
    """With one client there is nothing else to draw; so many records are drawn as if each were a client's own."""
    assert ends(bootstrap_mean(VALUES, ONE_CLIENT)) == pytest.approx(ends(bootstrap_mean(VALUES, OWN_CLIENTS)))
    assert bootstrap_mean(VALUES, ONE_CLIENT).clients == 1


def test_the_width_is_that_of_the_normal_approximation():
    """For many values the interval comes close to mean ± 2.023 standard errors, Student's t for 40 of them."""
    found = bootstrap_mean(VALUES, OWN_CLIENTS)

    error = float(VALUES.std()) / len(VALUES) ** 0.5
    assert found.low == pytest.approx(found.mean - 2.023 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + 2.023 * error, abs=0.15 * error)


def test_the_client_numbers_are_names_only():
    renamed = torch.tensor([905, 17, 40])[OWN_CLIENTS % 3]

    found, expected = bootstrap_mean(VALUES, renamed), bootstrap_mean(VALUES, torch.tensor([2, 0, 1])[OWN_CLIENTS % 3])

    assert found == expected


def test_a_client_with_many_records_weighs_as_many():
    """Client A: one record of −2, B: three of 1. Drawn AA: −2; AB or BA: (−2 + 3)/4 = 1/4; BB: 1.

    So a quarter of the resampled means is not above 0. Were clients' means averaged, AB would be −1/2: three quarters.
    Two clients stretch distances from the mean 12.706/1.96·√2-fold: from −2.25 and 0.75.
    """
    values_N, clients_N = torch.tensor([1.0, -2.0, 1.0, 1.0]), torch.tensor([1, 0, 1, 1])

    gain = paired_gain(values_N, torch.zeros(4), clients_N)

    assert gain.p_value == pytest.approx(0.25, abs=0.03)
    stretch = 12.7062 / 1.959964 * 2**0.5
    assert (gain.interval.low, gain.interval.high) == pytest.approx(
        (0.25 - 2.25 * stretch, 0.25 + 0.75 * stretch), rel=1e-4
    )


# Too few


@pytest.mark.parametrize("value", [-1.0, 3.0])
def test_one_record_has_no_interval_and_proves_nothing(value):
    one, client = torch.tensor([value]), torch.tensor([4])

    found, gain = bootstrap_mean(one, client), paired_gain(one, torch.zeros(1), client)

    assert (found.mean, found.low, found.high, found.records, found.clients) == (value, None, None, 1, 1)
    assert (gain.p_value, gain.interval) == (1.0, found)


# Gains


def test_a_gain_is_paired_record_by_record():
    """Values spread by 3 dB, gains exactly 1 dB: the interval of the gains has no width."""
    gain = paired_gain(VALUES, VALUES - 1, OWN_CLIENTS)

    assert ends(gain.interval) == pytest.approx((1, 1))
    assert gain.interval.mean == pytest.approx(1)


@pytest.mark.parametrize(("offset", "p_value"), [(1.0, 1 / (1 + RESAMPLES)), (0.0, 1.0), (-1.0, 1.0)])
def test_p_is_one_sided_and_never_zero(offset, p_value):
    """(1 + number of resampled means not above 0) / (1 + 4000): none, all, all. No gain at all is no gain."""
    assert paired_gain(VALUES + offset, VALUES, OWN_CLIENTS).p_value == pytest.approx(p_value)


def test_p_and_interval_say_the_same():
    """p counts the means at or below 0, so p < 2.5 % where the interval's lower end is above 0, and the other way."""
    for shift in np.linspace(-22, -18, 41):
        gain = paired_gain(VALUES, torch.full_like(VALUES, -float(shift)), OWN_CLIENTS)
        assert (gain.p_value < 0.025) == (gain.interval.low > 0)


def test_p_is_level_without_a_gain():
    """300 samples of 40 differences around 0: p below 5 % in about 5 %; the percentile bootstrap has a little more."""
    draw = np.random.default_rng(2)
    zeros = torch.zeros(40)

    found = [paired_gain(torch.tensor(draw.normal(0, 1, 40)), zeros, OWN_CLIENTS).p_value for _ in range(300)]

    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
    assert 0.4 <= np.mean(found) <= 0.6


# Drawing


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    assert bootstrap_mean(VALUES, OWN_CLIENTS, seed=3) == bootstrap_mean(VALUES, OWN_CLIENTS, seed=3)
    assert bootstrap_mean(VALUES, OWN_CLIENTS, seed=3) != bootstrap_mean(VALUES, OWN_CLIENTS, seed=4)
    assert paired_gain(VALUES, VALUES.flip(0), OWN_CLIENTS, seed=3) != paired_gain(
        VALUES, VALUES.flip(0), OWN_CLIENTS, seed=4
    )


def test_drawing_leaves_the_global_random_state_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()

    bootstrap_mean(VALUES, OWN_CLIENTS)

    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_half_precision_is_averaged_in_double():
    """65504 is the largest half: a sum of four is infinite there."""
    found = bootstrap_mean(torch.full((4,), 65504.0, dtype=torch.float16), torch.arange(4))

    assert (found.low, found.mean, found.high) == (65504, 65504, 65504)


def test_covers_the_true_mean_about_as_often_as_it_says():
    """Records alike within a client (between clients 1, within 0.3), 30 clients of 1 to 9 records, 120 samples.

    95 % nominal; with so many clients the percentile interval falls a little short. Record by record, the same samples
    are covered in far fewer cases.
    """
    draw = np.random.default_rng(1)
    hits, record_by_record = 0, 0
    for seed in range(120):
        clients = np.repeat(np.arange(30), draw.integers(1, 10, size=30))
        values = torch.tensor(5 + draw.normal(0, 1, size=30)[clients] + draw.normal(0, 0.3, size=len(clients)))
        found = bootstrap_mean(values, torch.tensor(clients), seed=seed)
        hits += found.low <= 5 <= found.high
        alone = bootstrap_mean(values, torch.arange(len(clients)), seed=seed)
        record_by_record += alone.low <= 5 <= alone.high

    assert 0.88 <= hits / 120 <= 0.99
    assert record_by_record / 120 < 0.75


@pytest.mark.parametrize("clients", [2, 3, 5, 8])
def test_few_clients_are_no_licence(clients):
    """4 records of each client, alike within it: of 200 samples without a gain about 5 % have p below 5 %, and about
    95 % of the intervals hold the true 0. Unstretched, it is 26 % and 50 % for 2 clients.
    """
    draw = np.random.default_rng(3)
    whose = torch.arange(clients).repeat_interleave(4)
    false, held = 0, 0
    for seed in range(200):
        values = torch.tensor(draw.normal(0, 1, clients)[whose.numpy()] + draw.normal(0, 0.5, 4 * clients))
        gain = paired_gain(values, torch.zeros(4 * clients), whose, seed=seed)
        false += gain.p_value < 0.05
        held += gain.interval.low <= 0 <= gain.interval.high
    assert held / 200 >= 0.89
    assert false / 200 <= 0.1
