"""Finding cuts of modules that keep activations, cannot be copied, or fail when they are run in halves."""

import threading

import pytest
import torch
from sfl_models import MLP, Classifier, fit, mlp, same, sgd
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sfl import CutError, SplitFederatedStrategy, find_cuts
from lightning_sfl.cut.find import search


class Keeps(Classifier):
    """Keeps an activation of its last step, and a list of them, each with the graph it came from."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(), sgd)
        self.kept = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.feat = self.model[1](self.model[0](x))
        self.kept = [{"feat": self.feat}]
        return cross_entropy(self.model[3:](self.model[2](self.feat)), y)


class KeepsASkip(Keeps):
    """The kept activation goes around the third layer."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.feat = self.model[1](self.model[0](x))
        hidden = self.model[2](self.feat) + self.feat
        return cross_entropy(self.model[3:](hidden), y)


def test_a_bad_cut_of_a_module_that_keeps_activations_is_told_with_the_valid_ones():
    message = r"cut='model.2': a path leads around this module.*Valid cuts are 'model.1', 'model.3'"
    with pytest.raises(CutError, match=message):
        fit(KeepsASkip(), MLP.loader(8, 2), SplitFederatedStrategy(cut="model.2", num_clients=2), max_epochs=1)


def test_cuts_of_a_module_that_keeps_activations_are_found_and_what_it_keeps_stays():
    module = Keeps()
    module.training_step(MLP.batch(), 0)
    feat, kept = module.feat, module.kept
    assert [cut.name for cut in find_cuts(module, MLP.batch())] == [
        "model.1",
        "model.2",
        "model.3",
        "model.4",
        "model.5",
    ]
    assert module.feat is feat
    assert module.kept is kept
    assert feat.grad_fn is not None


@pytest.mark.parametrize("cut", ["model.2", None])
def test_a_module_that_keeps_activations_trains_like_plain_lightning(cut):
    results = []
    for strategy in ("auto", SplitFederatedStrategy(cut=cut, num_clients=1)):
        module = Keeps()
        module.training_step(MLP.batch(), 0)
        fit(module, MLP.loader(8, 2), strategy, max_epochs=2)
        results.append(module.state_dict())
    assert same(*results)


class Locked(Classifier):
    """Holds what Python does not copy."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(), sgd)
        self.lock = threading.Lock()


def test_a_module_that_cannot_be_copied_needs_a_cut_that_is_named():
    message = r"Locked cannot be copied \(TypeError: .*\).*Name a cut= that you know"
    with pytest.raises(CutError, match=message):
        find_cuts(Locked(), MLP.batch())
    with pytest.raises(CutError, match=message):
        fit(Locked(), MLP.loader(8, 2), SplitFederatedStrategy(num_clients=2), max_epochs=1)
    module = Locked()
    trainer = fit(module, MLP.loader(8, 2), SplitFederatedStrategy(cut="model.2", num_clients=2), max_epochs=1)
    assert trainer.global_step == 2


class Checked(nn.Module):
    """Refuses a blank batch, which is what a server sees in the private input's place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(192, 16)

    def forward(self, x):
        if not x.any():
            raise ValueError("the batch is blank")
        return torch.tanh(self.inner(x.flatten(1)))


def test_a_candidate_whose_halves_raise_is_left_out_and_the_search_goes_on():
    """Cut within the checking module, the server half would run its check on blanks; cut at its end, it does not.

    Cut further behind, the server replaces that module by the shape of its output, which has no values to check either.
    """
    torch.manual_seed(0)
    module = Classifier(nn.Sequential(Checked(), nn.Linear(16, 12), nn.Linear(12, 4)), sgd)
    assert [cut.name for cut in find_cuts(module, MLP.batch())] == ["model.0", "model"]
    with pytest.raises(CutError, match=r"halves do not run apart \(ValueError: the batch is blank\).*Valid cuts are"):
        search(module, MLP.batch()).cut("model.0.inner")


# Modules that make tensors of their own, in the trainer's precision


class Turns(Classifier):
    """Makes a matrix in its step, in whatever type is the default, and meets the activations with it."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.model[:4](x)
        return cross_entropy(self.model[4:](hidden @ torch.eye(hidden.shape[1])), y)


class Halves(Classifier):
    """Hands on 16 bits, which its 32-bit layers take under mixed precision alone."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return cross_entropy(self.model(x.to(torch.bfloat16)), y)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(Turns, "64-true"), (Turns, "bf16-true"), (Turns, "bf16-mixed"), (Turns, "32-true"), (Halves, "bf16-mixed")],
)
def test_the_search_for_a_default_cut_runs_in_the_trainers_precision(kind, precision):
    results = []
    for strategy in ("auto", SplitFederatedStrategy(num_clients=1)):
        torch.manual_seed(0)
        module = kind(mlp(), sgd)
        fit(module, MLP.loader(8, 4), strategy, max_epochs=2, precision=precision)
        results.append(module.state_dict())
    assert same(*results)
