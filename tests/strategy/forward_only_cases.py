"""Clients that run forward only, written down once more as a plain loop that knows nothing of the strategy.

All clients' weights are one set of tensors here, gradients are put together by the design's definition, and one
optimizer of torch steps them all. The only thing shared with the library is what a seed's numbers are.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from round_cases import Run, data, network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sfl.zeroth_order.directions import Distribution, direction, draw_seeds


def moved(net: nn.Sequential, places: range, seed: int, distance: float, kind: Distribution) -> nn.Sequential:
    """A copy of a network with the parameters of some of its layers moved along a direction."""
    there = copy.deepcopy(net)
    order = {name: place for place, (name, _) in enumerate(net.named_parameters())}
    with torch.no_grad():
        for name, own in there.named_parameters():
            if int(name.split(".")[0]) in places:
                own += distance * direction(own, order[name], seed, kind)
    return there


def run_half(net: nn.Sequential, first: int, last: int, x: Tensor) -> Tensor:
    for layer in net[first:last]:
        x = layer(x)
    return x


def straight(
    run: Run,
    optimizer: Callable,
    cuts: Mapping[int, int],
    *,
    probes: int,
    mu: float,
    kind: str = "gaussian",
    uniform: bool = False,
    norm: bool = True,
    silent: Callable[[int, int], bool] = lambda client, step: False,
    surrogate: str = "cut_gradient",
) -> dict[str, Tensor]:
    """The weights that a run ends with.

    Args:
        run: The run, for the samples of its steps.
        optimizer: Makes the optimizer.
        cuts: How many layers lie before each client's cut.
        probes: P.
        mu: μ.
        kind: What directions are drawn from.
        uniform: Whether clients count alike.
        norm: Whether the network has norms.
        silent: Whether the server has no scalars of a client in a step.
        surrogate: ``"cut_gradient"`` (HO-SFL), ``"full_loss"`` (HOSL) or ``"both"`` (ZO-SFL).
    """
    drawn, (images, labels), net = Distribution(kind), data(18), network(norm=norm)
    held, depth = sorted(set(cuts.values())), max(cuts.values())
    for layer in net[: len(net) if surrogate == "both" else depth]:
        layer.eval()  # running statistics stay those of the start
    stepped = optimizer(net.parameters())
    for step, indices in enumerate(run.asks.steps):
        if not indices:
            continue
        seeds = draw_seeds(0, step, probes).tolist()
        share = {client: 1.0 if uniform else float(len(own)) for client, own in indices.items()}
        first_order = {client: {} for client in indices}
        scalars = {}
        for client, own in indices.items():
            x, y, cut = images[list(own)], labels[list(own)], cuts[client]

            def loss_at(where, x=x, y=y):
                statistics = copy.deepcopy(where)  # of these passes nothing stays
                return float(cross_entropy(statistics(x), y).detach())

            if surrogate != "both":
                z = run_half(net, 0, cut, x).detach().requires_grad_()
                parameters = [p for layer in net[cut:] for p in layer.parameters()]
                *gradients, lam = torch.autograd.grad(
                    cross_entropy(run_half(net, cut, len(net), z), y), [*parameters, z]
                )
                first_order[client] = dict(zip(map(id, parameters), gradients, strict=True))
            if silent(client, step):
                continue
            reach = range(len(net)) if surrogate == "both" else range(cut)
            if surrogate == "cut_gradient":
                half = [run_half(moved(net, reach, s, mu, drawn), 0, cut, x) for s in seeds]
                scalars[client] = [float((lam * (there - z)).detach().sum()) for there in half]
            else:
                scalars[client] = [
                    (loss_at(moved(net, reach, s, mu, drawn)) - loss_at(moved(net, reach, s, -mu, drawn))) / 2
                    for s in seeds
                ]
        scalars = {client: torch.tensor(own).float().double() for client, own in scalars.items()}
        stepped.zero_grad()
        places = {name: place for place, (name, _) in enumerate(net.named_parameters())}
        layers = {name: int(name.split(".")[0]) for name in places}
        for begin, end in zip([0, *held], [*held, len(net)], strict=True):
            names = [name for name in places if begin <= layers[name] < end]
            u = {name: [direction(net.get_parameter(name), places[name], s, drawn) for s in seeds] for name in names}
            at_server = {}
            for name in names:
                sent = [
                    share[c] * grads[id(net.get_parameter(name))]
                    for c, grads in first_order.items()
                    if id(net.get_parameter(name)) in grads
                ]
                if sent:
                    at_server[name] = torch.stack(sent).sum(0)
            if begin >= depth and surrogate != "both":
                for name in names:
                    net.get_parameter(name).grad = at_server[name] / sum(share.values())
                continue
            holders = [c for c in scalars if surrogate == "both" or cuts[c] > begin]
            served = [c for c in indices if surrogate != "both" and cuts[c] <= begin]
            if not scalars:
                continue
            total = sum(share[c] for c in (*holders, *served))
            sums = [
                sum(share[c] * float(scalars[c][p]) for c in holders)
                + mu * sum(float((at_server[name] * u[name][p]).sum()) for name in at_server)
                for p in range(probes)
            ]
            mean = torch.tensor(sums) / total
            for name in names:
                slopes = (mean.float() / mu).tolist()
                gradient = torch.stack([slope / probes * own for slope, own in zip(slopes, u[name], strict=True)])
                net.get_parameter(name).grad = gradient.sum(0).double()
        stepped.step()
    return net.state_dict()
