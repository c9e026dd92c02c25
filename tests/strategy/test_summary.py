"""After the first step of a fit the model summary comes once more, and says whose each row is."""

import logging

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelSummary, RichModelSummary
from sfl_models import BERT, MLP, RESNET, Classifier, fit, mlp, same, sgd
from torch import nn

from lightning_sfl import SplitFederatedStrategy

PLAIN = "lightning.pytorch.callbacks.model_summary"


def owners_in(text):
    """Whose each row is, in the last table with owners."""
    lines = [
        [cell.strip() for cell in line.replace("│", "|").replace("┃", "|").split("|")] for line in text.split("\n")
    ]
    headings = [line for line in lines if "Owner" in line]
    place, name = headings[-1].index("Owner"), headings[-1].index("Name")
    after = lines[lines.index(headings[-1]) + 1 :]
    return {line[name]: line[place] for line in after if len(line) == len(headings[-1]) and line[name]}


def owners(caplog, cut="model.2", *, module=None, kind=MLP, depth=2, clients=2, **options):
    with caplog.at_level(logging.INFO, PLAIN):
        fit(
            module or kind.module(sgd),
            kind.loader(8, 2),
            SplitFederatedStrategy(cut=cut, num_clients=clients, **options),
            max_steps=3,
            callbacks=[ModelSummary(depth)],
        )
    assert caplog.text.count("Owner") == 1
    return owners_in(caplog.text)


# Whose


def test_rows_before_the_cut_are_the_clients_and_rows_behind_it_the_servers(caplog):
    """Flatten and Tanh have no parameters: they ran before the cut, or nothing is said of them."""
    assert owners(caplog) == {
        "model": "client and server",
        "model.0": "client",
        "model.1": "client",
        "model.2": "client",
        "model.3": "server",
        "model.4": "",
        "model.5": "server",
    }


def test_a_depth_of_one_shows_the_container_alone(caplog):
    assert owners(caplog, depth=1) == {"model": "client and server"}


def test_layers_between_the_clients_cuts_are_theirs_wherever_they_are_computed(caplog):
    assert owners(caplog, {0: "model.1", 1: "model.3", 2: "model.3"}, clients=3) == {
        "model": "client and server",
        "model.0": "client",
        "model.1": "client",
        "model.2": "client, for some on the server",
        "model.3": "client, for some on the server",
        "model.4": "",
        "model.5": "server",
    }


def test_a_container_of_the_clients_layers_at_some_cuts_and_at_all_is_theirs(caplog):
    """Block 1 lies before the first cut, block 2 before the second alone."""
    found = owners(caplog, {0: "model.0.1", 1: "model.0.2"}, module=nested(), depth=3)
    assert found["model.0"] == found["model.0.2"] == "client, for some on the server"
    assert found["model.0.1"] == "client"
    assert found["model.1"] == "server"


def nested():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Linear(6, 5))
    return Classifier(nn.Sequential(body, nn.Linear(5, 4)), sgd)


def test_without_a_server_everything_is_the_clients(caplog):
    found = owners(caplog, None, algorithm="fedavg")
    assert found == dict.fromkeys(["model", *(f"model.{place}" for place in range(6))], "client")


class Scaled(Classifier):
    """Parameters of the module's own, which stand in no submodule and are Lightning's 'other params'."""

    def __init__(self):
        super().__init__(mlp(), sgd)
        self.scale = nn.Parameter(torch.ones(4))
        self.unread = nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.model(x) * self.scale, y)


def test_parameters_outside_of_submodules_have_an_owner(caplog):
    found = owners(caplog, module=Scaled(), depth=1)
    assert found == {"model": "client and server", "other params": "server"}


def test_frozen_layers_have_owners(caplog):
    module = MLP.module(sgd)
    module.model[1].requires_grad_(False)
    found = owners(caplog, module=module)
    assert (found["model.1"], found["model.3"]) == ("client", "server")


def test_constants_that_both_sides_read_are_of_both(caplog):
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("offset", torch.ones(1), persistent=False)

        def forward(self, x):
            return x + self.offset

    torch.manual_seed(0)
    add = Offset()
    model = nn.Sequential(nn.Flatten(), add, nn.Linear(192, 6), nn.Linear(6, 4), add)
    found = owners(caplog, "model.2", module=Classifier(model, sgd))
    assert found["model.1"] == "client and server"
    assert found["model.2"] == "client"


def test_buffers_and_many_kinds_of_layers(caplog):
    found = owners(caplog, "model.bert.embeddings", kind=BERT, depth=3)
    assert found["model.bert.embeddings"] == "client"
    assert {found[row] for row in ("model.bert.encoder", "model.bert.pooler", "model.classifier")} == {"server"}


# How and when it is printed


