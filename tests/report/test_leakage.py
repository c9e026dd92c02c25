from report_cases import cell, interval, labels_cell, leakage, weak_cell


def test_the_strongest_attack_is_the_one_on_images_that_gained_most():
    """Not the one with the largest value: what is guessed well needs no attack."""
    well_guessed = weak_cell(value=interval(40.0, 39.0, 41.0), gain=interval(1.0, 0.5, 1.5))
    best = cell()

    found = leakage(well_guessed, labels_cell(gain=interval(99.0, 98.0, 100.0)), best)

    assert found.strongest is best
    assert [one.attack for one in found.others] == ["decoder", "norms of cut gradients"]


def test_without_attacks_on_images_none_is_the_strongest():
    assert leakage(labels_cell()).strongest is None
    assert leakage(labels_cell(), cells=()).strongest is None
    assert [one.recovers for one in leakage(labels_cell()).others] == ["labels"]


def test_the_best_guess_is_the_one_that_is_named():
    assert cell().best_guess.value.mean == 9.75
    assert cell(baseline="mean of auxiliary images").best_guess.value.mean == 8.75


def test_recovered_records_are_counted():
    """A share that is not exact in binary: 7 of 49."""
    assert cell(value=interval(1.0, 0.0, 2.0, records=49), share_recovered=7 / 49).records_recovered == 7


def test_an_interval_has_both_bounds_or_none():
    assert interval(1.0, 0.5, 2.0).bounds == (0.5, 2.0)
    assert interval(1.0, None, None).bounds is None


def test_a_control_passes_from_what_is_needed_on():
    control = cell().control
    assert control is not None
    assert control.passed
    assert not weak_cell().control.passed
