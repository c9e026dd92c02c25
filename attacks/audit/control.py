"""Positive controls: a victim that an attack must succeed on, or its failure elsewhere means nothing."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from attacks.attacker import Background, Records
from attacks.audit.truth import RecordsAt
from attacks.images import ImageSpace
from attacks.local_optimizer import LocalOptimizer, Rule
from attacks.program import Program
from lightning_sfl.algorithms.ho_sfl import HOSFL
from lightning_sfl.cut.find import search
from lightning_sfl.link.log import MessageLog, Origin
from lightning_sfl.link.message import FED_SERVER, SERVER, Message, MessageKind, client_name
from lightning_sfl.zeroth_order.directions import Directions, Distribution

CLASSES = 10
_CLIENTS = 2
_ROUNDS = 2
_AUXILIARY = 64
_LEARNING_RATE = 0.1

MIX = "mix"
"""Cut behind an orthogonal mixing of the channels, which can be undone exactly."""
FIRST = "first"
"""Cut behind a fully connected layer, whose gradient shows a single input exactly."""
PROBED = "probed"
"""The same cut, of clients that run forward only and probe their weights along many directions."""
PROBES = 128
"""How many: the control's images have 25 degrees of freedom in every channel, so that these leave none open."""
_PROBING = HOSFL(probes=PROBES, mu=1e-3, distribution="rademacher")


class _Invertible(nn.Module):
    """An orthogonal 1x1 convolution, normalised if asked, a fully connected layer with biases, and a head."""

    def __init__(self, space: ImageSpace, draw: torch.Generator, *, normalised: bool) -> None:
        super().__init__()
        channels, height, width = space.shape_CHW
        with torch.device("meta"):
            self.mix = nn.Conv2d(channels, channels, 1, bias=False)
            self.flatten = nn.Flatten()
            self.first = nn.Linear(channels * height * width, 2 * CLASSES)
            self.head = nn.Linear(2 * CLASSES, CLASSES)
        self.to_empty(device="cpu")
        self.norm = nn.BatchNorm2d(channels) if normalised else nn.Identity()
        with torch.no_grad():
            basis = torch.linalg.qr(torch.randn(channels, channels, generator=draw))[0]
            self.mix.weight.copy_(basis[:, :, None, None])
            for layer in (self.first, self.head):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in layer.parameters():
                    parameter.copy_((2 * torch.rand(parameter.shape, generator=draw) - 1) * bound)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss: Tensor = cross_entropy(self.head(self.first(self.flatten(self.norm(self.mix(images)))).sigmoid()), labels)
        return loss


def smooth_images(space: ImageSpace, count: int, draw: torch.Generator) -> Tensor:
    """Unit images of smooth noise, with the full range of grey values in each: (B, C, H, W)."""
    channels, height, width = space.shape_CHW
    coarse = torch.rand(count, channels, 5, 5, generator=draw)
    fine = interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    low, high = fine.amin((2, 3), keepdim=True), fine.amax((2, 3), keepdim=True)
    return (fine - low) / (high - low).clamp_min(1e-6)


def control_run(
    space: ImageSpace, cut: str | None, *, normalised: bool = False, seed: int = 0
) -> tuple[MessageLog, Background, RecordsAt]:
    """Two rounds of two clients with the same record each: their log, what there is to know of it, and the records.

    Args:
        space: Where images lie: those of the real victim.
        cut: ``MIX``, ``FIRST``, ``PROBED``, or None for clients that hold the whole model.
        normalised: Whether it has a layer of batch normalisation; of whole models alone.
        seed: Seeds weights and images.
    """
    draw = torch.Generator().manual_seed(seed)
    module = _Invertible(space, draw, normalised=normalised)
    images = space.to_input(smooth_images(space, _CLIENTS + _AUXILIARY, draw))
    labels = torch.randint(CLASSES, (len(images),), generator=draw)
    template = (torch.zeros_like(images[:2]), torch.zeros(2, dtype=torch.int64))
    split = None if cut is None else search(module, template).cut(FIRST if cut == PROBED else cut).split
    log = MessageLog()
    play = _probe if cut == PROBED else _play
    for round in range(_ROUNDS):
        for client in range(_CLIENTS):
            own = slice(client, client + 1)
            play(log, module, cut, client, round, images[own], labels[own])
        log.note_step(round, {client: (client,) for client in range(_CLIENTS)})
    background = Background(
        program=lambda _: Program(module, split, template),
        space=space,
        auxiliary=Records(images_BCHW=images[_CLIENTS:], labels_B=labels[_CLIENTS:]),
        server_weights={name: parameter.detach() for name, parameter in module.named_parameters()},
        optimizer=LocalOptimizer(rule=Rule.SGD, learning_rate=_LEARNING_RATE),
        client_weights={name: parameter.detach() for name, parameter in module.named_parameters()},
        probing=_PROBING,
        batch_sizes=lambda client, round: (1,),
    )

    def records(indices: tuple[int, ...]) -> Records:
        return Records(images_BCHW=images[list(indices)], labels_B=labels[list(indices)])

    return log, background, records


