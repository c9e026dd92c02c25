import random

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_sfl.data.labels import labels_of
from lightning_sfl.random_state import RandomState


class Listed(Dataset):
    """A data set that yields the samples it is given, and must not be read where it shows its labels."""

    def __init__(self, samples, readable=True, **attributes):
        self.samples = samples
        self.readable = readable
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        assert self.readable, "a sample is read although the labels are at hand"
        return self.samples[index]


def held(**attributes):
    return Listed(["x"] * 3, readable=False, **attributes)


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize(
    "value",
    [
        [2, 0, 1],
        (2, 0, 1),
        torch.tensor([2, 0, 1]),
        torch.tensor([2.0, 0.0, 1.0]),
        np.array([2, 0, 1], dtype=np.uint8),
        [torch.tensor(2), torch.tensor(0), torch.tensor(1)],
    ],
)
def test_labels_stand_in_an_attribute(name, value):
    found = labels_of(held(**{name: value}))
    assert found.dtype == np.int64
    assert found.tolist() == [2, 0, 1]


def test_booleans_are_labels():
    assert labels_of(held(targets=torch.tensor([True, False, True]))).tolist() == [1, 0, 1]


def test_targets_go_before_labels():
    assert labels_of(held(targets=[1, 1, 1], labels=[2, 2, 2])).tolist() == [1, 1, 1]


def test_an_attribute_that_holds_no_values_is_passed_over():
    class Method(Listed):
        def labels(self):
            raise AssertionError("not asked for")

    assert labels_of(Method([("x", 4), ("y", 5)])).tolist() == [4, 5]
    assert labels_of(Listed([("x", 4), ("y", 5)], targets=None)).tolist() == [4, 5]


def test_the_last_tensor_of_a_tensor_data_set_is_its_labels():
    dataset = TensorDataset(torch.zeros(3, 2), torch.zeros(3), torch.tensor([5, 6, 7]))
    assert labels_of(dataset).tolist() == [5, 6, 7]


def test_a_subset_has_the_labels_of_its_places():
    dataset = held(targets=[5, 6, 7])
    assert labels_of(Subset(dataset, [2, 0])).tolist() == [7, 5]
    assert labels_of(Subset(Subset(dataset, [2, 0, 1]), [1, 1, 2])).tolist() == [5, 5, 6]
    assert labels_of(Subset(dataset, torch.tensor([2, 1]))).tolist() == [7, 6]


@pytest.mark.parametrize("key", ["label", "labels", "target", "targets", "y"])
@pytest.mark.parametrize("convert", [int, torch.tensor, np.int32, lambda value: np.array([value])])
def test_labels_are_read_from_the_samples_of_mappings(key, convert):
    dataset = Listed([{"x": 0, key: convert(label)} for label in (3, 1, 2)])
    assert labels_of(dataset).tolist() == [3, 1, 2]


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("convert", [int, torch.tensor, np.int32, lambda value: torch.tensor([value])])
def test_labels_are_the_last_part_of_a_tuple(kind, convert):
    dataset = Listed([kind((torch.zeros(2), 9, convert(label))) for label in (3, 1, 2)])
    assert labels_of(dataset).tolist() == [3, 1, 2]


def test_a_concatenation_shows_the_labels_of_its_parts_unread():
    parts = [held(targets=[2, 0, 1]), TensorDataset(torch.zeros(2), torch.tensor([4, 5])), Listed([("x", 6)])]
    assert labels_of(ConcatDataset(parts)).tolist() == [2, 0, 1, 4, 5, 6]


class Augmented(Dataset):
    """Draws from every global generator, as augmentations do."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        noise = torch.rand(2) + random.random() + np.random.rand()
        return noise, index


def test_reading_samples_leaves_the_random_state_as_it_was():
    before = RandomState.capture()
    assert labels_of(Augmented()).tolist() == [0, 1, 2, 3, 4]
    after = RandomState.capture()
    assert torch.equal(after.cpu, before.cpu)
    assert after.python == before.python
    assert after.numpy["state"]["pos"] == before.numpy["state"]["pos"]
    assert np.array_equal(after.numpy["state"]["key"], before.numpy["state"]["key"])


ACCEPTED = r"Give the data set an attribute 'targets'"


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        (("x", 0.5), "tuple"),
        (("x", "cat"), "tuple"),
        (("x", torch.zeros(2)), "tuple"),
        ((3,), "tuple"),
        ({"x": 1}, "dict"),
        ({"label": None}, "dict"),
        (torch.zeros(2), "Tensor"),
        (7, "int"),
    ],
)
def test_samples_without_an_integer_label_are_refused(sample, kind):
    with pytest.raises(ValueError, match=rf"sample 1 of the data set, a {kind}, shows no integer label.*{ACCEPTED}"):
        labels_of(Listed([("x", 1), sample]))


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ([0, 1], r"\(2,\)"),
        ([[0], [1], [2]], r"\(3, 1\)"),
        (torch.zeros(3, 4), r"\(3, 4\)"),
        ([[0], [1, 2], [3]], r"\(0,\)"),
        ([0.5, 1.0, 2.0], r"\(3,\) and type float64"),
        ([0.0, 1.0, float("nan")], r"\(3,\) and type float64"),
        ([0.0, 1.0, float("inf")], r"\(3,\) and type float64"),
        (["cat", "dog", "cat"], r"\(3,\)"),
        ([0, 1, None], r"\(3,\)"),
    ],
)
def test_held_labels_that_are_not_one_integer_per_sample_are_refused(value, shape):
    message = rf"the labels of Listed must be one integer per sample, shape \(3,\), but have shape {shape}.*{ACCEPTED}"
    with pytest.raises(ValueError, match=message):
        labels_of(held(targets=value))
