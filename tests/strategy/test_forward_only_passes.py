"""What a client's passes without a backward pass do to the module, and what is refused."""

import math

import lightning.pytorch as pl
import pytest
import torch
from round_cases import PARTS, Loses, data, descent, momentum, network, train
from sfl_models import Classifier, quiet_trainer, same
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.algorithms import HERONSFL, HOSFL, HOSL, ZOSFL
from lightning_sfl.link.message import MessageKind

ALL = pytest.mark.parametrize("algorithm", [HOSFL, HOSL, ZOSFL])

# Lightning says so where a whole step is left out.
pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")


@ALL
def test_running_statistics_of_clients_stay_as_they_are(algorithm):
    """The norm before the cut is in evaluation mode, the one behind it trains, unless nobody backpropagates."""
    modes = []

    class Looks(Classifier):
        def training_step(self, batch, batch_idx):
            if self is module:  # and not a copy that tells whose is what
                modes.append((self.model[1].training, self.model[4].training))
            return super().training_step(batch, batch_idx)

    module = Looks(network(), descent, schedule=False)
    run = train(algorithm=algorithm(probes=1), module=module, steps=2)
    start, trains = network().state_dict(), algorithm is not ZOSFL
    assert torch.equal(run.weights["1.running_mean"], start["1.running_mean"])
    assert torch.equal(run.weights["4.running_mean"], start["4.running_mean"]) is not trains
    # One pass of each of three clients in two steps trains the server's; passes with weights moved leave no trace.
    assert int(run.weights["4.num_batches_tracked"]) == (6 if trains else 0)
    assert set(modes) == {(False, trains)}
    assert run.module.model[1].training
    assert run.module.model[4].training


@ALL
def test_random_draws_are_the_same_in_all_passes_and_as_many_as_in_one(algorithm):
    """A mask of its own in every pass would make scalars of the size of the loss, not of μ = 1e-6 times a slope.

    Data, masks and whatever comes afterwards are drawn as in first-order split federated learning.
    """

    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()

    ends = []
    for each in (algorithm(probes=3, mu=1e-6), "splitfed_shared"):
        run = train("model.2", algorithm=each, module=Classifier(net(), descent, schedule=False), steps=4)
        ends.append((run.asks.steps, torch.rand(1)))
    assert ends[0] == ends[1]
    run = train("model.2", algorithm=algorithm(probes=3, mu=1e-6), module=Classifier(net(), descent, schedule=False))
    scalars = [m.tensors["scalars"] for m in run.log.messages(kinds=[MessageKind.SCALARS])]
    assert max(float(each.abs().max()) for each in scalars) / 1e-6 < 50


class Counts(nn.Module):
    """Goes by how often it has run."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        hidden = self.linear(x) * (1 + 0.1 * self.count)
        self.count += 1
        return hidden


@ALL
def test_all_passes_begin_with_the_same_buffers(algorithm):
    """A pass that went by what the one before has written would make scalars of its size, not of μ = 1e-6's."""
    torch.manual_seed(0)
    module = Classifier(nn.Sequential(Counts(), nn.Tanh(), nn.Linear(8, 3)).double(), descent, schedule=False)
    run = train("model.1", algorithm=algorithm(probes=3, mu=1e-6), module=module, steps=2)
    scalars = [m.tensors["scalars"] for m in run.log.messages(kinds=[MessageKind.SCALARS])]
    assert max(float(each.abs().max()) for each in scalars) / 1e-6 < 50
    assert float(run.weights["0.count"]) == 0


@ALL
def test_no_graph_is_recorded_of_a_clients_half(algorithm):
    seen = []

    class Looks(Classifier):
        def training_step(self, batch, batch_idx):
            hidden = self.model[:2](batch[0])
            if self is module:
                seen.append(hidden.requires_grad)
            return cross_entropy(self.model[3:](self.model[2](hidden)), batch[1])

    module = Looks(network(), descent, schedule=False)
    train(algorithm=algorithm(probes=2), module=module, steps=2)
    assert len(seen) > 10
    assert not any(seen)
    assert module.model[0].weight.requires_grad


