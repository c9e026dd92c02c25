from collections.abc import Mapping

import lightning.pytorch as pl
import pytest
import torch
from attack_cases import HandMadeLog, attacker_of, threat_model
from sfl_models import Classifier, ImageData, fit
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from attacks.attacker import Background, UnavailableError
from attacks.images import ImageSpace
from attacks.local_optimizer import LocalOptimizer
from attacks.program import Program
from attacks.threat import FED_SERVER, NETWORK_OBSERVER, ThreatModel
from attacks.update import Update, last_updates
from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.cut.find import search
from lightning_sfl.link.codecs import NearestUniform
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind

CLIENTS, BATCH = 2, 3
DATA = ImageData(24)
SPACE = ImageSpace(shape_CHW=(3, 8, 8))
CUT = {"fedavg": None, "splitfed_shared": "model.1"}
OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


class Snapshots(pl.Callback):
    """The whole model at the beginning of every step, of which the server's half is the one in force."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.weights.append({name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()})


class Run:
    """A real run of a tiny model, what there is to know of it, and what its gradients were."""

    def __init__(self, algorithm: str, optimizer: str, steps: int, **options) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Tanh(), nn.Linear(5, 4))
        self.module = Classifier(network, OPTIMIZERS[optimizer], schedule=False)
        self.log, self.cut, snapshots = MessageLog(), CUT[algorithm], Snapshots()
        own_cut = {} if self.cut is None else {"cut": self.cut}
        strategy = SplitFederatedStrategy(
            **own_cut, num_clients=CLIENTS, algorithm=algorithm, message_log=self.log, **options
        )
        loader = DataLoader(DATA, batch_size=BATCH)
        trainer = fit(self.module, loader, strategy, max_steps=steps, callbacks=[snapshots])
        self.at_step = snapshots.weights
        template = (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
        split = None if self.cut is None else search(self.module, template).cut(self.cut).split
        self.program = Program(self.module, split, template)
        self.optimizer = LocalOptimizer.of(
            trainer.optimizers[0],
            steps=strategy.aggregate_every,
            keeps_state=strategy.client_optimizer_state == "keep",
        )

    def updates(self, threat: ThreatModel = FED_SERVER, clients: int | None = None) -> list[Update]:
        background = Background(program=lambda _: self.program, space=SPACE, optimizer=self.optimizer)
        return last_updates(attacker_of(self.log, threat, background, cut=self.cut), clients)

    def plain_gradients(self, update: Update) -> Mapping[str, Tensor]:
        """A backward pass of the whole model on the client's batch, in float64."""
        (indices,) = self.log.worked_on(update.client, update.round)
        weights = {**self.at_step[update.round], **update.before}
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Tanh(), nn.Linear(5, 4)).double()
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
        cross_entropy(model(DATA.images[list(indices)].double()), DATA.targets[list(indices)]).backward()
        return {f"model.{name}": parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("algorithm", CUT)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_read_off_a_run_are_those_of_a_plain_backward_pass(algorithm, optimizer, steps):
    """In float32 ε = 1.2e-7. Off a step: ε·|θ|/η ≤ 1.2e-7·0.5/0.1 = 6e-7. Off momentum m ≤ 1: 2·ε/(1 − 0.9) = 2.4e-6.

    The run's own backward pass rounds by about ε of its largest intermediate values besides.
    """
    run = Run(algorithm, optimizer, steps)

    updates = run.updates()

    assert [(update.client, update.round) for update in updates] == [(0, steps - 1), (1, steps - 1)]
    for update in updates:
        held = ["model.1.weight", "model.1.bias", "model.3.weight", "model.3.bias"][: 2 if run.cut else 4]
        expected = run.plain_gradients(update)
        assert list(update.gradients) == held
        for name, gradient in update.gradients.items():
            assert float(expected[name].abs().max()) > 1e-3
            assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["momentum", "Nesterov"])
def test_clients_that_forget_their_state_show_their_gradient_in_the_step(optimizer):
    run = Run("fedavg", optimizer, 3, client_optimizer_state="reset")

    for update in run.updates():
        expected = run.plain_gradients(update)
        assert all(torch.allclose(expected[name], found, atol=1e-5) for name, found in update.gradients.items())
        assert len(update.gradients) == 4


@pytest.mark.parametrize("optimizer", ["momentum", "AdamW"])
def test_clients_that_keep_their_state_show_no_gradient(optimizer):
    """Regression: from the second round on, a step of η·(μm + g) was taken for one of η·g."""
    for update in Run("fedavg", optimizer, 2, client_optimizer_state="keep").updates():
        assert update.gradients == {}
        assert update.before.keys() == update.after.keys()


def test_several_steps_of_a_round_show_weights_and_no_gradient():
    run = Run("fedavg", "SGD", 2, aggregate_every=2)

    for update in run.updates():
        assert update.gradients == {}
        assert len(run.log.worked_on(update.client, update.round)) == 2
        assert not torch.equal(update.before["model.1.weight"], update.after["model.1.weight"])


