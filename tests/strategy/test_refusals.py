"""Bad input: a clear error that names the argument, the value and what is accepted, before anything has run."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from sfl_models import GPT2, MLP, RESNET, VGG, Classifier, HuggingFace, gpt2, mlp, quiet_trainer, same, sgd
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler

from lightning_sfl import CutError, MessageLog, SplitFederatedStrategy
from lightning_sfl.strategy import first_step


def refused(module, loader, error, message, *, trainer_options=None, **options):
    """Fit, see the error, and check that module and buffers are untouched."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    settings = {"cut": "model.2", "num_clients": 2, **options}
    with pytest.raises(error, match=message):
        quiet_trainer(strategy=SplitFederatedStrategy(**settings), max_epochs=1, **(trainer_options or {})).fit(
            module, loader
        )
    assert same(before, module.state_dict())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregate_every": 0}, "aggregate_every=0 is not accepted: give an integer of at least 1"),
        ({"aggregate_every": 1.5}, "aggregate_every=1.5"),
        ({"num_clients": 0}, "num_clients=0 is not accepted"),
        ({"num_clients": True}, "num_clients=True is not accepted"),
        ({"clients_per_round": 11}, "clients_per_round=11 is more than num_clients=10"),
        ({"clients_per_round": 0}, "clients_per_round=0 is not accepted: give an integer of at least 1, or None"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"algorithm": "splitfed"}, "algorithm='splitfed' is not known. Accepted are 'splitfed_shared', 'splitfed_v1'"),
        ({"algorithm": "fedavg", "cut": "model.1"}, "cut='model.1' does not go with algorithm='fedavg'"),
        ({"partition": "dirichlet"}, "partition='dirichlet:' is not accepted: alpha must be a number above 0"),
        ({"partition": "dirichlet:-1"}, "partition='dirichlet:-1.0': alpha must be a number above 0 and at most 1e6"),
        ({"partition": "shards:0"}, "partition='shards:0'"),
        ({"partition": "iid:3"}, "'iid' takes no number"),
        ({"partition": "random"}, "partition='random' is not known. Accepted are 'iid', 'dirichlet:ALPHA'"),
        ({"partition": 7}, "partition=7 is not accepted"),
        ({"cut": 3}, "cut=3 is not accepted: give the name of a submodule, such as 'model.layer2', two of"),
        ({"cut": ""}, "cut='' is not accepted: give the name of a submodule"),
        ({"cut": ("a", "b", "c")}, r"cut=\('a', 'b', 'c'\) is not accepted: give the name of a submodule"),
        ({"cut": ("a", "a")}, r"cut=\('a', 'a'\): the two cuts of a U-shape are different modules"),
        ({"cut": ("a", "b"), "algorithm": "fedavg"}, r"cut=\('a', 'b'\) does not go with algorithm='fedavg'"),
        ({"server_inputs": "labels"}, r"server_inputs='labels' is one name; give a sequence of names, \('labels',\)"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SplitFederatedStrategy(**options)


def test_an_unknown_cut_suggests_near_names():
    refused(
        RESNET.module(sgd),
        RESNET.loader(8, 2),
        CutError,
        "has no submodule of this name. Did you mean",
        cut="model.layer2",
    )
    refused(GPT2.module(sgd), GPT2.loader(8, 2), CutError, "'model.transformer.h.1'", cut="model.transformer.h.12")


def test_a_cut_with_a_path_around_it_lists_the_valid_ones():
    message = (
        "cut='model.1.body.0': a path leads around this module.*Valid cuts are 'model.0.0', .*'model.1', 'model.2'"
    )
    refused(RESNET.module(sgd), RESNET.loader(8, 2), CutError, message, cut="model.1.body.0")


def test_a_server_half_that_reads_a_model_input():
    class Autoencoder(Classifier):
        def training_step(self, batch, batch_idx):
            return nn.functional.mse_loss(self.model(batch[0]), batch[0].flatten(1)[:, :4])

    torch.manual_seed(0)
    message = r"reads '0', an input of the model.*server_inputs=\('0',\)"
    refused(Autoencoder(mlp(), sgd), MLP.loader(8, 2), CutError, message)
    quiet_trainer(
        strategy=SplitFederatedStrategy(cut="model.2", num_clients=2, server_inputs=("0",)), max_epochs=1
    ).fit(Autoencoder(mlp(), sgd), MLP.loader(8, 2))


def test_server_inputs_that_are_not_in_the_batch():
    message = r"server_inputs=\('image',\): \['image'\] are not in the batch, which holds \['0', '1'\]"
    refused(MLP.module(sgd), MLP.loader(8, 2), ValueError, message, server_inputs=("image",))


def test_a_cut_without_a_tensor_in_its_output():
    class Wrapped(nn.Module):
        def forward(self, x):
            return [str(x.shape)]

    class Odd(Classifier):
        def training_step(self, batch, batch_idx):
            self.words(batch[0])
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    module = Odd(mlp(), sgd)
    module.words = Wrapped()
    refused(module, MLP.loader(8, 2), CutError, "cut='words': the output of this module holds no tensor", cut="words")


def test_tied_weights_across_the_cut():
    torch.manual_seed(0)
    module = HuggingFace(gpt2(tied=True), sgd)
    message = "'model.transformer.wte.weight' = 'model.lm_head.weight'"
    refused(module, GPT2.loader(8, 2), CutError, message, cut="model.transformer.h.0", server_inputs=("labels",))


def test_a_cut_module_visited_several_times_lists_its_visits():
    class Twice(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return cross_entropy(self.model(x), y) + cross_entropy(self.model(x.flip(0)), y.flip(0))

    torch.manual_seed(0)
    message = "visits this module 2 times .called from 'model', 'model'."
    refused(Twice(mlp(), sgd), MLP.loader(8, 2), CutError, message)


def test_a_cut_that_is_never_visited():
    torch.manual_seed(0)
    module = Classifier(mlp(), sgd)
    module.spare = nn.Linear(2, 2)
    refused(module, MLP.loader(8, 2), CutError, "cut='spare': the training step never calls this module", cut="spare")


def test_more_clients_than_samples():
    refused(
        MLP.module(sgd),
        MLP.loader(8, 2),
        ValueError,
        "num_clients=9 is more than the training set has samples .8.",
        num_clients=9,
    )


def test_partitions_that_do_not_give_every_client_a_sample():
    module, loader = MLP.module(sgd), MLP.loader(8, 2)
    empty = [[0, 1, 2, 3, 4, 5, 6, 7], []]
    refused(module, loader, ValueError, r"the index lists of clients \[1\] are empty", partition=empty)
    refused(
        module,
        loader,
        ValueError,
        "none of 1000 draws gave each of num_clients=8",
        partition="dirichlet:0.01",
        num_clients=8,
    )
    refused(module, loader, ValueError, "3 index lists were given for num_clients=2", partition=[[0], [1], [2]])


class Stream(IterableDataset):
    def __iter__(self):
        yield from MLP.dataset(8)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: DataLoader(Stream(), batch_size=2), "is an iterable dataset"),
        (lambda: MLP.loader(8, 2, sampler=WeightedRandomSampler([1.0] * 8, 8)), "own sampler .WeightedRandomSampler."),
        (lambda: [MLP.batch(2), MLP.batch(2)], "The training loader is a Tensor"),
        (lambda: {"a": MLP.loader(8, 2), "b": MLP.loader(8, 2)}, r"The training data come as a \w+ of 2 loaders"),
        (lambda: CombinedLoader([MLP.loader(8, 2)] * 2, "min_size"), r"The training data come as a \w+ of 2 loaders"),
        (lambda: {"a": MLP.loader(8, 2)}, "The training data come as a dict of 1 loaders.*Give one DataLoader"),
        (lambda: [MLP.loader(8, 2)], "The training data come as a list of 1 loaders.*Give one DataLoader"),
    ],
    ids=["iterable", "sampler", "list", "two loaders", "combined", "one in a mapping", "one in a list"],
)
def test_training_loaders_that_cannot_be_dealt_out(loader, message):
    refused(MLP.module(sgd), loader(), (ValueError, MisconfigurationException), message)


