"""Every client trains on a loader of its own, `partition={client: DataLoader}`."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule
from resume_cases import Augmented, Case, Outcome, Watch, apart
from round_cases import PARTS, Asks, adamw, assert_close, data, job, momentum, network, straight
from round_cases import Run as Finished
from round_cases import train as train_by_lists
from sfl_models import GPT2, RESNET, Classifier, fit, quiet_trainer, same
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.allocation import Allocation
from lightning_sfl.link.log import MessageLog


def own_loaders(batch_sizes=(4, 4, 4), **options):
    whole = TensorDataset(*data())
    return {
        client: DataLoader(Subset(whole, part), batch_size=size, **options)
        for client, (part, size) in enumerate(zip(PARTS, batch_sizes, strict=True))
    }


def train(loaders, *, handed=None, plan=None, optimizer=momentum, steps=12, hook="on_train_batch_end", **options):
    asks, log = Asks(plan, hook), MessageLog()
    cut = None if options.get("algorithm") == "fedavg" else "model.2"
    settings = {"aggregate_every": 3, "num_clients": len(loaders), **options}
    strategy = SplitFederatedStrategy(cut=cut, partition=loaders, message_log=log, **settings)
    module = Classifier(network(norm=True), optimizer, schedule=False)
    pl.seed_everything(1, verbose=False)
    trainer = quiet_trainer(strategy=strategy, callbacks=[asks], max_epochs=-1, max_steps=steps, precision="64-true")
    trainer.fit(module, handed or loaders[0])
    return Finished(module, asks, log, trainer)


def sizes_of(run):
    return [[len(step.get(client, ())) for client in range(3)] for step in run.asks.steps]


# Law 1


@pytest.mark.parametrize(("own_generator", "workers"), [(False, 0), (True, 2)])
@pytest.mark.parametrize(
    ("kind", "algorithm"), [(RESNET, "splitfed_shared"), (GPT2, "splitfed_v2"), (RESNET, "fedavg")]
)
def test_one_client_with_a_loader_is_plain_lightning_with_that_loader(kind, algorithm, own_generator, workers):
    """Shuffled, with batch normalisation and dropout; the random state ends alike as well."""
    results = []
    for split in (False, True):
        generator = torch.Generator().manual_seed(5) if own_generator else None
        loader = kind.loader(11, 4, shuffle=True, num_workers=workers, generator=generator)
        strategy = SplitFederatedStrategy(
            cut=None if algorithm == "fedavg" else kind.cuts[1],
            algorithm=algorithm,
            num_clients=1,
            partition={0: loader},
            server_inputs=() if algorithm == "fedavg" else kind.server_inputs,
        )
        module = kind.module(adamw)
        fit(module, loader, strategy if split else "auto", max_epochs=3)
        results.append((module.state_dict(), torch.get_rng_state()))
    assert same(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


# Several clients


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2"])
def test_equal_batch_sizes_train_as_index_lists_over_all_data_do(algorithm, workers):
    own = train(own_loaders(shuffle=True, num_workers=workers), algorithm=algorithm)
    listed = train_by_lists(algorithm=algorithm, workers=workers)
    assert own.asks.steps == listed.asks.steps
    assert same(own.weights, listed.weights)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "split_learning", "fedavg"])
def test_clients_have_their_own_batch_sizes_and_weigh_by_them(algorithm):
    """8, 4 and 6 samples by 4, 2 and 3. The straight loop weighs every step and mean by the samples."""
    own = train(own_loaders((4, 2, 3)), algorithm=algorithm, steps=9)
    if algorithm == "split_learning":
        assert all(sum(size > 0 for size in step) == 1 for step in sizes_of(own))
    else:
        assert sizes_of(own) == [[4, 2, 3]] * 9
    assert_close(own.weights, straight(job(own, momentum), algorithm))


@pytest.mark.parametrize(("algorithm", "expected"), [("splitfed_shared", 2), ("splitfed_v2", 6)])
def test_an_epoch_is_as_long_as_the_clients_batch_sizes_make_it(algorithm, expected):
    """18 samples in steps of 4 + 2 + 3: 2 steps. One by one: 2 + 2 + 2 = 6."""
    run = train(own_loaders((4, 2, 3)), algorithm=algorithm)
    assert run.trainer.num_training_batches == expected


def test_a_batch_size_of_the_strategy_counts_for_all():
    run = train(own_loaders((4, 2, 3), drop_last=True), batch_size=5)
    assert sizes_of(run) == [[5, 4, 5]] * 12


def test_an_allocation_takes_the_place_of_the_clients_batch_sizes():
    """Asked for in step 1, of the first round of 3 steps. In step 3 each client ends the pass it is in."""
    run = train(own_loaders((4, 2, 3)), plan={1: Allocation(batch_size=[8, 4, 6])}, steps=6)
    assert sizes_of(run) == [[4, 2, 3]] * 4 + [[8, 4, 6]] * 2


# The loader that fit is given


def test_fit_may_be_given_a_loader_over_all_data_and_it_decides_nothing():
    loaders = own_loaders((4, 2, 3), shuffle=True)
    whole = DataLoader(ConcatDataset([loader.dataset for loader in loaders.values()]), batch_size=9)
    assert same(train(loaders).weights, train(loaders, handed=whole).weights)


def test_another_loader_is_refused():
    loaders = own_loaders()
    with pytest.raises(ValueError, match="Give fit one of those in partition="):
        train(loaders, handed=DataLoader(loaders[0].dataset, batch_size=4))


def test_a_data_module_may_give_one_of_them_anew_in_every_epoch():
    class Data(BoringDataModule):
        def train_dataloader(self):
            return loaders[1]

    loaders, asks = own_loaders((4, 2, 3), shuffle=True), Asks()
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=3, partition=loaders)
    module = Classifier(network(), momentum, schedule=False)
    options = {"precision": "64-true", "limit_val_batches": 0, "reload_dataloaders_every_n_epochs": 1}
    fit(module, Data(), strategy, max_epochs=2, callbacks=[asks], **options)
    for epoch in (asks.steps[:2], asks.steps[2:]):
        assert [sorted(epoch[0][client] + epoch[1][client]) for client in range(3)] == PARTS


@pytest.mark.parametrize("count", [1, 3])
def test_overfit_batches_shows_the_same_batches_in_order_in_every_epoch(count):
    """Lightning turns the shuffling of the loader it is given off; so it is for all clients."""
    loaders = dict(list(own_loaders((4, 2, 3), shuffle=True).items())[:count])
    asks = Asks(None, "on_train_batch_end")
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=count, partition=loaders)
    trainer = quiet_trainer(strategy=strategy, callbacks=[asks], max_epochs=3, overfit_batches=1, precision="64-true")
    with pytest.warns(UserWarning, match="turning off the train dataloader shuffling"):
        trainer.fit(Classifier(network(norm=True), momentum, schedule=False), loaders[0])
    expected = {0: (0, 1, 2, 3), 1: (8, 9), 2: (12, 13, 14)}
    assert asks.steps == [{client: expected[client] for client in range(count)}] * 3


# Resume


def resumable(sizes=(11, 8, 3), batch_sizes=(3, 2, 3), workers=0):
    whole, start, loaders = Augmented(), 0, {}
    for client, (size, batch_size) in enumerate(zip(sizes, batch_sizes, strict=True)):
        part = Subset(whole, range(start, start + size))
        loaders[client] = DataLoader(part, batch_size=batch_size, shuffle=True, num_workers=workers)
        start += size
    return loaders


def run_case(loaders, folder=None, go_on=None, stop=None):
    case = Case(aggregate_every=2, steps=9)
    pl.seed_everything(1 if go_on is None else 99, verbose=False)
    module, outcome = case.module(0 if go_on is None else 98), Outcome()
    callbacks = [Watch(outcome, loaders[0], stop)]
    if folder is not None:
        every = pl.callbacks.ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        callbacks.append(every)
    trainer = case.trainer(
        case.strategy(partition=loaders), callbacks=callbacks, enable_checkpointing=folder is not None
    )
    trainer.fit(module, loaders[2], ckpt_path=go_on, weights_only=True)
    outcome.end["weights"] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return outcome


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_run_that_was_not_stopped(workers, tmp_path):
    """In the middle of a round and of an epoch (22 samples in steps of 3 + 2 + 3: 3 steps), and at an epoch's end."""
    whole = run_case(resumable(workers=workers), tmp_path)
    for step in (5, 6):
        resumed = run_case(resumable(workers=workers), go_on=tmp_path / f"step={step}.ckpt")
        assert apart(whole, resumed) == []


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("other", [{"batch_sizes": (3, 3, 3)}, {"sizes": (10, 9, 3)}], ids=["batch sizes", "data"])
def test_a_checkpoint_of_other_loaders_is_refused(other, tmp_path):
    run_case(resumable(), tmp_path)
    with pytest.raises(ValueError, match=r"another partition.*\(with the same batch sizes"):
        run_case(resumable(**other), go_on=tmp_path / "step=5.ckpt")


# Bad input


def test_the_strategy_refuses_loaders_that_do_not_fit_its_clients():
    with pytest.raises(ValueError, match=r"loaders for \[0, 1, 2\]; num_clients=10 needs one for every client"):
        SplitFederatedStrategy(cut="model.2", partition=own_loaders())
    loaders = {**own_loaders(), 1: DataLoader(TensorDataset(*data(4)), drop_last=True)}
    with pytest.raises(ValueError, match=r"client 0 has drop_last=False, that of client 1 has drop_last=True"):
        SplitFederatedStrategy(cut="model.2", num_clients=3, partition=loaders)
