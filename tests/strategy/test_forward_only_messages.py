"""What crosses between server and clients that run forward only, and that it is all a client needs to keep up."""

import itertools
from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from round_cases import Loses, adamw, descent, network, train
from sfl_models import Classifier

from lightning_sfl.algorithms import HOSFL, HOSL, ZOSFL
from lightning_sfl.allocation import Allocation
from lightning_sfl.link.message import MessageKind
from lightning_sfl.zeroth_order.directions import Distribution
from lightning_sfl.zeroth_order.replica import ClientReplica

# Lightning says so where a whole step is left out.
pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")

MIXED = {0: "model.0", 1: "model.2", 2: "model.5"}


class Watches(pl.Callback):
    """Notes the weights and the learning rate of every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append({name: own.detach().clone() for name, own in pl_module.named_parameters()})


def tiers(cuts, client):
    """The parameters up to every cut that is not behind a client's own, by the nearest cut they lie before."""
    depths = sorted({int(cut.split(".")[1]) for cut in cuts.values()})
    own = int(cuts[client].split(".")[1])
    held, earlier = [], -1
    for depth in (depth for depth in depths if depth <= own):
        names = [f"model.{name}" for name, _ in network().named_parameters()]
        held.append([name for name in names if earlier < int(name.split(".")[1]) <= depth])
        earlier = depth
    return held


def follow(run, watches, client, cuts, make, *, mu, distribution):
    """Make a client's weights anew from its messages, and compare with the run's at every step it was told of.

    Returns:
        How many steps it was told of as they happened, and how many it made up for.
    """
    module = Classifier(network(), make, schedule=False)
    optimizer = make(module.parameters())
    names = tiers(cuts, client)
    replica = ClientReplica(module, names, optimizer, mu=mu, distribution=Distribution(distribution))
    told = sorted({m.step for m in run.log.messages(kinds=[MessageKind.SCALARS]) if not m.is_uplink})
    known, seeds, live, missed = 0, None, 0, 0
    for message in run.log.messages(client=client):
        if message.kind is MessageKind.SEEDS:
            seeds = message.tensors["seeds"]
        elif message.kind is MessageKind.MISSED_PAIRS:
            for one, scalars in zip(message.tensors["seeds"], message.tensors["scalars"], strict=True):
                optimizer.param_groups[0]["lr"] = watches.rates[told[known]]
                replica.catch_up(one[None], scalars[None])
                known, missed = known + 1, missed + 1
            assert told[known - 1] < message.step
        elif message.kind is MessageKind.SCALARS and not message.is_uplink:
            assert told[known] == message.step
            optimizer.param_groups[0]["lr"] = watches.rates[message.step]
            replica.follow(seeds, message.tensors["scalars"])
            known, live = known + 1, live + 1
            now = watches.weights[message.step]
            for name in (name for tier in names for name in tier):
                assert torch.equal(module.get_parameter(name), now[name]), (client, message.step, name)
    return live, missed


class Anneals(Classifier):
    """The learning rate changes in every step."""

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9), "interval": "step"}]


@pytest.mark.parametrize("distribution", list(Distribution))
@pytest.mark.parametrize("cuts", [dict.fromkeys(range(3), "model.2"), MIXED], ids=["one cut", "three cuts"])
@pytest.mark.parametrize("algorithm", [HOSFL, HOSL, ZOSFL])
def test_a_client_keeps_up_by_its_messages_alone_bit_for_bit(algorithm, cuts, distribution):
    """Clients drawn two at a time, AdamW at a rate that changes, some lost: each makes the weights all others have.

    It starts from the model all begin with, and replays what it missed whenever it takes part again.
    """
    lost = {(0, "before_gradient", 2), (1, "before_upload", 5), (2, "after_forward", 7), (2, "before_forward", 9)}
    watches = Watches()
    run = train(
        cuts,
        algorithm=algorithm(probes=2, distribution=distribution),
        module=Anneals(network(), adamw),
        callbacks=[watches],
        steps=16,
        aggregate_every=2,
        clients_per_round=2,
        attendance=Loses(lost),
    )
    counts = [follow(run, watches, client, cuts, adamw, mu=1e-3, distribution=distribution) for client in range(3)]
    assert sum(live for live, _ in counts) > 15
    assert sum(missed for _, missed in counts) > 8