def test_parties_are_clipped_each_by_its_own_norm():
    """Clients' and server's gradients reach the hooks one after the other, each to be clipped to a norm of 0.01."""
    norms = []

    class Looks(Classifier):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms.append((len(grads), float(torch.stack([grad.norm() for grad in grads]).norm())))

    module = Looks(network(), descent, schedule=False)
    train(algorithm="ho_sfl", module=module, steps=2, trainer_options={"gradient_clip_val": 0.01})
    assert [count for count, _ in norms] == [8, 3] * 2
    assert all(norm == pytest.approx(0.01, rel=1e-3) for _, norm in norms)


def test_gradient_hooks_see_the_clients_estimate_once_and_may_change_it():
    """Without the estimate the clients' weights stay as they were."""

    class Drops(Classifier):
        def on_after_backward(self):
            if self.model[0].weight.grad is not None:
                for layer in self.model[:3]:
                    for own in layer.parameters():
                        own.grad.zero_()

    run = train(algorithm="ho_sfl", module=Drops(network(), descent, schedule=False), steps=2)
    start = network().state_dict()
    assert torch.equal(run.weights["0.weight"], start["0.weight"])
    assert not torch.equal(run.weights["9.weight"], start["9.weight"])


def test_only_what_is_trained_is_moved():
    """Adapters before the cut: the frozen weights are never moved, and κ counts the adapters' numbers alone."""
    seen = []

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = nn.Linear(6, 8).requires_grad_(False)
            self.adapter = nn.Linear(6, 8, bias=False)

        def forward(self, x):
            if self is module.model[0]:
                seen.append((self.frozen.weight.clone(), self.adapter.weight.detach().clone()))
            return self.frozen(x) + self.adapter(x)

    torch.manual_seed(0)
    module = Classifier(nn.Sequential(Adapted(), nn.Tanh(), nn.Linear(8, 3)).double(), descent, schedule=False)
    train("model.1", algorithm=HOSFL(probes=3), module=module, steps=1, parts=[[*range(18)]])
    assert all(torch.equal(frozen, seen[0][0]) for frozen, _ in seen)
    assert len({float(adapter.sum()) for _, adapter in seen}) == 1 + 3  # as they are, and moved thrice


class Brittle(nn.Module):
    """No number once its weight has been moved."""

    def __init__(self, client_batch: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, dtype=torch.float64))
        self.client_batch = client_batch

    def forward(self, x):
        breaks = len(x) == self.client_batch and bool((self.weight != 1).any())
        return x * (self.weight * (math.nan if breaks else 1))


@pytest.mark.parametrize("nonfinite", ["error", "skip"])
def test_scalars_that_are_no_numbers(nonfinite):
    """Client 2 alone has batches of 2, and its half gives no numbers with weights moved; a rate of 0 moves nobody."""

    def still(parameters):
        return torch.optim.SGD(parameters, lr=0.0)

    module = Classifier(nn.Sequential(Brittle(2), nn.Linear(6, 3).double()), still, schedule=False)
    parts = [PARTS[0], PARTS[1], [12, 13]]
    if nonfinite == "error":
        with pytest.raises(ValueError, match=r"Client 2 has scalars of \[nan.*\] in step 0: .*nonfinite='skip'"):
            train("model.0", algorithm="ho_sfl", module=module, parts=parts)
        assert torch.equal(module.model[0].weight, torch.ones(6, dtype=torch.float64))
        return
    run = train("model.0", algorithm="ho_sfl", module=module, parts=parts, nonfinite="skip", steps=2)
    scalars = list(run.log.messages(kinds=[MessageKind.SCALARS]))
    assert {message.client for message in scalars if message.is_uplink} == {0, 1}
    assert {message.client for message in scalars if not message.is_uplink} == {0, 1, 2}
    assert all(bool(message.tensors["scalars"].isfinite().all()) for message in scalars)


