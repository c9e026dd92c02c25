"""Batch sizes that change between rounds, and allocations that are refused before anything moves."""

from collections import Counter

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from round_cases import (
    PARTS,
    Asks,
    adamw,
    assert_close,
    big_batch,
    data,
    descent,
    job,
    momentum,
    network,
    straight,
    train,
)
from sfl_models import Classifier, quiet_trainer, same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import CutError, SplitFederatedStrategy
from lightning_sfl.allocation import Allocation

SIZES = Allocation(batch_size=[2, 100, 3])


@pytest.mark.parametrize("workers", [0, 2])
def test_batch_sizes_change_at_the_next_round(workers):
    """Asked for in step 3, the first of round 1; from step 6 on client 0 (8 samples) has batches of 2, client 1 (4
    samples) all it holds, client 2 (6 samples) batches of 3. What workers had fetched ahead is not lost: before and
    after, every client goes through its samples in whole passes.
    """
    found = train(plan={3: SIZES}, steps=14, workers=workers)
    sizes = [[len(step[client]) for client in range(3)] for step in found.asks.steps]
    assert all(size[0] == size[1] == 4 and size[2] in (2, 4) for size in sizes[:6])
    assert sizes[6:] == [[2, 4, 3]] * 8
    for client, part in enumerate(PARTS):
        seen = [index for step in found.asks.steps for index in step[client]]
        for first in range(0, len(seen), len(part)):
            visited = seen[first : first + len(part)]
            assert max(Counter(visited).values()) == 1
            assert set(visited) <= set(part)


def test_workers_see_the_same_batches_as_the_main_process():
    found = [train(plan={1: SIZES, 7: Allocation(batch_size=[3, 1 + 1, 6])}, workers=count) for count in (0, 2)]
    assert found[0].asks.steps == found[1].asks.steps
    assert same(found[0].weights, found[1].weights)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "splitfed_v2", "fedavg"])
def test_weights_of_losses_and_means_follow_the_batch_sizes(algorithm):
    """The straight loop weighs by the samples of each step; with the batch sizes as they were it ends elsewhere."""
    steps = 18 if algorithm == "splitfed_v2" else 9
    found = train(plan={1: SIZES}, algorithm=algorithm, optimizer=adamw, steps=steps)
    assert_close(found.weights, straight(job(found, adamw), algorithm))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(found.weights, straight(job(found, adamw, weighting="uniform"), algorithm))


def test_an_epoch_has_as_many_steps_as_before():
    """18 samples in steps of 4 + 4 + 4: two steps per epoch, with steps of 2 + 2 + 2 as well."""
    asks = Asks({1: Allocation(batch_size=[2, 2, 2])})
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=3, partition=PARTS)
    trainer = quiet_trainer(strategy=strategy, callbacks=[asks], max_epochs=4, precision="64-true")
    trainer.fit(classifier(), loader())
    assert trainer.num_training_batches == 2
    assert [sum(map(len, step.values())) for step in asks.steps] == [12, 10, *[6] * 6]


# Bad input


class Towers(nn.Module):
    """Two ways through the model, which meet at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right, self.last = (nn.Linear(6, 6), *(nn.Linear(3, 3) for _ in range(3)))

    def forward(self, x):
        left, right = self.first(x).tensor_split(2, dim=1)
        return self.last(self.left(left) + self.right(right))


class Pair(nn.Module):
    """A tower for each of two inputs. Behind a cut in one of them, the other's input crosses like a label."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 3), nn.Embedding(3, 3)


class Matches(Classifier):
    def training_step(self, batch, batch_idx):
        return (self.model.left(batch[0]) - self.model.right(batch[1])).square().mean()


def classifier(model: nn.Module | None = None) -> Classifier:
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return Classifier(model.double(), momentum, schedule=False)


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*data()), batch_size=4)


class Tries(Asks):
    """Asks for what is refused, notes the error, and lets the training go on."""

    def __init__(self, ask) -> None:
        super().__init__()
        self.wish, self.error = ask, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if len(self.steps) == 2:
            try:
                trainer.strategy.allocate(self.wish())
            except Exception as error:
                self.error = error


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        ({"cut": ["model.2", "model.5"]}, ValueError, r"Allocation\(cut=...\) has 2 entries for num_clients=3"),
        ({"batch_size": [2] * 4}, ValueError, r"Allocation\(batch_size=...\) has 4 entries for num_clients=3"),
        ({"cut": "model.2"}, ValueError, "cut='model.2' is not accepted: give one module name per registered client"),
        ({"cut": [None] * 3}, ValueError, r"cut=\[None, None, None\] is not accepted"),
        ({"batch_size": [2, 0, 2]}, ValueError, r"batch_size=\[2, 0, 2\] is not accepted: give one integer"),
        ({"batch_size": [2, 1.5, 2]}, ValueError, r"batch_size=\[2, 1.5, 2\] is not accepted"),
        ({"batch_size": [2, float("nan"), 2]}, ValueError, r"batch_size=\[2, nan, 2\] is not accepted"),
        ({"batch_size": [2, "3", 2]}, ValueError, r"batch_size=\[2, '3', 2\] is not accepted"),
        ({"batch_size": 4}, ValueError, "batch_size=4 is not accepted"),
        ({"cut": ["model.2", "model.55", "model.5"]}, CutError, "'model.55'.*Did you mean.*'model.5'"),
    ],
)  # fmt: skip
def test_what_is_refused_names_argument_value_and_what_is_accepted_and_changes_nothing(ask, error, message):
    """The run ends, bit for bit, as one in which nothing was asked for. A batch size beside a bad cut is not taken."""
    tries = Tries(lambda: Allocation(**({"batch_size": [2, 2, 2]} | ask)))
    found = train(callbacks=[tries], optimizer=adamw)
    assert isinstance(tries.error, error)
    with pytest.raises(error, match=f"(?s){message}"):
        raise tries.error
    expected = train(optimizer=adamw)
    assert found.asks.steps == expected.asks.steps
    assert found.asks.cuts == expected.asks.cuts
    assert same(found.weights, expected.weights)


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (["model.left"] * 3, "cut='model.left': a path leads around this module.*Valid cuts are"),
        (["model.first", "model.first", "model.right"], "cut='model.right': a path leads around this module"),
    ],
)
def test_a_cut_with_a_path_around_it_changes_nothing(cuts, message):
    tries = Tries(lambda: Allocation(cut=cuts, batch_size=[2, 2, 2]))
    found, expected = (
        train("model.first", module=classifier(Towers()), callbacks=callbacks).weights for callbacks in ([tries], [])
    )
    with pytest.raises(CutError, match=f"(?s){message}"):
        raise tries.error
    assert same(found, expected)


