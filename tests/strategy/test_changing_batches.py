"""Steps that change their batch, and batches whose tensors vary: the right labels cross in every step."""

import pytest
import torch
from sfl_models import Classifier, ImageData, fit, mlp, same
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_sfl import MessageLog, SplitFederatedStrategy, find_cuts
from lightning_sfl.cut.batch import named_tensors
from lightning_sfl.link.message import MessageKind


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


def made(kind, model=None):
    torch.manual_seed(0)
    return kind(model or mlp(), adam, schedule=False)


def crossed(kind, loader, log, *, cut="model.2", clients=2, **options) -> SplitFederatedStrategy:
    used = SplitFederatedStrategy(cut=cut, num_clients=clients, message_log=log, **options)
    fit(made(kind), loader(), used, max_epochs=2)
    return used


def trains_alike(kind, loader, cut) -> bool:
    """Whether one client's weights are those of plain Lightning."""
    results = []
    for strategy in ("auto", SplitFederatedStrategy(cut=cut, num_clients=1, aggregate_every=2)):
        module = made(kind)
        fit(module, loader(), strategy, max_epochs=2)
        results.append(module.state_dict())
    return same(*results)


def by_step(log, kind) -> dict[tuple[int, int | None], list]:
    """The messages of one kind with their records, by step and client."""
    truth = log.truth()
    found: dict = {}
    for message in log.messages(kinds=[kind]):
        found.setdefault((message.step, message.client), []).append((message, truth[message.number].indices))
    return found


# A step that changes its batch


def images_and_labels(samples):
    return {"x": torch.stack([image for image, _ in samples]), "y": torch.stack([label for _, label in samples])}


def dictionaries():
    return DataLoader(ImageData(12), batch_size=3, shuffle=True, collate_fn=images_and_labels)


class Pops(Classifier):
    def training_step(self, batch, batch_idx):
        labels = batch.pop("y")
        return cross_entropy(self.model(batch["x"]), labels)


class WritesInPlace(Classifier):
    def training_step(self, batch, batch_idx):
        batch["x"].mul_(0.5)
        batch["y"].add_(1).remainder_(4)
        return cross_entropy(self.model(batch["x"]), batch["y"])


class Replaces(Classifier):
    def training_step(self, batch, batch_idx):
        batch["x"] = batch["x"] * 0.5
        batch["y"] = (batch["y"] + 1) % 4
        return cross_entropy(self.model(batch["x"]), batch["y"])


CHANGING = pytest.mark.parametrize("kind", [Pops, WritesInPlace, Replaces])


@CHANGING
@pytest.mark.parametrize("cut", ["model.2", None])
def test_a_step_that_changes_its_batch_trains_like_plain_lightning(kind, cut):
    assert trains_alike(kind, dictionaries, cut)


@CHANGING
@pytest.mark.parametrize("cut", ["model.2", None])
def test_labels_cross_in_every_step_as_the_loader_gave_them(kind, cut):
    """2 clients of 6 samples in batches of 3, 2 epochs: 4 steps, 8 messages; the first of them was watched."""
    log = MessageLog()
    crossed(kind, dictionaries, log, cut=cut)
    labels = by_step(log, MessageKind.LABEL)
    assert labels.keys() == by_step(log, MessageKind.SMASHED).keys() == {(s, c) for s in range(4) for c in range(2)}
    for ((message, indices),) in labels.values():
        assert message.tensors.keys() == {"y"}
        assert torch.equal(message.tensors["y"], ImageData(12).targets[list(indices)])


@CHANGING
def test_finding_cuts_leaves_the_callers_batch_as_it_was(kind):
    batch, kept = next(iter(dictionaries())), {}
    kept.update({name: tensor.clone() for name, tensor in batch.items()})
    assert [cut.name for cut in find_cuts(made(kind), batch)] == ["model.1", "model.2", "model.3", "model.4", "model"]
    assert same(batch, kept)


# Batches whose tensors vary


class Samples(Classifier):
    """The batch is a list of (image, label)."""

    def training_step(self, batch, batch_idx):
        images, labels = zip(*batch, strict=True)
        return cross_entropy(self.model(torch.stack(images)), torch.stack(labels))


def samples(size=7):
    return lambda: DataLoader(ImageData(size), batch_size=3, collate_fn=list)


@pytest.mark.parametrize("cut", ["model.2", None])
def test_a_list_of_samples_with_a_short_last_batch_trains_like_plain_lightning(cut):
    assert trains_alike(Samples, samples(), cut)


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ([[0, 1, 2, 3, 4, 5, 6]], [3, 3, 1, 3, 3, 1]),  # the last batch is shorter than the first
        ([[0, 1], [2, 3, 4, 5, 6]], [2, 3, 2, 2, 2, 3, 2, 2]),  # the first is shorter: client 0 has 2 samples
    ],
    ids=["short last batch", "short first batch"],
)
def test_every_label_of_lists_of_several_lengths_crosses(parts, sizes):
    """``sizes``: the samples in each message of smashed data; as many labels cross beside it, under their places."""
    log = MessageLog()
    crossed(Samples, samples(), log, clients=len(parts), partition=parts)
    labels = by_step(log, MessageKind.LABEL)
    assert [len(indices) for ((_, indices),) in labels.values()] == sizes
    assert labels.keys() == by_step(log, MessageKind.SMASHED).keys()
    for ((message, indices),) in labels.values():
        assert list(message.tensors) == [f"{place}.1" for place in range(len(indices))]
        assert torch.equal(torch.stack(list(message.tensors.values())), ImageData(7).targets[list(indices)])


class Weighted(Classifier):
    """Samples are weighted where the batch has weights."""

    def training_step(self, batch, batch_idx):
        losses = cross_entropy(self.model(batch["x"]), batch["y"], reduction="none")
        return (losses * batch["w"]).mean() if "w" in batch else losses.mean()


class Numbered(ImageData):
    def __getitem__(self, index):
        return index, super().__getitem__(index)


def weighted_where(has_weights):
    def collate(numbered):
        batch = images_and_labels([sample for _, sample in numbered])
        if has_weights(numbered[0][0]):
            batch["w"] = torch.tensor([1.0 + number for number, _ in numbered])
        return batch

    return lambda: DataLoader(Numbered(12), batch_size=3, collate_fn=collate)


@pytest.mark.parametrize("has_weights", [lambda n: n >= 6, lambda n: n < 6], ids=["appears", "disappears"])
def test_a_tensor_that_comes_and_goes_crosses_wherever_it_is_read(has_weights):
    """In order, batches begin with samples 0, 3, 6, 9; two of the four have weights, which are the places plus 1."""
    assert trains_alike(Weighted, weighted_where(has_weights), "model.2")
    log = MessageLog()
    crossed(Weighted, weighted_where(has_weights), log, clients=1)
    messages = [found for _, [found] in sorted(by_step(log, MessageKind.LABEL).items())]
    assert [indices[0] for _, indices in messages] == [0, 3, 6, 9, 0, 3, 6, 9]
    for message, indices in messages:
        expected = {"y": ImageData(12).targets[list(indices)]}
        if has_weights(indices[0]):
            expected["w"] = torch.tensor([1.0 + place for place in indices])
        assert same(message.tensors, expected)


def test_names_of_a_lists_tensors_are_their_places():
    assert list(named_tensors(next(iter(samples()())))) == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
