"""A small module, and federations of it to be opened, trained and closed."""

import copy

import torch
from torch import nn
from torch.optim import SGD

from lightning_sfl.algorithms.aggregation import Aggregation, ClientOptimizerState, Weighting
from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.algorithms.placement import Owned, Placement, Placements
from lightning_sfl.link.link import LocalLink


class Tiny(nn.Module):
    """Two layers; the lower one counts its calls by assignment, and has statistics."""

    def __init__(self):
        super().__init__()
        self.lower = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.upper = nn.Linear(3, 1)
        self.register_buffer("calls", torch.zeros(2))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.upper(self.norm(self.lower(x)))


LOWER = Owned(
    parameters=("lower.weight", "lower.bias", "norm.weight", "norm.bias"),
    buffers=("norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "calls"),
)
UPPER = Owned(parameters=("upper.weight", "upper.bias"))
REPLICAS = Placement(client=LOWER, replica=UPPER, has_common=False)
ALL = Placement(
    client=Owned(parameters=(*LOWER.parameters, *UPPER.parameters), buffers=LOWER.buffers),
    replica=Owned(),
    has_common=False,
)
SHARED = Placement(client=LOWER, replica=Owned(), has_common=True)


def sgd(module):
    return SGD(module.parameters(), lr=0.1, momentum=0.9)


HELD = (5, 10, 5, 20)


def make(placement=REPLICAS, optimizer=sgd, log=None, weighting="samples", state="average"):
    torch.manual_seed(0)
    module = Tiny().double()
    user = optimizer(module)
    aggregation = Aggregation(
        weighting=Weighting(weighting),
        client_optimizer_state=ClientOptimizerState(state),
        client_samples=HELD.__getitem__,
    )
    placements = Placements(by_cut={"norm": placement}, cut_of=lambda client: "norm")
    return module, user, Federation(module, user, placements, LocalLink(log), aggregation)


def batch_of(client, step, rows=4):
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(100 * client + step))


def train(module, optimizer, x):
    """A step of plain training."""
    optimizer.zero_grad()
    module(x).square().mean().backward()
    optimizer.step()


def local_step(module, federation, client, x):
    """A step of one participant."""
    with federation.installed(client):
        module(x).square().mean().backward()
    participant = federation.participants[client]
    participant.samples += len(x)
    for party in participant.parties:
        party.step()


def weights_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def state_of(module, optimizer):
    """The optimizer's state by parameter name, copied."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[parameter]: copy.deepcopy(dict(state)) for parameter, state in optimizer.state.items()}


def assert_identical(tensors, others):
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        if isinstance(value, dict):
            assert_identical(value, others[name])
        else:
            assert torch.equal(value, others[name]), name
