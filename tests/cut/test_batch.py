import collections
import dataclasses
import typing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_sfl.cut.batch import first_records, named_tensors, record_count, replace_tensors


class Pair(typing.NamedTuple):
    image: Tensor
    label: Tensor


@dataclasses.dataclass(frozen=True)
class Sample:
    image: Tensor
    name: str


def t(value, rows=2):
    return torch.full((rows, 1), float(value))


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (t(0), ["batch"]),
        ((t(0), t(1)), ["0", "1"]),
        ([t(0), [t(1), t(2)]], ["0", "1.0", "1.1"]),
        ({"input_ids": t(0), "labels": t(1)}, ["input_ids", "labels"]),
        (({"mask": t(0)}, t(1)), ["0.mask", "1"]),
        (Pair(t(0), t(1)), ["0", "1"]),
        (Sample(t(0), "a"), ["image"]),
        ({"x": t(0), "name": "a", "count": 3, "none": None, "rest": []}, ["x"]),
        (collections.UserDict(x=t(0)), ["x"]),
        ({3: t(0)}, ["3"]),
        ("text", []),
        (None, []),
    ],
)
def test_tensors_are_named_by_their_place(batch, names):
    assert list(named_tensors(batch)) == names


def test_named_tensors_are_the_batchs_own_and_in_order():
    first, second, third = t(0), t(1), t(2)
    found = named_tensors({"b": (first, {"c": second}), "a": third})
    assert list(found) == ["b.0", "b.1.c", "a"]
    assert found["b.0"] is first
    assert found["b.1.c"] is second
    assert found["a"] is third


LEAVES = st.one_of(st.integers(), st.none(), st.text(max_size=3), st.builds(t, st.integers(0, 99)))
KEYS = st.text("abc", min_size=1, max_size=3)
BATCHES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=10,
)


def form(batch):
    """The batch's structure, with tensors as their values."""
    if isinstance(batch, dict):
        return type(batch), [(key, form(part)) for key, part in batch.items()]
    if isinstance(batch, list | tuple):
        return type(batch), [form(part) for part in batch]
    return batch.tolist() if isinstance(batch, Tensor) else batch


@given(batch=BATCHES)
def test_exchanged_tensors_stand_in_the_same_places_and_the_batch_stays_as_it_was(batch):
    names = named_tensors(batch)
    before = form(batch)
    assert form(replace_tensors(batch, names)) == before
    exchanged = replace_tensors(batch, {name: tensor + 100 for name, tensor in names.items()})
    assert {name: tensor.tolist() for name, tensor in named_tensors(exchanged).items()} == {
        name: (tensor + 100).tolist() for name, tensor in names.items()
    }
    assert form(batch) == before


def test_only_what_is_named_is_exchanged():
    batch = {"x": t(0), "rest": (t(1), "text")}
    new = t(9)
    found = replace_tensors(batch, {"rest.0": new})
    assert found["rest"][0] is new
    assert found["rest"][1] == "text"
    assert found["x"] is batch["x"]
    assert batch["rest"][0] is not new


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        (t(0), "batch"),
        (Pair(t(0), t(1)), "1"),
        (Sample(t(0), "a"), "image"),
        (collections.UserDict(x=t(0), y=t(1)), "y"),
        ([t(0)], "0"),
    ],
)
def test_containers_keep_their_type(batch, name):
    old = named_tensors(batch)[name]
    new = t(9)
    found = replace_tensors(batch, {name: new})
    assert type(found) is type(batch)
    assert named_tensors(found)[name] is new
    assert named_tensors(batch)[name] is old


def test_a_name_that_is_not_in_the_batch_is_refused():
    message = r"replacement names \['mask'\] are not in the batch, whose tensors are \['0', '1'\]"
    with pytest.raises(ValueError, match=message):
        replace_tensors((t(0), t(1)), {"mask": t(2), "0": t(3)})


def test_records_are_the_rows_of_the_first_tensor_that_has_any():
    assert record_count((torch.tensor(3.0), torch.zeros(5, 2), torch.zeros(7))) == 5
    assert record_count(torch.zeros(4)) == 4
    assert record_count({"x": torch.zeros(0, 3)}) == 0


@pytest.mark.parametrize("batch", [{"x": torch.tensor(1.0)}, {}, {"x": 3}])
def test_a_batch_without_rows_is_refused(batch):
    with pytest.raises(ValueError, match=r"The batch, a dict, holds no tensor with a batch dimension"):
        record_count(batch)


def test_first_records_cuts_every_tensor_of_the_batch_dimension():
    batch = {
        "x": torch.arange(6).reshape(3, 2),
        "y": torch.arange(3),
        "weights": torch.arange(4),
        "scale": torch.ones(()),
    }
    found = first_records(batch, 2)
    assert found["x"].tolist() == [[0, 1], [2, 3]]
    assert found["y"].tolist() == [0, 1]
    assert found["weights"] is batch["weights"]
    assert found["scale"] is batch["scale"]
    assert batch["x"].shape == (3, 2)
    assert first_records(batch, 5)["y"].tolist() == [0, 1, 2]
