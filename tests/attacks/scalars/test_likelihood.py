import pytest
import torch
from scalar_cases import linear, noise_images, probed_half
from torch.distributions import MultivariateNormal

from attacks.scalars.likelihood import likelihood_ratios
from attacks.statistics.permutation import auc


def test_of_single_records_the_nearest_scalars_win():
    """B = 1: nothing else is in the sum, so the ratio is −Σ(s − a)² / 2σ² but for a constant."""
    draw = torch.Generator().manual_seed(0)
    contributions = torch.randn(30, 1, 4, generator=draw, dtype=torch.float64)
    sent = torch.randn(4, generator=draw, dtype=torch.float64)

    ratios = likelihood_ratios(contributions, sent, 0.5)

    expected = -(sent - contributions[:, 0]).square().sum(1) / (2 * 0.5**2)
    torch.testing.assert_close(ratios - ratios[0], expected - expected[0])


def test_the_ratio_is_that_of_two_normal_densities():
    """Written out for B = 2: with the candidate in one place, the other has the pool's mean and covariance."""
    draw = torch.Generator().manual_seed(1)
    contributions = torch.randn(25, 2, 3, generator=draw, dtype=torch.float64)
    sent, noise = torch.randn(3, generator=draw, dtype=torch.float64), 0.2
    means = contributions.mean(0)
    covariances = [torch.cov(contributions[:, place].T, correction=0) for place in range(2)]
    floor = noise**2 * torch.eye(3, dtype=torch.float64)

    ratios = likelihood_ratios(contributions, sent, noise)

    nothing = MultivariateNormal(means.sum(0), sum(covariances) + floor).log_prob(sent)
    for candidate in range(25):
        with_it = torch.stack(
            [
                MultivariateNormal(
                    contributions[candidate, place] + means[1 - place], covariances[1 - place] + floor
                ).log_prob(sent)
                for place in range(2)
            ]
        )
        assert float(ratios[candidate]) == pytest.approx(float(with_it.exp().mean().log() - nothing), abs=1e-9)


@pytest.mark.parametrize(("records", "probes", "least"), [(1, 2, 1.0), (4, 5, 0.5), (4, 60, 0.99)])
def test_members_stand_out_as_scalars_grow(records, probes, least):
    """One record: 2 scalars name it among 60. Of 4 records, 5 scalars tell members on the whole, and 60 tell them
    all: in 16 dimensions of pixels, P ≥ 16·4 equations would leave nothing open."""
    pool = noise_images(60, 1, 4)
    probed, sent = probed_half(linear(16), pool[:records], probes)

    ratios = likelihood_ratios(probed.contributions(pool), sent, 1e-9)

    assert auc(ratios, torch.arange(60) < records) >= least


def test_scalars_of_other_records_say_nothing():
    pool = noise_images(60, 1, 4)
    found = []
    for seed in range(20):
        probed, sent = probed_half(linear(16), noise_images(2, 1, 4, seed=100 + seed), 5, seed=seed)
        found.append(auc(likelihood_ratios(probed.contributions(pool), sent, 1e-9), torch.arange(60) < 2))

    assert abs(sum(found) / len(found) - 0.5) < 0.13  # 20 AUCs with standard deviation 0.2: 3 standard errors


def test_a_cut_gradient_of_zero_says_nothing_of_anybody():
    """All scalars and all contributions are 0, and so is every variance: a tie, and no division by it."""
    ratios = likelihood_ratios(torch.zeros(5, 2, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0.0)

    assert torch.equal(ratios, ratios[:1].expand(5))
    assert bool(ratios.isfinite().all())
