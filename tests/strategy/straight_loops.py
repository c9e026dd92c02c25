"""Split federated learning as its papers write it, in plain PyTorch, loop by loop.

Nothing here knows the library that is judged by it. Client and server are networks of their own; at the cut the smashed
data are detached and the gradient is handed back. Each loop takes the two halves of one initial model and returns the
global model's weights and buffers, named as in the whole.

* SplitFed-V1 and V2: Thapa, Chamikara, Camtepe, Sun, arXiv 2004.12088, algorithms 1 and 2, section 3.4.
* Shared server: AdaptSFL (arXiv 2403.13101) and HASFL (arXiv 2506.08426), section 2.
* Split learning with a relay of weights: Gupta and Raskar, arXiv 1810.06060, section 3.3.
* FedAvg: McMahan and others, arXiv 1602.05629, algorithm 1.
"""

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

Step = dict[int, tuple[int, ...]]
"""The places of the samples of each client that has a batch."""


class Fault(StrEnum):
    """What the SplitFed authors' released code does otherwise than their paper, to be put into a loop on purpose."""

    SERVER_OPTIMIZER_PER_BATCH = "the server's optimizer is made anew for every batch, so moments never build up"
    LATE_SERVER_MEAN = "server replicas are averaged when every registered client has been there, over mixed rounds"
    UNWEIGHTED_MEAN = "clients are averaged without weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What the loops are told.

    Attributes:
        images: All samples.
        labels: Their labels.
        steps: Which clients have which samples in which step.
        held: How many samples each client holds.
        clients_per_round: How many take part in a round.
        every: Steps of each participant between two averagings.
        optimizer: Makes an optimizer.
        weighting: "samples" (processed since the last averaging), "data" (held) or "uniform".
        state: What becomes of optimizer state at an averaging: "average", "reset" or "keep".
        fault: Put in on purpose.
    """

    images: Tensor
    labels: Tensor
    steps: list[Step]
    held: list[int]
    clients_per_round: int
    every: int
    optimizer: Callable[..., Optimizer]
    weighting: str
    state: str
    fault: Fault | None = None

    def batch(self, indices: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return self.images[list(indices)], self.labels[list(indices)]

    def rounds(self, steps_per_round: int) -> Iterator[list[Step]]:
        for start in range(0, len(self.steps), steps_per_round):
            yield self.steps[start : start + steps_per_round]

    def shares(self, samples: dict[int, int]) -> dict[int, float]:
        """Weights of clients in an averaging after which each has processed so many samples."""
        if self.weighting == "uniform" or self.fault is Fault.UNWEIGHTED_MEAN:
            return {client: 1 / len(samples) for client in samples}
        counts = {client: self.held[client] for client in samples} if self.weighting == "data" else samples
        return {client: count / sum(counts.values()) for client, count in counts.items()}

    def loss_shares(self, step: Step) -> dict[int, float]:
        """Weights of clients in the loss of a server that steps for all of them at once."""
        sizes = {client: 1 if self.weighting == "uniform" else len(indices) for client, indices in step.items()}
        return {client: size / sum(sizes.values()) for client, size in sizes.items()}


class Party:
    """A network with an optimizer of its own."""

    def __init__(self, job: Job, network: nn.Sequential, state: dict | None = None) -> None:
        self.make_optimizer = job.optimizer
        self.network = copy.deepcopy(network)
        self.optimizer = job.optimizer(self.network.parameters())
        if state:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": copy.deepcopy(state), "param_groups": groups})

    def make_optimizer_anew(self) -> None:
        self.optimizer = self.make_optimizer(self.network.parameters())

    def state(self) -> dict:
        """Optimizer state by the parameter's number."""
        return copy.deepcopy(self.optimizer.state_dict()["state"])


class FedServer:
    """Hands a model out to clients, and averages what comes back."""

    def __init__(self, job: Job, network: nn.Sequential) -> None:
        self.job = job
        self.network = copy.deepcopy(network)
        self.state: dict = {}
        self.kept: dict[int, dict] = {}

    def hand_out(self, client: int) -> Party:
        if self.job.state == "average":
            return Party(self.job, self.network, self.state)
        if self.job.state == "keep":
            return Party(self.job, self.network, self.kept.get(client))
        return Party(self.job, self.network)

    def take_in(self, parties: dict[int, Party], shares: dict[int, float]) -> None:
        networks = {client: party.network.state_dict() for client, party in parties.items()}
        self.network.load_state_dict(mean(networks, shares))
        states = {client: party.state() for client, party in parties.items()}
        if self.job.state == "average":
            numbers = next(iter(states.values()))
            self.state = {number: mean({c: states[c][number] for c in states}, shares) for number in numbers}
        self.kept.update(states)


def mean(tensors: dict[int, dict[str, Tensor]], shares: dict[int, float]) -> dict[str, Tensor]:
    """Weighted means by name; the largest of what counts something."""
    found = {}
    for name, first in next(iter(tensors.values())).items():
        own = {client: tensors[client][name] for client in tensors}
        if name == "step" or not first.is_floating_point():
            found[name] = torch.stack(list(own.values())).amax(0)
        else:
            found[name] = torch.stack([own[client] * shares[client] for client in own]).sum(0)
    return found


def whole(client: nn.Sequential, server: nn.Sequential) -> dict[str, Tensor]:
    return nn.Sequential(*client, *server).state_dict()


def split_step(job: Job, client: Party, server: Party, indices: tuple[int, ...]) -> None:
    """One batch of one client, with a server that steps for it alone."""
    images, labels = job.batch(indices)
    smashed = client.network(images)
    received = smashed.detach().requires_grad_()
    loss = cross_entropy(server.network(received), labels)
    if job.fault is Fault.SERVER_OPTIMIZER_PER_BATCH:
        server.make_optimizer_anew()
    server.optimizer.zero_grad()
    loss.backward()
    server.optimizer.step()
    client.optimizer.zero_grad()
    smashed.backward(received.grad)
    client.optimizer.step()


