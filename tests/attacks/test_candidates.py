"""Pools of candidates, and how a ranking of them is scored."""

import pytest
import torch
from attack_cases import HandMadeLog, PoisonedLog, noise_images

from attacks.attack import RankedCandidates
from attacks.attacker import Records, UnavailableError
from attacks.audit.pool import CandidatePool
from attacks.audit.score_candidates import score_candidates
from attacks.audit.truth import Truth
from lightning_sfl.link.message import MessageKind

IMAGES = noise_images(60)
OTHERS = Records(images_BCHW=noise_images(40, seed=1))


def records(indices):
    return Records(images_BCHW=IMAGES[list(indices)], labels_B=torch.arange(60)[list(indices)])


def log_of(*batches):
    """One message of scalars for each of these clients, in round 3."""
    log = HandMadeLog()
    for client, batch in enumerate(batches):
        log.add(MessageKind.SCALARS, {"scalars": torch.zeros(2)}, client=client, round=3, step=3, indices=batch)
        log.note_step(3, {client: batch})
    return log


def pool_of(log, **settings):
    return CandidatePool(log, records, OTHERS, **settings)


def test_a_pool_holds_what_was_used_among_others_once_each():
    """Records 4 and 7 were used by two clients."""
    pool = pool_of(log_of((4, 9, 7), (7, 4, 30))).records(3)

    found = {tuple(image.flatten().tolist()) for image in pool.images_BCHW}
    expected = torch.cat([IMAGES[[4, 7, 9, 30]], OTHERS.images_BCHW])
    assert len(pool.images_BCHW) == 44
    assert found == {tuple(image.flatten().tolist()) for image in expected}
    assert pool.labels_B is None


def test_places_are_where_the_records_stand():
    pool = pool_of(log_of((4, 9, 7), (30, 2)))

    places = pool.places(3, (7, 30, 4))

    assert torch.equal(pool.records(3).images_BCHW[places], IMAGES[[7, 30, 4]])


def test_the_order_gives_nothing_away():
    """Over 200 seeds each of 2 used records is as often in the first half of 42 places: 400·½ ± 3·√100."""
    log = log_of((4, 9))
    first = sum(place < 21 for seed in range(200) for place in pool_of(log, seed=seed).places(3, (4, 9)))

    assert 170 < first < 230
    assert pool_of(log).places(3, (4, 9)) == pool_of(log).places(3, (4, 9))


def test_nothing_is_read_of_what_was_used_before_a_pool_is_asked_for():
    CandidatePool(PoisonedLog(), records, OTHERS)


def test_without_others_or_without_what_was_used_there_is_no_pool():
    with pytest.raises(UnavailableError, match="auxiliary records to hide the true ones among"):
        CandidatePool(log_of((4, 9)), records, None).records(3)
    with pytest.raises(UnavailableError, match="no record is known that was used in round 5"):
        pool_of(log_of((4, 9))).records(5)


def scored(log, scores):
    """Score rankings that are given as functions of (client, the places of its records, the pool's size)."""
    pool = pool_of(log)
    truth = Truth(log, records)
    size = len(pool.records(3).images_BCHW)
    batches = [
        RankedCandidates(number=n, round=3, scores_N=scores(n, pool.places(3, truth.indices(n)), size))
        for n in truth._messages
    ]
    return score_candidates(batches, truth, pool)


def test_a_ranking_that_puts_members_first_identifies_them():
    def perfect(client, places, size):
        return torch.zeros(size).index_fill(0, torch.tensor(places), 1.0)

    score = scored(log_of((1, 2), (3, 4), (5, 6)), perfect)

    assert score.recovers == "membership"
    assert score.value.mean == score.worst_record == score.share_recovered == 1
    assert score.baseline == "chance"
    assert score.gain.interval.mean == 0.5
    assert score.gain.p_value == pytest.approx(1 / 2001)
    assert score.others["among as many best candidates as were used"].mean == 1
    assert score.others["the same by chance"].mean == pytest.approx(2 / 46)


def test_a_record_scores_the_share_of_the_others_below_it():
    """The pool of 42: 2 used, of ranks 40 and 12 from below. Of the 40 others, 38 are below the first (39 less the
    other that was used) and 11 below the second."""

    def ranking(client, places, size):
        ranks = torch.arange(size, dtype=torch.float64)
        ranks = ranks[~torch.isin(ranks, torch.tensor([39.0, 11.0]))]
        scores = torch.empty(size, dtype=torch.float64)
        scores[places] = torch.tensor([39.0, 11.0], dtype=torch.float64)
        scores[[place for place in range(size) if place not in places]] = ranks
        return scores

    score = scored(log_of((1, 2)), ranking)

    assert score.value.mean == pytest.approx((38 / 40 + 11 / 40) / 2)
    assert score.worst_record == pytest.approx(38 / 40)
    assert score.share_recovered == 0
    assert [found.name for found in score.baselines] == ["chance"]  # there is no other client


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_scores_that_tie_are_chance(value):
    score = scored(log_of((1, 2), (3, 4)), lambda client, places, size: torch.full((size,), value))

    assert score.value.mean == 0.5
    assert score.gain.p_value == 1
    assert score.others["among as many best candidates as were used"].mean == 0


def test_a_ranking_that_does_not_follow_the_message_has_no_gain():
    """The same scores for every client, which put all used records first: other clients' messages do as well."""
    log = log_of((1, 2), (3, 4), (5, 6))
    used = pool_of(log).places(3, (1, 2, 3, 4, 5, 6))

    score = scored(log, lambda client, places, size: torch.zeros(size).index_fill(0, torch.tensor(used), 1.0))

    assert score.baseline == "the same attack on another client's messages"
    assert score.gain.interval.mean < 0.06


def test_p_values_of_noise_are_spread_evenly():
    """Of 60 rankings at random, at most 10 % are below 0.05 with probability 0.95."""
    draw = torch.Generator().manual_seed(0)
    found = [
        scored(log_of((1, 2)), lambda client, places, size: torch.rand(size, generator=draw)).gain.p_value
        for _ in range(60)
    ]

    assert sum(p < 0.05 for p in found) <= 6
    assert 0.4 < sum(found) / 60 < 0.6
