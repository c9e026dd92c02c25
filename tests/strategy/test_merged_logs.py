"""What a merged step logs and returns, and that the module's own `log` comes back."""

import lightning.pytorch as pl
import pytest
from round_cases import data, momentum, network, train
from sfl_models import Classifier
from torch.nn.functional import cross_entropy


class Logs(Classifier):
    """Logs the inputs before the cut, and how many there are behind it."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.log("inputs", x.mean(), on_step=True, on_epoch=True)
        loss = cross_entropy(self.model(x), y)
        self.log("rows", float(len(y)), on_step=True, on_epoch=False)
        return {"loss": loss, "many": len(y)}


class Logged(pl.Callback):
    """Notes what was logged and returned in every step."""

    def __init__(self) -> None:
        self.steps, self.graphs = [], []

    def on_before_backward(self, trainer, pl_module, loss):
        self.graphs.append(loss.requires_grad)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.steps.append((dict(batch.indices), metrics, dict(outputs)))


def test_values_are_logged_on_the_side_where_they_are_computed():
    """Inputs by each client, weighted by samples; what the server half logs, once, of the merged batch."""
    logged = Logged()
    module = Logs(network(), momentum, schedule=False)
    train(server_batching="merged", module=module, callbacks=[logged], steps=4)
    images, _ = data()
    for indices, metrics, outputs in logged.steps:
        seen = [place for own in indices.values() for place in own]
        assert metrics["inputs_step"] == pytest.approx(float(images[seen].mean()), abs=1e-12)
        assert metrics["rows"] == len(seen)
        assert outputs["many"] == len(seen)
    assert logged.graphs == [False] * 4  # all backward passes have been made
    assert "log" not in vars(module)


def test_values_of_the_server_half_count_by_the_merged_batch_in_an_epoch():
    """Six steps of 4, 4 and 4 rows, or of 4 and 2: the epoch's value is the mean over rows, not over steps."""

    class Rows(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("rows", float(len(batch[1])), on_step=False, on_epoch=True)
            self.log("total", float(len(batch[1])), on_step=False, on_epoch=True, reduce_fx="sum")
            return loss

    found = train(server_batching="merged", module=Rows(network(), momentum, schedule=False), steps=6)
    epoch = found.trainer.num_training_batches
    rows = [sum(map(len, step.values())) for step in found.asks.steps[-(6 % epoch or epoch) :]]
    assert len(set(rows)) > 1
    expected = sum(count * count for count in rows) / sum(rows)
    assert float(found.trainer.callback_metrics["rows"]) == pytest.approx(expected)
    first = train(server_batching="merged", module=Rows(network(), momentum, schedule=False), steps=2)
    total = sum(len(own) for step in first.asks.steps for own in step.values())
    assert float(first.trainer.callback_metrics["total"]) == total  # the step on a copy logs nothing


def test_a_log_that_stands_on_the_module_itself_is_called_by_each_side_for_its_own():
    module, noted = Logs(network(), momentum, schedule=False), []

    def note(name, *_args, **_options):
        noted.append(name)

    module.log = note
    train(server_batching="merged", module=module, steps=2)
    assert noted[-8:] == [*["inputs"] * 3, "rows"] * 2
    assert vars(module)["log"] is note


def test_nothing_is_left_on_the_module_by_a_server_half_that_fails():
    """It fails before the cut, where its log is silent, and only on the merged batch."""

    class Fails(Logs):
        def training_step(self, batch, batch_idx):
            if len(batch[1]) > 4:
                raise RuntimeError("too many")
            return super().training_step(batch, batch_idx)

    module = Fails(network(), momentum, schedule=False)
    with pytest.raises(RuntimeError, match="too many"):
        train(server_batching="merged", module=module)
    assert not {"log", "log_dict"} & set(vars(module))
    assert not any(part._forward_hooks for part in module.modules())