def test_only_scalars_and_what_crosses_at_the_cut_are_sent():
    """Three clients with batches of 4 in double precision, a cut of 8 numbers, P = 5, every one in every step.

    In a step a client is sent 5 seeds of 64 bits, sends 4·8 numbers of 64 bits and 4 labels of 64 bits, is sent the
    gradient of the former, sends 5 scalars of 32 bits and is sent as many. Nothing else is sent in the whole run.
    """
    run = train(algorithm="ho_sfl", steps=4, parts=[[*range(8)], [*range(8, 16)], [*range(16, 24)]])
    expected = {
        (MessageKind.SEEDS, False): 5 * 64,
        (MessageKind.LABEL, True): 4 * 64,
        (MessageKind.SMASHED, True): 4 * 8 * 64,
        (MessageKind.CUT_GRADIENT, False): 4 * 8 * 64,
        (MessageKind.SCALARS, True): 5 * 32,
        (MessageKind.SCALARS, False): 5 * 32,
    }
    meter = run.trainer.strategy.link.meter
    for client in range(3):
        assert meter.payload_bit_of(client) == Counter({kind: 4 * bit for kind, bit in expected.items()})
    assert meter.total().messages == 4 * 3 * len(expected)


@pytest.mark.parametrize(("algorithm", "passes", "anchored"), [(HOSL, 7, True), (ZOSFL, 6, False)])
def test_of_the_full_loss_smashed_data_cross_for_every_move(algorithm, passes, anchored):
    """P = 3: two moves a direction, and once as they are where the server backpropagates; no gradient comes back."""
    run = train(algorithm=algorithm(probes=3), steps=1, parts=[[*range(4)]])
    counted = Counter((message.kind, message.is_uplink) for message in run.log.messages())
    expected = {"seeds": 1, "label": 1, "smashed": passes, "scalars": 1}
    assert {str(kind): count for (kind, _), count in counted.items()} == expected
    assert not any(message.is_uplink for message in run.log.messages(kinds=[MessageKind.SCALARS]))


def test_a_client_that_was_away_is_sent_a_dozen_bytes_a_probe_and_step():
    """One of three clients in every round of one step; what it missed has 64 + 32 bits a probe and step."""
    run = train(algorithm=HOSFL(probes=4), steps=12, aggregate_every=1, clients_per_round=1)
    last = dict.fromkeys(range(3), 0)  # steps there had been when it was last told
    for step, indices in enumerate(run.asks.steps):
        (client,) = indices
        sent = [m for m in run.log.messages(kinds=[MessageKind.MISSED_PAIRS], client=client) if m.step == step]
        assert sum(message.payload_bit for message in sent) == (step - last[client]) * 4 * (64 + 32)
        last[client] = step + 1


def test_frozen_clients_have_nothing_to_probe():
    """Neither seeds nor scalars nor a cut gradient cross, and only the server is trained."""
    module = Classifier(network(), descent, schedule=False)
    for name, own in module.named_parameters():
        own.requires_grad_(int(name.split(".")[1]) > 2)
    run = train(algorithm="ho_sfl", module=module, steps=2)
    assert {message.kind for message in run.log.messages()} == {MessageKind.LABEL, MessageKind.SMASHED}
    assert torch.equal(run.weights["0.weight"], network()[0].weight)
    assert not torch.equal(run.weights["9.weight"], network()[9].weight)


class Freezes(pl.Callback):
    """Freezes or unfreezes layers before the cut at the start of a step."""

    def __init__(self, step: int, *, trains: bool) -> None:
        self.step, self.trains = step, trains

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch.step == self.step:
            pl_module.model[:2].requires_grad_(self.trains)


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "unfrozen"])
@pytest.mark.parametrize("algorithm", [HOSFL, ZOSFL])
def test_who_was_away_is_sent_the_pairs_of_the_steps_in_which_its_layers_were_trained(algorithm, trains):
    """One of three clients in every round; the layers are trained before the sixth step, or from then on."""
    module = Classifier(network(), descent, schedule=False)
    module.model[:2].requires_grad_(not trains)
    run = train(
        algorithm=algorithm(probes=4),
        module=module,
        steps=16,
        aggregate_every=1,
        clients_per_round=1,
        callbacks=[Freezes(5, trains=trains)],
    )
    last = dict.fromkeys(range(3), 0)
    behind = []
    for step, indices in enumerate(run.asks.steps):
        (client,) = indices
        missed = sum((each >= 5) is trains for each in range(last[client], step))
        sent = [m for m in run.log.messages(kinds=[MessageKind.MISSED_PAIRS], client=client) if m.step == step]
        assert sum(message.payload_bit for message in sent) == missed * 4 * (64 + 32)
        behind.append(missed > 0 and step >= 5)
        last[client] = step + 1
    assert any(behind)


