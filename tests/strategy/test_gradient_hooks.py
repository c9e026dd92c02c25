"""Hooks that look at gradients, with several clients: they run for every party, and show its gradients alone."""

import pytest
import torch
from sfl_models import MLP, Classifier, fit, mlp, sgd
from torch.nn.functional import cross_entropy

from lightning_sfl import SplitFederatedStrategy


class Looks(Classifier):
    """Notes, at both hooks, which gradients there are."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.seen: dict[str, list[dict[str, torch.Tensor]]] = {"backward": [], "step": []}

    def look(self, hook):
        self.seen[hook].append({n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None})

    def on_after_backward(self):
        self.look("backward")

    def on_before_optimizer_step(self, optimizer):
        self.look("step")


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "fedavg"])
def test_gradient_hooks_run_once_per_party_and_see_its_gradients_alone(algorithm):
    """Clients of 3 and 1 samples. A client's gradient is that of its own mean loss, whatever its weight.

    A shared server's is the mean of 3/4 and 1/4. Where there is none, the trainer's own step has nothing to show.
    """
    torch.manual_seed(0)
    module = Looks(mlp(), sgd, schedule=False)
    start = Classifier(mlp(), sgd, schedule=False)
    start.load_state_dict(module.state_dict())
    parts = [[0, 1, 2], [3]]
    cut = None if algorithm == "fedavg" else "model.2"
    used = SplitFederatedStrategy(cut=cut, algorithm=algorithm, num_clients=2, partition=parts, batch_size=3)
    fit(module, MLP.loader(4, 3), used, max_epochs=1)

    data, own = MLP.dataset(4), []
    names = [name for name, _ in start.named_parameters()]
    for part in parts:
        loss = cross_entropy(start.model(data.images[part]), data.targets[part])
        own.append(dict(zip(names, torch.autograd.grad(loss, list(start.parameters())), strict=True)))
    front, back = names[:2], names[2:]
    client = [{name: gradients[name] for name in front} for gradients in own]
    replica = [{name: gradients[name] for name in back} for gradients in own]
    expected = {
        "splitfed_shared": [{name: 0.75 * own[0][name] + 0.25 * own[1][name] for name in back}, *client],
        "splitfed_v1": [client[0], replica[0], client[1], replica[1]],
        "fedavg": own,
    }[algorithm]
    for seen in module.seen.values():
        assert len(seen) == len(expected)
        for found, right in zip(seen, expected, strict=True):
            assert found.keys() == right.keys()
            for name, gradient in right.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "fedavg"])
def test_a_client_that_skips_a_step_has_no_gradients_to_show(algorithm):
    """Client 1 of 2 skips the one step: the hooks run for the other's parties, a shared server's among them."""

    class Skips(Looks):
        def training_step(self, batch, batch_idx):
            return None if len(batch[1]) == 1 else super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    module = Skips(mlp(), sgd, schedule=False)
    cut = None if algorithm == "fedavg" else "model.2"
    parts = [[0, 1, 2], [3]]
    used = SplitFederatedStrategy(cut=cut, algorithm=algorithm, num_clients=2, partition=parts, batch_size=3)
    fit(module, MLP.loader(4, 3), used, max_epochs=1)
    for seen in module.seen.values():
        assert len(seen) == (1 if algorithm == "fedavg" else 2)
        assert all(seen)