@pytest.mark.parametrize("algorithm", [HOSFL, HOSL])
def test_a_client_whose_loss_is_no_number_leaves_no_statistics(algorithm):
    """Client 2 alone has batches of 2, and the server's norm sees them before the loss turns out to be none."""

    class Sees(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.nan if len(batch[0]) == 2 else 1)

    module, parts = Sees(network(), descent, schedule=False), [PARTS[0], PARTS[1], [12, 13]]
    run = train(algorithm=algorithm(probes=1), module=module, parts=parts, nonfinite="skip", steps=1)
    assert int(run.weights["4.num_batches_tracked"]) == 2


def test_who_is_lost_after_its_forward_pass_leaves_no_statistics_and_no_graph():
    seen = []

    class Looks(Classifier):
        def training_step(self, batch, batch_idx):
            if self is module:
                seen.append(self.model[:2](batch[0]).requires_grad)
            return super().training_step(batch, batch_idx)

    module = Looks(network(), descent, schedule=False)
    lost = {(client, "after_forward", 0) for client in range(3)}
    run = train(algorithm="ho_sfl", module=module, attendance=Loses(lost), steps=1)
    assert seen == [False] * 3
    assert same(run.weights, network().state_dict())


def test_of_who_gets_no_answer_the_server_computes_no_more_losses():
    """HOSL's client 1 is lost after its smashed data: they have crossed once, and not for every move."""
    lost = {(1, "before_gradient", 0)}
    run = train(algorithm=HOSL(probes=2), attendance=Loses(lost), steps=1)
    sent = [message.client for message in run.log.messages(kinds=[MessageKind.SMASHED])]
    assert [sent.count(client) for client in range(3)] == [5, 1, 5]


def test_moves_that_change_nothing_are_warned_of():
    with pytest.warns(UserWarning, match="moving the clients' weights by mu=1e-40 changes nothing"):
        run = train(algorithm=HOSFL(mu=1e-40), steps=2, optimizer=momentum)
    start = network().state_dict()
    assert torch.equal(run.weights["0.weight"], start["0.weight"])


def test_when_no_scalar_arrives_clients_stay_as_they_are():
    lost = {(client, "before_upload", 0) for client in range(3)}
    run = train(algorithm="ho_sfl", steps=1, attendance=Loses(lost), optimizer=momentum)
    start = network().state_dict()
    assert torch.equal(run.weights["0.weight"], start["0.weight"])
    assert not torch.equal(run.weights["9.weight"], start["9.weight"])


class Headed(Classifier):
    """With an auxiliary head for a client that ends with the third layer."""

    def __init__(self) -> None:
        super().__init__(network(norm=False), descent, schedule=False)
        torch.manual_seed(1)
        self.auxiliary_head = nn.Linear(8, 3).double()

    def auxiliary_loss(self, batch, smashed):
        return cross_entropy(self.auxiliary_head(smashed), batch[1])


def test_the_auxiliary_heads_loss_trains_client_and_head():
    """One client, one step of SGD at 0.05 with P = 500: near the gradient of the head's loss, as in first order.

    No gradient comes back from the server, which is trained to the bit as in first order.
    """
    run = train(algorithm=HERONSFL(probes=500, mu=1e-4), module=Headed(), steps=1, parts=[[*range(18)]], batch_size=18)
    assert MessageKind.CUT_GRADIENT not in {message.kind for message in run.log.messages()}
    expected = Headed()
    x, y = data(18)
    x, y = x[list(run.asks.steps[0][0])], y[list(run.asks.steps[0][0])]
    expected.auxiliary_loss((x, y), expected.model[:3](x)).backward()
    pairs = []
    for name, own in expected.named_parameters():
        if own.grad is not None:
            pairs.append(((own - run.module.get_parameter(name)).detach() / 0.05, own.grad))
    assert len(pairs) == 4
    along = sum(float((a * b).sum()) for a, b in pairs) / sum(float((b * b).sum()) for _, b in pairs)
    assert abs(along - 1) < 5 * math.sqrt(2 / 500)
    first = train(module=Headed(), steps=1, parts=[[*range(18)]], batch_size=18)
    assert torch.equal(run.weights["9.weight"], first.weights["9.weight"])