def test_layers_before_a_far_cut_are_trained_by_those_who_cut_nearer_too():
    """Client 0 has nothing to train and no scalars; of what it sends, the server has slopes for the others' layers."""
    module = Classifier(network(), descent, schedule=False)
    module.model[0].requires_grad_(False)
    watches = Watches()
    cuts = {0: "model.0", 1: "model.2", 2: "model.2"}
    run = train(
        cuts, algorithm="ho_sfl", module=module, steps=6, aggregate_every=1, attendance=Only(0), callbacks=[watches]
    )
    weights = [network()[1].weight, *(each["model.1.weight"] for each in watches.weights)]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(weights))
    assert not list(run.log.messages(kinds=[MessageKind.SCALARS]))


def test_means_do_not_depend_on_how_many_batches_are_accumulated():
    """The server's share in those of a far cut is of the client's own mean loss, as a client's is."""
    means = []
    for accumulates in (1, 2):
        options = {"accumulate_grad_batches": accumulates}
        run = train(MIXED, algorithm="ho_sfl", steps=1, trainer_options=options)
        told = run.log.messages(kinds=[MessageKind.SCALARS], client=2)
        means.append(next(message.tensors["scalars"] for message in told if not message.is_uplink))
    assert torch.equal(*means)


class Only:
    """Loses everybody else."""

    def __init__(self, client: int) -> None:
        self.client = client

    def is_lost(self, *, client: int, stage: str, round: int, step: int) -> bool:
        return client != self.client


@pytest.mark.parametrize(
    ("before", "after", "sent"),
    [
        ("model.0", "model.2", ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"]),
        ("model.2", "model.0", []),
    ],
    ids=["deeper", "shallower"],
)
def test_clients_that_come_to_hold_more_are_sent_it(before, after, sent):
    """A move after three steps. Whoever is up to date is sent the norm alone, and gives nothing back."""
    run = train(
        before, algorithm="ho_sfl", plan={2: Allocation(cut=[after] * 3)}, optimizer=descent, steps=6, aggregate_every=1
    )
    moved = list(run.log.messages(kinds=[MessageKind.MOVED_LAYERS, MessageKind.MISSED_PAIRS]))
    assert [sorted(message.tensors) for message in moved] == [[f"model.1.{name}" for name in sent]] * (3 if sent else 0)
    assert all(message.sender == "server" for message in moved)


def test_layers_that_the_server_has_trained_and_frozen_are_sent_too():
    """The second layer is the server's for two steps, is frozen then, and comes to lie before the cut."""

    class Freezes(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                pl_module.model[3].requires_grad_(False)
                trainer.strategy.allocate(Allocation(cut=["model.3"] * 3))

    run = train("model.0", algorithm="ho_sfl", callbacks=[Freezes()], optimizer=descent, steps=4, aggregate_every=1)
    moved = list(run.log.messages(kinds=[MessageKind.MOVED_LAYERS]))
    assert len(moved) == 3
    assert all("model.3.weight" in message.tensors for message in moved)


def test_pairs_that_everybody_has_are_not_kept():
    """All three clients in every step, and one of three: what all have is let go of."""
    for per_round, least, most in ((3, 0, 0), (1, 1, 19)):
        run = train(algorithm="ho_sfl", steps=20, aggregate_every=1, clients_per_round=per_round)
        kept = run.trainer.strategy._steps.state_dict()["history"]["seeds"]
        assert least <= (0 if kept is None else len(kept)) <= most


def test_clients_that_are_behind_when_cuts_move_are_sent_their_weights():
    """One of three clients in every round: at the move after four steps only the last one is up to date."""
    watches = Watches()
    run = train(
        "model.0",
        algorithm="ho_sfl",
        plan={3: Allocation(cut=["model.2"] * 3)},
        optimizer=descent,
        steps=20,
        aggregate_every=1,
        clients_per_round=1,
        callbacks=[watches],
    )
    seen: set[int] = set()
    (last,) = run.asks.steps[3]
    for step in range(4, 20):
        (client,) = run.asks.steps[step]
        sent = {m.kind: m for m in run.log.messages(client=client) if m.step == step}
        if client in seen:
            assert MessageKind.MOVED_LAYERS not in sent
        else:
            moved = sent[MessageKind.MOVED_LAYERS].tensors
            assert ("model.0.weight" in moved) is (client != last)
            before = watches.weights[step - 1]
            assert all(torch.equal(moved[name], before[name]) for name in moved if name in before)
        seen.add(client)
    assert seen == {0, 1, 2}
