"""Law 8 with codecs: what they draw, what senders keep of what they left out, and allocated bits go on bit for bit."""

import lightning.pytorch as pl
import pytest
import torch
from killed_runs import newest_whole, outcome_in, run_in_process
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from resume_cases import Case, apart, differences

from lightning_sfl.allocation import Allocation
from lightning_sfl.link.codecs import RandomK, RandomProjection, StochasticUniform, TopK

# A run that goes on from a checkpoint is told so where it has other callbacks than the run that wrote it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
]

UPDATES = [TopK(fraction=0.2, error_feedback=True), StochasticUniform(bits=4)]
ALL = {
    "smashed": [RandomProjection(fraction=0.6), StochasticUniform(bits=3)],
    "cut_gradient": [StochasticUniform(bits=5)],
    "client_update": UPDATES,
}
CASES = {
    "shared": Case(codecs=ALL, aggregate_every=3, clients_per_round=2),
    "v1": Case(codecs={0: ALL, 1: [StochasticUniform(bits=2)], 2: ALL}, algorithm="splitfed_v1", aggregate_every=2),
    "v2": Case(codecs=ALL, algorithm="splitfed_v2", aggregate_every=2),
    "u_shape": Case(codecs=[StochasticUniform(bits=3)], cut=("net.0", "net.6"), aggregate_every=2),
    "merged": Case(codecs=ALL, server_batching="merged", aggregate_every=2, client_optimizer_state="keep"),
    "fedavg": Case(
        codecs={"client_update": [RandomK(fraction=0.3, error_feedback=True)]}, algorithm="fedavg", aggregate_every=2
    ),
}


class Allocates(pl.Callback):
    """Gives other bits after the second step, and after the fourth; notes what senders keep at the end."""

    def __init__(self, allocates: bool) -> None:
        self.plan = {2: [2, 9, 32], 4: [7, 1, 4]} if allocates else {}
        self.left_out: dict = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step in self.plan:
            trainer.strategy.allocate(Allocation(bits=self.plan[trainer.global_step]))

    def on_train_end(self, trainer, module):
        self.left_out = trainer.strategy.link.memory.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 4, 7])
@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(name, stop, tmp_path):
    case = CASES[name]
    allocates = [Allocates(name != "fedavg") for _ in range(3)]
    whole = case.train(callbacks=(allocates[0],), max_steps=8)
    case.train(tmp_path, stop=stop, callbacks=(allocates[1],), max_steps=8)
    resumed = case.train(go_on=tmp_path / f"step={stop}.ckpt", callbacks=(allocates[2],), max_steps=8)
    assert apart(whole, resumed) == []
    assert differences(allocates[0].left_out, allocates[2].left_out) == []
    assert bool(allocates[0].left_out) == (name != "u_shape")


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_newest_whole_checkpoint(tmp_path):
    """By SIGKILL, half way through saving the checkpoint of step 6, in mid-round."""
    case = CASES["shared"]
    run_in_process(case, tmp_path / "whole")
    run_in_process(case, tmp_path / "killed", kill=("half", 6), in_place=True)
    newest, broken = newest_whole(tmp_path / "killed")
    assert newest == tmp_path / "killed" / "step=5.ckpt"
    assert len(broken) == 1
    run_in_process(case, tmp_path / "resumed", go_on=newest)
    assert apart(outcome_in(tmp_path / "whole"), outcome_in(tmp_path / "resumed")) == []


def test_a_checkpoint_of_other_codecs_is_refused(tmp_path):
    case = CASES["u_shape"]
    case.train(tmp_path, stop=2)
    module = case.module(7)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer = case.trainer(case.strategy(codecs=[StochasticUniform(bits=4)]), enable_checkpointing=False)
    message = r"saved with codecs='StochasticUniform\(bits=3\)', this strategy has codecs='StochasticUniform\(bits=4\)'"
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(module, case.loader(), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert differences(before, dict(module.state_dict())) == []


def test_the_checkpoint_holds_no_memory_without_error_feedback(tmp_path):
    CASES["u_shape"].train(tmp_path, stop=2)
    saved = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["split_federated"]
    assert saved["left_out"] == {}
    assert saved["settings"]["codecs"] == "StochasticUniform(bits=3)"