def _play(
    log: MessageLog, module: _Invertible, cut: str | None, client: int, round: int, images: Tensor, labels: Tensor
) -> None:
    """The messages of one client's round of a single step of gradient descent."""
    running = {name: buffer.clone() for name, buffer in module.named_buffers()}
    mixed = module.mix(images)
    first = module.first(module.flatten(module.norm(mixed)))
    loss = cross_entropy(module.head(first.sigmoid()), labels)
    crossing = {MIX: mixed, FIRST: first}.get(cut or "")
    held = {MIX: ("mix.",), FIRST: ("mix.", "first.")}.get(cut or "", ("",))
    own = {name: parameter for name, parameter in module.named_parameters() if name.startswith(held)}
    gradients = torch.autograd.grad(loss, list(own.values()), retain_graph=True)
    before = {name: parameter.detach() for name, parameter in own.items()}
    after = {name: w - _LEARNING_RATE * g for (name, w), g in zip(before.items(), gradients, strict=True)}

    send = partial(_send, log, cut, client, round)
    send(MessageKind.BROADCAST, {**before, **running}, up=False, server=FED_SERVER)
    if crossing is not None:
        (cut_gradient,) = torch.autograd.grad(loss, [crossing])
        send(MessageKind.LABEL, {"1": labels}, up=True, server=SERVER)
        send(MessageKind.SMASHED, {"0": crossing.detach()}, up=True, server=SERVER)
        send(MessageKind.CUT_GRADIENT, {"0": cut_gradient}, up=False, server=SERVER)
    send(MessageKind.CLIENT_UPDATE, {**after, **dict(module.named_buffers())}, up=True, server=FED_SERVER)


def _probe(
    log: MessageLog, module: _Invertible, cut: str | None, client: int, round: int, images: Tensor, labels: Tensor
) -> None:
    """The messages of one client's step under HO-SFL."""
    directions = Directions(module, torch.arange(PROBES), Distribution(_PROBING.distribution))
    names = [name for name, _ in module.named_parameters() if name.startswith(("mix.", "first."))]
    here = module.first(module.flatten(module.mix(images))).detach().requires_grad_()
    (cut_gradient,) = torch.autograd.grad(cross_entropy(module.head(here.sigmoid()), labels), [here])
    scalars = []
    for probe in range(PROBES):
        with torch.no_grad(), directions.moved(names, probe, _PROBING.mu):
            there = module.first(module.flatten(module.mix(images)))
        scalars.append(((there - here.detach()) * cut_gradient).sum())
    send = partial(_send, log, FIRST, client, round)
    send(MessageKind.SEEDS, {"seeds": torch.arange(PROBES)}, up=False, server=SERVER)
    send(MessageKind.LABEL, {"1": labels}, up=True, server=SERVER)
    send(MessageKind.SMASHED, {"0": here.detach()}, up=True, server=SERVER)
    send(MessageKind.CUT_GRADIENT, {"0": cut_gradient}, up=False, server=SERVER)
    send(MessageKind.SCALARS, {"scalars": torch.stack(scalars)}, up=True, server=SERVER)


def _send(
    log: MessageLog,
    cut: str | None,
    client: int,
    round: int,
    kind: MessageKind,
    tensors: dict[str, Tensor],
    *,
    up: bool,
    server: str,
) -> None:
    ends = (client_name(client), server) if up else (server, client_name(client))
    number = sum(1 for _ in log.messages())
    message = Message(
        number=number,
        kind=kind,
        sender=ends[0],
        receiver=ends[1],
        round=round,
        step=round,
        cut=cut,
        tensors=tensors,
    )
    log.append(message, Origin(client, (client,)))
