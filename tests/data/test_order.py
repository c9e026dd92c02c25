import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.data.order import ClientOrder

PARTS = [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
EPOCH = [9, 8, 3, 0, 1, 6, 7, 2, 5, 4]


def make(parts=PARTS, batch_size=2, *, drop_last=False, shuffled=True, seed=0, epoch=EPOCH):
    order = ClientOrder(
        [np.array(part, dtype=np.int64) for part in parts],
        [batch_size] * len(parts),
        drop_last=drop_last,
        shuffled=shuffled,
        seed=seed,
    )
    if epoch is not None:
        begin(order, epoch)
    return order


def begin(order, epoch):
    order.begin_epoch(lambda: epoch)
    order.draw_epoch()


def take(order, client, count):
    return [order.next_batch(client).tolist() for _ in range(count)]


def joined(batches):
    return list(itertools.chain.from_iterable(batches))


def test_a_pass_goes_in_the_order_of_the_epoch():
    """EPOCH, restricted to the even and to the odd samples."""
    order = make()
    assert take(order, 0, 3) == [[8, 0], [6, 2], [4]]
    assert take(order, 1, 3) == [[9, 3], [1, 7], [5]]


def test_without_shuffling_a_pass_goes_in_the_order_of_the_clients_list():
    order = make([[4, 0, 2], [3, 1]], shuffled=False, epoch=range(5))
    assert take(order, 0, 4) == [[4, 0], [2], [4, 0], [2]]
    assert take(order, 1, 2) == [[3, 1], [3, 1]]


def test_passes_carry_over_to_the_next_epoch_and_the_next_pass_follows_it():
    order = make()
    assert take(order, 0, 2) == [[8, 0], [6, 2]]
    begin(order, list(range(10)))
    assert take(order, 0, 3) == [[4], [0, 2], [4, 6]]


def test_a_second_pass_within_an_epoch_is_drawn_from_the_seed():
    first, again, other = (make(seed=seed) for seed in (0, 0, 1))
    passes = [joined(take(order, 0, 9)) for order in (first, again, other)]
    assert passes[0] == passes[1]
    assert passes[0][:5] == passes[2][:5] == [8, 0, 6, 2, 4]
    assert passes[0][5:] != passes[2][5:]
    second, third = passes[0][5:10], passes[0][10:15]
    assert sorted(second) == sorted(third) == PARTS[0]
    assert second != third
    assert second != passes[0][:5]


def test_clients_draw_their_further_passes_independently():
    parts = [list(range(20)), list(range(20, 40))]
    order = make(parts, 20, epoch=list(range(40)))
    one, other = take(order, 0, 2)[1], take(order, 1, 2)[1]
    assert [place + 20 for place in one] != other


@given(
    data=st.data(),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    batch_size=st.integers(1, 8),
    shuffled=st.booleans(),
)
def test_each_pass_visits_each_sample_exactly_once(data, sizes, batch_size, shuffled):
    """Whoever is asked in whatever order, and wherever epochs end."""
    total = sum(sizes)
    parts = np.split(np.arange(total), np.cumsum(sizes)[:-1])
    order = make(parts, batch_size, shuffled=shuffled, epoch=data.draw(st.permutations(range(total))))
    visited = [[] for _ in sizes]
    for client in data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=60)):
        if data.draw(st.integers(0, 9)) == 0:
            begin(order, data.draw(st.permutations(range(total))))
        batch = order.next_batch(client).tolist()
        assert 1 <= len(batch) <= batch_size
        visited[client] += batch
    for part, seen in zip(parts, visited, strict=True):
        whole = len(seen) // len(part) * len(part)
        for start in range(0, whole, len(part)):
            assert sorted(seen[start : start + len(part)]) == part.tolist()
        assert len(set(seen[whole:])) == len(seen[whole:])


@given(size=st.integers(1, 12), batch_size=st.integers(1, 8), shuffled=st.booleans())
def test_short_last_batches_are_left_out_where_the_loader_drops_them(size, batch_size, shuffled):
    """A pass has ⌊n/b⌋ full batches; a client with less than a batch gives all it has."""
    order = make([list(range(size))], batch_size, drop_last=True, shuffled=shuffled, epoch=list(range(size)))
    length = min(size, batch_size)
    per_pass = size // length
    for _ in range(3):
        batches = take(order, 0, per_pass)
        assert [len(batch) for batch in batches] == [length] * per_pass
        seen = joined(batches)
        assert len(set(seen)) == len(seen)


def test_a_client_with_fewer_samples_than_a_batch_gives_all_it_has_in_every_batch():
    order = make([[0, 1, 2], [3, 4, 5, 6, 7, 8, 9]], 5)
    assert [sorted(batch) for batch in take(order, 0, 3)] == [[0, 1, 2]] * 3
    assert [len(batch) for batch in take(order, 1, 4)] == [5, 2, 5, 2]


def test_the_epochs_order_is_drawn_when_it_is_asked_for_and_only_then():
    drawn = []
    order = make(epoch=None)
    order.begin_epoch(lambda: drawn.append(1) or EPOCH)
    assert drawn == []
    order.draw_epoch()
    take(order, 0, 10)
    assert drawn == [1]


def test_without_shuffling_the_order_is_drawn_all_the_same():
    """A plain loader asks its sampler too, whose draws must not be missed."""
    drawn = []
    order = make(shuffled=False, epoch=None)
    order.begin_epoch(lambda: drawn.append(1) or list(range(10)))
    order.draw_epoch()
    assert drawn == [1]


@pytest.mark.parametrize("shuffled", [False, True])
def test_restored_progress_goes_on_where_it_was(shuffled):
    order = make(shuffled=shuffled)
    take(order, 0, 2)
    progress = {0: order.progress(0)}
    assert progress[0].passes == 1
    expected = take(order, 0, 1), take(order, 1, 2)
    order.restore(progress)
    begin(order, EPOCH)
    assert (take(order, 0, 1), take(order, 1, 2)) == expected
    other = make(shuffled=shuffled)
    other.restore(progress)
    assert (take(other, 0, 1), take(other, 1, 2)) == expected


def test_progress_does_not_change_when_the_client_goes_on():
    order = make()
    take(order, 0, 1)
    progress = order.progress(0)
    left = progress.left.tolist()
    take(order, 0, 4)
    assert progress.left.tolist() == left == [6, 2, 4]
    assert progress.passes == 1