def splitfed_v1(job: Job, client: nn.Sequential, server: nn.Sequential) -> dict[str, Tensor]:
    """Every participant trains with a server replica of its own; both are averaged at the end of the round."""
    if job.fault is Fault.LATE_SERVER_MEAN:
        return splitfed_v1_with_late_mean(job, client, server)
    fed, main = FedServer(job, client), FedServer(job, server)
    for steps in job.rounds(job.every):
        clients = {number: fed.hand_out(number) for number in steps[0]}
        replicas = {number: main.hand_out(number) for number in steps[0]}
        samples = Counter()
        for step in steps:
            for number, indices in step.items():
                split_step(job, clients[number], replicas[number], indices)
                samples[number] += len(indices)
        fed.take_in(clients, job.shares(samples))
        main.take_in(replicas, job.shares(samples))
    return whole(fed.network, main.network)


def splitfed_v1_with_late_mean(job: Job, client: nn.Sequential, server: nn.Sequential) -> dict[str, Tensor]:
    """Replicas stand where their clients left them until all registered clients have been there.

    Everything else is as in the paper, so that this fault is seen by itself.
    """
    fed, main = FedServer(job, client), FedServer(job, server)
    replicas = {number: main.hand_out(number) for number in range(len(job.held))}
    collected: dict[int, Party] = {}
    samples_collected = Counter()
    for steps in job.rounds(job.every):
        clients = {number: fed.hand_out(number) for number in steps[0]}
        samples = Counter()
        for step in steps:
            for number, indices in step.items():
                split_step(job, clients[number], replicas[number], indices)
                samples[number] += len(indices)
        fed.take_in(clients, job.shares(samples))
        samples_collected += samples
        collected |= {number: replicas[number] for number in steps[0]}
        if len(collected) == len(job.held):
            main.take_in(collected, job.shares(samples_collected))
            replicas = {number: main.hand_out(number) for number in range(len(job.held))}
            collected, samples_collected = {}, Counter()
    return whole(fed.network, main.network)


def splitfed_v2(job: Job, client: nn.Sequential, server: nn.Sequential) -> dict[str, Tensor]:
    """The server trains on one client after the other; the clients are averaged at the end of the round."""
    fed, main = FedServer(job, client), Party(job, server)
    for steps in job.rounds(job.every * job.clients_per_round):
        clients: dict[int, Party] = {}
        samples = Counter()
        for start in range(0, len(steps), job.every):  # each client has all its batches before the next one
            (number,) = steps[start]
            clients[number] = fed.hand_out(number)
            for step in steps[start : start + job.every]:
                split_step(job, clients[number], main, step[number])
                samples[number] += len(step[number])
        fed.take_in(clients, job.shares(samples))
    return whole(fed.network, main.network)


def split_learning(job: Job, client: nn.Sequential, server: nn.Sequential) -> dict[str, Tensor]:
    """One set of client weights goes from holder to holder. Nothing is averaged."""
    held, main = Party(job, client), Party(job, server)
    kept: dict[int, dict] = {}
    for steps in job.rounds(job.every):
        (holder,) = steps[0]
        if job.state != "average":  # the optimizer's state does not go along with the weights
            held = Party(job, held.network, kept.get(holder) if job.state == "keep" else None)
        for step in steps:
            split_step(job, held, main, step[holder])
        kept[holder] = held.state()
    return whole(held.network, main.network)


def splitfed_shared(job: Job, client: nn.Sequential, server: nn.Sequential) -> dict[str, Tensor]:
    """One server, stepped on the weighted mean loss of all participants. A client's gradient is of its own loss."""
    fed, main = FedServer(job, client), Party(job, server)
    for steps in job.rounds(job.every):
        clients = {number: fed.hand_out(number) for number in steps[0]}
        samples = Counter()
        for step in steps:
            shares = job.loss_shares(step)
            smashed: dict[int, Tensor] = {}
            received: dict[int, Tensor] = {}
            loss = torch.zeros((), dtype=torch.float64)
            for number, indices in step.items():
                images, labels = job.batch(indices)
                smashed[number] = clients[number].network(images)
                received[number] = smashed[number].detach().requires_grad_()
                loss = loss + shares[number] * cross_entropy(main.network(received[number]), labels)
                samples[number] += len(indices)
            main.optimizer.zero_grad()
            loss.backward()
            main.optimizer.step()
            for number in step:
                clients[number].optimizer.zero_grad()
                smashed[number].backward(received[number].grad / shares[number])
                clients[number].optimizer.step()
        fed.take_in(clients, job.shares(samples))
    return whole(fed.network, main.network)


def fedavg(job: Job, client: nn.Sequential, server: nn.Sequential) -> dict[str, Tensor]:
    """Every participant trains the whole model."""
    fed = FedServer(job, nn.Sequential(*client, *server))
    for steps in job.rounds(job.every):
        clients = {number: fed.hand_out(number) for number in steps[0]}
        samples = Counter()
        for step in steps:
            for number, indices in step.items():
                images, labels = job.batch(indices)
                clients[number].optimizer.zero_grad()
                cross_entropy(clients[number].network(images), labels).backward()
                clients[number].optimizer.step()
                samples[number] += len(indices)
        fed.take_in(clients, job.shares(samples))
    return fed.network.state_dict()


LOOPS = {
    "splitfed_shared": splitfed_shared,
    "splitfed_v1": splitfed_v1,
    "splitfed_v2": splitfed_v2,
    "split_learning": split_learning,
    "fedavg": fedavg,
}