def test_encoded_updates_are_added_to_what_was_broadcast():
    """Regression: an encoded update is the difference to the broadcast, and was taken for the weights.

    8 bits leave 255 steps over the range of the difference −η·(g + λθ): off by half a step, g is off by range/510/η.
    """
    run = Run("fedavg", "SGD", 2, codecs={"client_update": [NearestUniform(bits=8)]})

    for update in run.updates():
        expected = run.plain_gradients(update)
        assert len(update.gradients) == 4
        for name, gradient in update.gradients.items():
            steps = expected[name] + 0.01 * update.before[name]
            half_a_step = float(steps.max() - steps.min()) / 510
            assert float((gradient - expected[name]).abs().max()) < 1.02 * half_a_step + 1e-5
            assert torch.allclose(update.after[name], update.before[name], atol=0.1)


def test_who_does_not_know_how_clients_step_reads_no_gradient():
    run = Run("fedavg", "SGD", 1)

    assert [update.gradients for update in run.updates(NETWORK_OBSERVER)] == [{}, {}]
    assert all(update.after for update in run.updates(NETWORK_OBSERVER))


def test_who_does_not_see_the_states_reads_no_gradient_off_momentum():
    """Regression: without the states, a later step of momentum was read as if it were a first one."""
    blind = threat_model(MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE, knows=FED_SERVER.knows)

    assert [update.gradients for update in Run("fedavg", "momentum", 2).updates(blind)] == [{}, {}]
    assert all(len(update.gradients) == 4 for update in Run("fedavg", "SGD", 2).updates(blind))


def test_running_statistics_are_no_parameters_and_have_no_gradient():
    """They cross in the updates, and move as if they had one."""
    module = Classifier(nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten()), OPTIMIZERS["SGD"])
    template = (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    log = HandMadeLog()
    for kind in (MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE):
        log.add(kind, module.state_dict(), client=0, round=0, step=0, cut=None)
    background = Background(
        program=lambda _: Program(module, None, template),
        space=SPACE,
        optimizer=LocalOptimizer.of(OPTIMIZERS["SGD"](module.parameters())),
    )

    (update,) = last_updates(attacker_of(log, FED_SERVER, background, cut=None))

    assert update.after.keys() == module.state_dict().keys()
    assert update.gradients.keys() == dict(module.named_parameters()).keys()


# Which updates

WEIGHTS_ONLY = threat_model(MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE)


def filled() -> HandMadeLog:
    """Client 0 sends updates in rounds 0 and 1, client 2 in round 0 only; client 1's followed no broadcast."""
    log = HandMadeLog()
    for client, round in ((2, 0), (0, 0), (0, 1)):
        sent = 10.0 * client + round
        log.add(MessageKind.BROADCAST, {"w": torch.tensor([sent])}, client=client, round=round, step=round)
        log.add(MessageKind.CLIENT_UPDATE, {"w": torch.tensor([-sent])}, client=client, round=round, step=round)
    log.add(MessageKind.CLIENT_UPDATE, {"w": torch.tensor([5.0])}, client=1, round=0, step=0)
    log.add(MessageKind.CLIENT_UPDATE, {"w": torch.tensor([5.0])}, client=2, round=5, step=0)
    log.add(MessageKind.BROADCAST, {"w": torch.tensor([5.0])}, client=2, round=6, step=0)
    return log


def test_of_every_client_the_newest_update_that_follows_a_broadcast_is_taken():
    found = last_updates(attacker_of(filled(), WEIGHTS_ONLY))

    assert [(update.client, update.round, update.number) for update in found] == [(0, 1, 5), (2, 0, 1)]
    for update in found:
        assert update.cut == "front"
        assert update.before["w"].item() == -update.after["w"].item() == 10 * update.client + update.round


@pytest.mark.parametrize(("clients", "expected"), [(None, [0, 2]), (1, [0]), (5, [0, 2])])
def test_no_more_clients_than_asked_for(clients, expected):
    assert [update.client for update in last_updates(attacker_of(filled(), WEIGHTS_ONLY), clients)] == expected


@pytest.mark.parametrize("kind", [None, MessageKind.CLIENT_UPDATE, MessageKind.BROADCAST])
def test_a_log_without_an_update_after_a_broadcast_is_refused(kind):
    log = HandMadeLog()
    if kind is not None:
        log.add(kind, {"w": torch.zeros(1)}, client=0, round=0, step=0)

    with pytest.raises(UnavailableError, match="no client update that follows a broadcast"):
        last_updates(attacker_of(log, WEIGHTS_ONLY))


def test_updates_of_another_cut_are_passed_over():
    with pytest.raises(UnavailableError):
        last_updates(attacker_of(filled(), WEIGHTS_ONLY, cut="elsewhere"))