def test_manual_optimization():
    module = MLP.module(sgd)
    module.automatic_optimization = False
    refused(module, MLP.loader(8, 2), MisconfigurationException, "automatic_optimization=False")


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor:UserWarning")
def test_a_step_that_draws_its_own_batches():
    class Draws(Classifier):
        def training_step(self, dataloader_iter):
            return super().training_step(*next(dataloader_iter)[:2])

    torch.manual_seed(0)
    message = (
        r"Draws.training_step\(dataloader_iter\) draws its own batches.*Give it the arguments \(batch, batch_idx\)"
    )
    refused(Draws(mlp(), sgd), MLP.loader(8, 2), MisconfigurationException, message)


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`:UserWarning")
def test_a_module_without_an_optimizer():
    class Without(Classifier):
        def configure_optimizers(self):
            return None

    torch.manual_seed(0)
    message = "configure_optimizers returned no optimizer; the strategy needs one"
    refused(Without(mlp(), sgd), MLP.loader(8, 2), MisconfigurationException, message)


def test_a_batch_of_an_own_class_says_what_batches_are_accepted():
    class Own:
        def __init__(self, samples):
            self.x, self.y = (torch.stack(part) for part in zip(*samples, strict=True))

    class Steps(Classifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.model(batch.x), batch.y)

    loader = DataLoader(MLP.dataset(8), batch_size=2, collate_fn=Own)
    message = "The batch, a Own, holds no tensor.*Accepted are tensors, and mappings, sequences and dataclasses of them"
    for cut in ("model.2", None):
        torch.manual_seed(0)
        refused(Steps(mlp(), sgd), loader, ValueError, message, cut=cut)


def test_optimizers_that_cannot_be_copied_to_parties():
    class Lookahead(torch.optim.Optimizer):
        def __init__(self, inner):
            self.inner = inner
            super().__init__(inner.param_groups, {})

    torch.manual_seed(0)
    module = Classifier(mlp(), lambda p: torch.optim.LBFGS(p, lr=0.1), schedule=False)
    refused(module, MLP.loader(8, 2), ValueError, "returned LBFGS")
    module = Classifier(mlp(), lambda p: Lookahead(sgd(p)), schedule=False)
    refused(module, MLP.loader(8, 2), ValueError, r"returned Lookahead, which wraps another optimizer \(inner=SGD\)")


@pytest.mark.slow
def test_a_compiled_submodule():
    module = MLP.module(sgd)
    module.model[1].compile()
    refused(module, MLP.loader(8, 2), MisconfigurationException, "holds compiled modules .'model.1'.")
    module = MLP.module(sgd)
    module.model[1] = torch.compile(module.model[1])
    refused(module, MLP.loader(8, 2), MisconfigurationException, "holds compiled modules .*'model.1'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 2}, r"Trainer\(devices=2, num_nodes=1\).*Give devices=1"),
        (
            {"callbacks": GradientAccumulationScheduler({0: 1, 1: 2})},
            r"GradientAccumulationScheduler\(scheduling={0: 1, 1: 2}\).*Trainer\(accumulate_grad_batches=...\)",
        ),
        ({"callbacks": StochasticWeightAveraging(1e-2)}, "StochasticWeightAveraging.*WeightAveraging callback is acc"),
    ],
)
def test_trainer_settings(options, message):
    refused(VGG.module(sgd), VGG.loader(8, 2), MisconfigurationException, message, trainer_options=options)


@pytest.mark.parametrize("given", [1, 2])
def test_a_callback_that_sets_over_how_many_batches_gradients_are_accumulated(given):
    class Sets(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.accumulate_grad_batches = 3

    options = {"callbacks": Sets(), "accumulate_grad_batches": given}
    message = f"accumulate_grad_batches=3 was set while training, which began with {given}"
    refused(MLP.module(sgd), MLP.loader(8, 2), MisconfigurationException, message, trainer_options=options)


def test_a_message_log_that_holds_another_fit():
    log = MessageLog()
    used = SplitFederatedStrategy(cut="model.2", num_clients=2, message_log=log)
    module = MLP.module(sgd)
    quiet_trainer(strategy=used, max_epochs=1).fit(module, MLP.loader(8, 2))
    refused(
        module,
        MLP.loader(8, 2),
        MisconfigurationException,
        "message_log holds the messages of an earlier fit",
        message_log=log,
    )


def test_a_later_step_that_skips_the_cut_stops_with_the_cut_named():
    class Sometimes(Classifier):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 1:
                return self.model[5](self.model[3](batch[0].flatten(1)[:, :16])).mean()
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    used = SplitFederatedStrategy(cut="model.2", num_clients=2)
    with pytest.raises(CutError, match="cut='model.2': this step visited the module 0 times"):
        quiet_trainer(strategy=used, max_epochs=1).fit(Sometimes(mlp(), sgd), MLP.loader(8, 2))


def test_a_split_that_autograd_contradicts_is_refused(monkeypatch):
    """Two ways of finding out whose is what stand against each other; nothing is trained where they differ."""
    monkeypatch.setattr(first_step, "autograd_disagreement", lambda *_: "gradients reach a weight without passing it")
    message = "cut='model.1': this cut could not be verified; gradients reach a weight"
    refused(RESNET.module(sgd), RESNET.loader(8, 2), CutError, message, cut="model.1")