def test_cuts_that_do_not_lie_one_behind_the_other_change_nothing():
    """Each of the two is valid by itself."""
    tries = Tries(lambda: Allocation(cut=["model.left", "model.right", "model.left"], batch_size=[2, 2, 2]))
    found = []
    for callbacks in ([tries], []):
        torch.manual_seed(0)
        module = Matches(Pair().double(), momentum, schedule=False)
        found.append(train("model.left", module=module, callbacks=callbacks, server_inputs=("0", "1")).weights)
    with pytest.raises(CutError, match="cut='model.*' and cut='model.*' do not lie one behind the other: 'model."):
        raise tries.error
    assert same(*found)


def test_a_cut_does_not_go_with_fedavg_and_a_batch_size_does():
    tries = Tries(lambda: Allocation(cut=["model.2"] * 3, batch_size=[2, 2, 2]))
    found = train(callbacks=[tries], algorithm="fedavg")
    with pytest.raises(ValueError, match=r"Allocation\(cut=...\) does not go with algorithm='fedavg'"):
        raise tries.error
    assert same(found.weights, train(algorithm="fedavg").weights)


def test_outside_a_fit_nothing_is_allocated():
    """Before any, during a validation, and after a fit; the next fit begins with what the strategy was given."""
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=3, partition=PARTS)
    wish = Allocation(batch_size=[2, 2, 2])
    with pytest.raises(MisconfigurationException, match="no fit is going on"):
        strategy.allocate(wish)
    asks, module = Asks({-1: wish}, "on_validation_end"), classifier()
    trainer = quiet_trainer(strategy=strategy, callbacks=[asks], max_epochs=1, precision="64-true")
    with pytest.raises(MisconfigurationException, match="no fit is going on"):
        trainer.validate(module, loader(), verbose=False)
    module.train()
    trainer.fit(module, loader())
    assert [sum(map(len, step.values())) for step in asks.steps] == [12, 10]
    with pytest.raises(MisconfigurationException, match="no fit is going on"):
        strategy.allocate(wish)


def test_a_cut_asked_for_before_the_first_step_is_checked_on_the_first_batch():
    """Nothing has run yet that would tell whose is what."""
    for hook in ("on_train_start", "on_train_epoch_start"):
        module = classifier(Towers())
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with pytest.raises(CutError, match="cut='model.left': a path leads around this module"):
            train("model.first", plan={-1: Allocation(cut=["model.left"] * 3)}, hook=hook, module=module)
        assert same(module.state_dict(), before)


def test_a_cut_asked_for_between_two_epochs_is_tried_on_a_first_batch():
    """`training_step` is given no batch index that Lightning would not give it."""

    seen = []

    class Notes(Classifier):
        def training_step(self, batch, batch_idx):
            seen.append(batch_idx)
            return super().training_step(batch, batch_idx)

    module = Notes(network(), momentum, schedule=False)
    found = train(plan={1: Allocation(cut=["model.5"] * 3)}, hook="on_train_epoch_start", module=module, steps=4)
    assert found.trainer.current_epoch > 1
    assert found.asks.cuts[-1] == ["model.5"] * 3
    assert set(seen) == {0, 1}
    assert seen[:7] == [0, 0, 0, 1, 1, 1, 1]  # two steps of three clients, then the first trial on a copy


def test_one_step_per_round_is_the_big_batch_whatever_the_batch_sizes():
    """Gradient descent on the mean over 4 + 4 + 4, 2 + 4 + 2 and 2 + 2 + 2 samples: short batches end passes."""
    plan = {0: SIZES, 1: Allocation(batch_size=[8, 2, 2])}
    found = train(plan=plan, aggregate_every=1, optimizer=descent, norm=False, steps=3)
    assert_close(found.weights, big_batch(found.asks.steps, network(norm=False)))
    assert [sum(map(len, step.values())) for step in found.asks.steps] == [12, 8, 6]