def test_the_rich_summary_prints_its_own_table(capsys):
    fit(
        MLP.module(sgd),
        MLP.loader(8, 2),
        SplitFederatedStrategy(cut="model.2", num_clients=2),
        max_steps=3,
        callbacks=[RichModelSummary(2)],
    )
    text = capsys.readouterr().out
    assert text.count("Owner") == 1
    assert owners_in(text)["model.3"] == "server"
    assert "┃ Owner" in text


def test_a_users_own_summary_prints_it(capsys):
    class Own(RichModelSummary):
        @staticmethod
        def summarize(summary_data, *numbers, total_flops, shout):
            print(shout, dict(summary_data).get("Owner"))

    options = {"max_steps": 1, "callbacks": [Own(2, shout="whose:")]}
    fit(MLP.module(sgd), MLP.loader(8, 2), SplitFederatedStrategy(cut="model.4", num_clients=2), **options)
    text = capsys.readouterr().out
    assert text.startswith("whose: None\nwhose: ['client and server', 'client', 'client',")


def test_every_fit_prints_it_a_resumed_one_too(capsys, tmp_path):
    def count():
        return capsys.readouterr().out.count("Owner")

    module, loader = MLP.module(sgd), MLP.loader(8, 2)
    options = {"callbacks": [RichModelSummary(2)], "max_epochs": 1}
    trainer = fit(module, loader, SplitFederatedStrategy(cut="model.2", num_clients=2), **options)
    assert count() == 1
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader)
    assert count() == 1
    trainer.validate(module, loader, verbose=False)
    assert count() == 0
    own = SplitFederatedStrategy(cut="model.4", num_clients=2)
    resumed = pl.Trainer(
        **{"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
        strategy=own,
        callbacks=[RichModelSummary(2)],
        max_epochs=2,
    )
    resumed.fit(MLP.module(sgd), loader, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert owners_in(capsys.readouterr().out)["model.3"] == "client"


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_it_waits_for_the_first_step_that_is_not_skipped(caplog):
    class Skips(Classifier):
        def training_step(self, batch, batch_idx):
            return None if self.trainer.fit_loop.epoch_loop.total_batch_idx < 2 else super().training_step(batch, 0)

    assert owners(caplog, module=Skips(mlp(), sgd))["model.5"] == "server"


@pytest.mark.parametrize("options", [{"callbacks": []}, {"callbacks": [ModelSummary(0)]}], ids=["none", "depth 0"])
def test_without_a_summary_there_is_none(options, caplog, capsys):
    with caplog.at_level(logging.INFO):
        fit(MLP.module(sgd), MLP.loader(8, 2), SplitFederatedStrategy(num_clients=2), max_steps=1, **options)
    assert "Owner" not in caplog.text + capsys.readouterr().out


def test_barebones_runs_print_none(capsys):
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=2)
    module = MLP.module(sgd)
    module.log = lambda *args, **kwargs: None  # barebones runs warn of it
    trainer = pl.Trainer(barebones=True, accelerator="cpu", max_steps=1, strategy=strategy)
    trainer.fit(module, MLP.loader(8, 2))
    assert "Owner" not in capsys.readouterr().out


# It leaves no trace


class Forward(Classifier):
    def forward(self, x):
        return self.model(x)


class Counting(nn.Module):
    """Counts its forward passes and draws at random, in evaluation too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x + 0.1 * torch.rand_like(x)


def test_a_forward_pass_of_the_example_leaves_no_trace(caplog):
    """One client is plain Lightning, whose own summary runs the example once, before the first step."""
    ends = []
    for strategy in ("auto", SplitFederatedStrategy(cut="model.2", num_clients=1)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Dropout(0.5), Counting(), nn.Linear(6, 4))
        module = Forward(model, sgd)
        module.example_input_array = torch.rand(2, 3, 8, 8)
        with caplog.at_level(logging.INFO, PLAIN):
            fit(module, MLP.loader(8, 2, shuffle=True), strategy, max_epochs=2, callbacks=[ModelSummary(2)])
        ends.append({**module.state_dict(), "random": torch.get_rng_state()})
    assert same(*ends)
    table = caplog.text.split("Owner")[1]
    assert "[2, 3, 8, 8]" in table  # the sizes are there
    assert "Total Flops" in table


def test_a_warning_of_lightnings_table_comes_once():
    """Of its own: with mixed precision it cannot tell the model's size."""
    with pytest.warns(UserWarning, match="Precision bf16-mixed is not supported by the model summary") as caught:
        fit(
            RESNET.module(sgd),
            RESNET.loader(8, 2),
            SplitFederatedStrategy(cut="model.1", num_clients=2),
            max_steps=1,
            precision="bf16-mixed",
            callbacks=[ModelSummary(2)],
        )
    assert sum("not supported by the model summary" in str(warning.message) for warning in caught) == 1