def test_a_norm_in_the_auxiliary_head_goes_by_its_running_statistics():
    module = Headed()
    module.auxiliary_head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    train(algorithm="heron_sfl", module=module, steps=2)
    assert int(module.auxiliary_head[0].num_batches_tracked) == 0


def test_the_auxiliary_heads_loss_is_computed_in_the_trainers_precision():
    """In bfloat16 smashed data meet a head in single precision."""
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=3, algorithm=HERONSFL(mu=1e-2), partition=PARTS)
    x, y = data()
    module = Headed().float()
    before = module.auxiliary_head.weight.detach().clone()
    trainer = quiet_trainer(strategy=strategy, precision="bf16-mixed", max_steps=2)
    trainer.fit(module, DataLoader(TensorDataset(x.float(), y), batch_size=4))
    assert not torch.equal(module.auxiliary_head.weight, before)


def test_a_module_without_the_head_is_refused():
    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="submodule named 'auxiliary_head'"):
        train(algorithm="heron_sfl")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"probes": 0}, "probes=0 is not accepted: give an integer of at least 1"),
        ({"probes": 1.5}, "probes=1.5 is not accepted"),
        ({"probes": True}, "probes=True is not accepted"),
        ({"mu": 0}, "mu=0 is not accepted: give a finite number above 0"),
        ({"mu": -1e-3}, "mu=-0.001 is not accepted"),
        ({"mu": math.nan}, "mu=nan is not accepted"),
        ({"distribution": "uniform"}, "distribution='uniform' is not known. Accepted are 'gaussian', 'rademacher'"),
    ],
)
@ALL
def test_bad_hyper_parameters(algorithm, values, message):
    with pytest.raises(ValueError, match=message):
        algorithm(**values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": ("model.2", "model.5")}, "in a U-shape the client computes the loss and would have to backpropagate"),
        ({"server_batching": "merged"}, "server_batching='merged' does not go with algorithm='ho_sfl'"),
        ({"client_optimizer_state": "reset"}, "client_optimizer_state='reset' does not go with algorithm='ho_sfl'"),
        ({"client_optimizer_state": "keep"}, "Accepted is 'average'"),
    ],
)
def test_what_does_not_go_with_it(options, message):
    with pytest.raises(ValueError, match=message):
        SplitFederatedStrategy(**{"cut": "model.2", "algorithm": "ho_sfl", **options})


def test_a_loss_scaler_is_refused():
    """It would skip a step that clients have made."""
    plugin = pl.plugins.precision.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=3, algorithm="ho_sfl", partition=PARTS)
    trainer = quiet_trainer(strategy=strategy, plugins=[plugin], max_steps=1)
    loader = DataLoader(TensorDataset(*data()), batch_size=4)
    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="precision='16-mixed' does not go"):
        trainer.fit(Classifier(network().float(), descent), loader)


def test_in_bfloat16_scalars_are_made_in_single_precision():
    """The norm of a difference of bfloat16 numbers is kept; the run learns, and its scalars are float32."""

    def trained(precision):
        strategy = SplitFederatedStrategy(cut="model.2", num_clients=3, algorithm=HOSFL(mu=1e-2), partition=PARTS)
        x, y = data()
        module = Classifier(network(norm=False).float(), descent, schedule=False)
        trainer = quiet_trainer(strategy=strategy, precision=precision, max_steps=3)
        pl.seed_everything(1, verbose=False)
        trainer.fit(module, DataLoader(TensorDataset(x.float(), y), batch_size=4))
        return module.model.state_dict()

    half, single, start = trained("bf16-mixed"), trained("32-true"), network(norm=False).float().state_dict()
    assert not same(half, start)
    there, here = (torch.cat([(each[n] - start[n]).flatten() for n in start]) for each in (half, single))
    assert float(there @ here / there.norm() / here.norm()) > 0.9
