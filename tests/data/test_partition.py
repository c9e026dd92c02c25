import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.data.partition import IID, Dirichlet, Explicit, Shards, parse_partition


def some_labels(num_samples, classes, seed=0):
    return np.random.default_rng(seed).integers(0, classes, num_samples)


def no_labels():
    raise AssertionError("the labels are read although nothing depends on them")


def assert_every_sample_once(parts, num_samples):
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_samples))


def lists(parts):
    return [part.tolist() for part in parts]


# Every sample exactly once


@given(data=st.data(), num_clients=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_iid_deals_every_sample_once_in_parts_that_differ_by_one_at_most(data, num_clients, seed):
    num_samples = data.draw(st.integers(num_clients, 200))
    parts = parse_partition("iid").split(num_samples, num_clients, no_labels, seed)
    assert len(parts) == num_clients
    assert_every_sample_once(parts, num_samples)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(
    num_clients=st.integers(1, 8),
    per_client=st.integers(20, 50),
    alpha=st.floats(0.5, 1e6),
    classes=st.integers(1, 10),
    seed=st.integers(0, 2**32),
)
def test_dirichlet_deals_every_sample_once_and_every_client_some(num_clients, per_client, alpha, classes, seed):
    num_samples = num_clients * per_client
    labels = some_labels(num_samples, classes, seed)
    parts = parse_partition(f"dirichlet:{alpha}").split(num_samples, num_clients, lambda: labels, seed)
    assert len(parts) == num_clients
    assert min(len(part) for part in parts) > 0
    assert_every_sample_once(parts, num_samples)


@given(
    data=st.data(),
    num_clients=st.integers(1, 8),
    per_client=st.integers(1, 5),
    classes=st.integers(1, 10),
    seed=st.integers(0, 2**32),
)
def test_shards_deal_every_sample_once(data, num_clients, per_client, classes, seed):
    num_samples = data.draw(st.integers(num_clients * per_client, 200))
    labels = some_labels(num_samples, classes, seed)
    parts = parse_partition(f"shards:{per_client}").split(num_samples, num_clients, lambda: labels, seed)
    assert len(parts) == num_clients
    assert_every_sample_once(parts, num_samples)


@given(data=st.data(), num_samples=st.integers(1, 30))
def test_explicit_lists_come_as_they_were_given(data, num_samples):
    order = data.draw(st.permutations(range(num_samples)))
    ends = data.draw(st.sets(st.integers(1, num_samples - 1), max_size=4)) if num_samples > 1 else set()
    given_lists = [part.tolist() for part in np.split(np.array(order), sorted(ends))]
    parts = parse_partition(given_lists).split(num_samples, len(given_lists), no_labels, 0)
    assert lists(parts) == given_lists
    assert_every_sample_once(parts, num_samples)


# Seeds


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.5", "shards:2"])
def test_a_partition_is_a_function_of_the_seed(text):
    labels = some_labels(500, 10)
    first, again, other = (lists(parse_partition(text).split(500, 5, lambda: labels, seed)) for seed in (1, 1, 2))
    assert again == first
    assert other != first


# How skewed


def largest_shares(parts, labels):
    """For each client, the share of its most frequent label."""
    return [np.bincount(labels[part]).max() / len(part) for part in parts]


def test_a_small_alpha_is_more_skewed_than_a_large_one():
    """Ten equal classes: shares near 1/10 for a large alpha, near 1 for a small one."""
    labels = np.repeat(np.arange(10), 100)
    small, large = (
        np.mean(largest_shares(Dirichlet(alpha=alpha).split(1000, 10, lambda: labels, 0), labels))
        for alpha in (0.05, 1000.0)
    )
    assert large < 0.2
    assert small > 0.5


def test_dirichlet_goes_by_label_and_leaves_no_label_in_the_order_of_the_data_set():
    """With one label and a huge alpha the parts are equal in size, and drawn, not cut in sequence."""
    parts = Dirichlet(alpha=1e6).split(100, 2, lambda: np.zeros(100, dtype=np.int64), 0)
    assert [len(part) for part in parts] == [50, 50]
    assert set(parts[0].tolist()) not in (set(range(50)), set(range(50, 100)))


@pytest.mark.parametrize("per_client", [1, 2, 5])
def test_shards_give_each_client_as_many_labels_as_shards_where_they_divide(per_client):
    """10 classes of 60 samples and 10 clients: each of the 10 · K shards has 60/K samples, all of one label."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))
    parts = Shards(shards_per_client=per_client).split(600, 10, lambda: labels, 0)
    found = [len(np.unique(labels[part])) for part in parts]
    assert max(found) <= per_client
    assert {len(part) for part in parts} == {60}


def test_shards_draw_within_a_label():
    """One label, two clients with one shard each: the halves are drawn, not cut in sequence."""
    parts = Shards(shards_per_client=1).split(100, 2, lambda: np.zeros(100, dtype=np.int64), 0)
    assert set(parts[0].tolist()) not in (set(range(50)), set(range(50, 100)))


# Errors


def test_dirichlet_gives_up_after_its_bound():
    labels = some_labels(20, 2)
    message = (
        r"partition='dirichlet:0\.01': none of 1000 draws gave each of num_clients=20 a sample of the 20\."
        r" Give a larger alpha or fewer clients"
    )
    with pytest.raises(ValueError, match=message):
        parse_partition("dirichlet:0.01").split(20, 20, lambda: labels, 0)


def test_more_shards_than_samples_are_refused():
    message = r"partition='shards:3': 4 clients need 12 shards, but there are 10 samples\..*at most 2\."
    with pytest.raises(ValueError, match=message):
        parse_partition("shards:3").split(10, 4, no_labels, 0)


@pytest.mark.parametrize(
    ("given_lists", "message"),
    [
        ([[0, 1, 2, 3]], r"partition: 1 index lists were given for num_clients=2, need one each"),
        ([[0, 1, 2, 3], []], r"partition: the index lists of clients \[1\] are empty; every client needs a sample"),
        ([[0, 1], [2, 4]], r"partition: index 4 is not in the data set, whose indices are 0 to 3"),
        ([[0, 1], [2, -1]], r"partition: index -1 is not in the data set, whose indices are 0 to 3"),
        ([[0, 1, 2], [2, 3]], r"partition: 1 samples are listed more than once, the first of them 2; every sample"),
        ([[0, 1, 1], [2, 3]], r"partition: 1 samples are listed more than once, the first of them 1"),
        ([[0], [3]], r"partition: 2 of 4 samples are in no list, the first of them 1; to train on fewer.*Subset"),
    ],
)
def test_explicit_lists_that_do_not_deal_out_every_sample_once_are_refused(given_lists, message):
    with pytest.raises(ValueError, match=message):
        parse_partition(given_lists).split(4, 2, no_labels, 0)


ACCEPTED = (
    r"Accepted are 'iid', 'dirichlet:ALPHA', 'shards:K', one list of indices per client, a DataLoader per client"
    r" \(\{client: loader\}\), or an object with a split method"
)


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ("quantity", rf"partition='quantity' is not known\. {ACCEPTED}"),
        ("", rf"partition='' is not known\. {ACCEPTED}"),
        ("IID", rf"partition='IID' is not known\. {ACCEPTED}"),
        ("iid:3", r"partition='iid:3' is not accepted: 'iid' takes no number"),
        ("dirichlet", r"partition='dirichlet:' is not accepted: alpha must be a number above 0"),
        ("dirichlet:much", r"partition='dirichlet:much' is not accepted: alpha must be a number above 0"),
        ("dirichlet:0", r"partition='dirichlet:0\.0': alpha must be a number above 0 and at most 1e6"),
        ("dirichlet:-1", r"partition='dirichlet:-1\.0': alpha must be a number above 0 and at most 1e6"),
        ("dirichlet:nan", r"partition='dirichlet:nan': alpha must be a number above 0 and at most 1e6"),
        ("dirichlet:inf", r"partition='dirichlet:inf': alpha must be a number above 0 and at most 1e6"),
        ("shards", r"partition='shards:' is not accepted: the number of shards per client must be an integer"),
        ("shards:1.5", r"partition='shards:1\.5' is not accepted: the number of shards per client must be an integer"),
        ("shards:0", r"partition='shards:0': give an integer of at least 1"),
        (7, rf"partition=7 is not accepted\. {ACCEPTED}"),
        (None, rf"partition=None is not accepted\. {ACCEPTED}"),
        ([0, 1], rf"partition=\[0, 1\] is not accepted\. {ACCEPTED}"),
        ([[0, "a"]], rf"partition=\[\[0, 'a'\]\] is not accepted\. {ACCEPTED}"),
        ([[0, 1.5]], rf"partition=\[\[0, 1\.5\]\] is not accepted\. {ACCEPTED}"),
        (["01", "23"], rf"partition=\['01', '23'\] is not accepted\. {ACCEPTED}"),
    ],
)
def test_a_partition_that_is_none_of_the_known_ones_is_refused(partition, message):
    with pytest.raises(ValueError, match=message):
        parse_partition(partition)


def test_what_the_user_writes_becomes_the_partition():
    assert parse_partition("iid") == IID()
    assert parse_partition("dirichlet:0.3") == Dirichlet(alpha=0.3)
    assert parse_partition("dirichlet:1e-2") == Dirichlet(alpha=0.01)
    assert parse_partition("shards:2") == Shards(shards_per_client=2)
    assert parse_partition(((1, 0), (2,))) == Explicit(lists=((1, 0), (2,)))


@pytest.mark.parametrize("convert", [np.array, torch.tensor, lambda rows: [torch.tensor(row) for row in rows]])
def test_arrays_and_tensors_of_indices_count_as_lists(convert):
    partition = parse_partition(convert([[2, 0], [1, 3]]))
    assert lists(partition.split(4, 2, no_labels, 0)) == [[2, 0], [1, 3]]


def test_a_users_own_partition_object_is_taken_as_it_is():
    class Alternating:
        def split(self, num_samples, num_clients, labels, seed):
            return [np.arange(client, num_samples, num_clients) for client in range(num_clients)]

    own = Alternating()
    assert parse_partition(own) is own
