"""The positive control of attacks on labels: a victim whose gradients and smashed data give labels away exactly."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from attacks.attacker import Background, Records
from attacks.audit.truth import RecordsAt, known_labels_of
from attacks.images import ImageSpace
from attacks.labels.label_attack import LabelVictim
from attacks.program import Program
from lightning_sfl.cut.find import search
from lightning_sfl.link.log import MessageLog, Origin
from lightning_sfl.link.message import FED_SERVER, SERVER, Message, MessageKind, client_name

LABEL_CUT = "front"
LABELLED_RECORDS = 32
_CLIENTS = 2
_BATCH = LABELLED_RECORDS // _CLIENTS
_EVERY = 4
"""Every fourth record is of the rare class."""


class _OneLogit(nn.Module):
    """Scaled images, and one logit from -3 to -1: a probability of the rare class of less than one half.

    The gradient of a record's loss is (p - y)·w with the head's weights w. Of a record of the rare class it is longer
    than ‖w‖/2 and points against w, of another it is shorter and points along w.
    """

    def __init__(self, images_NCHW: Tensor) -> None:
        super().__init__()
        pixels = images_NCHW[0].numel()
        with torch.device("meta"):
            self.front = _Scale()
            self.head = nn.Linear(pixels, 1)
        self.to_empty(device="cpu")
        with torch.no_grad():
            self.front.factor.fill_(1 / float(images_NCHW.flatten(1).norm(dim=1).max().clamp_min(1e-12)))
            self.head.weight.fill_(pixels**-0.5)
            self.head.bias.fill_(-2.0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return self.loss(self.front(images), labels)

    def loss(self, smashed: Tensor, labels: Tensor) -> Tensor:
        """The server's half."""
        return binary_cross_entropy_with_logits(self.head(smashed)[:, 0], labels.to(smashed.dtype))


class _Logits(nn.Module):
    """Two logits, which cross: the gradient of a record's loss is softmax minus one-hot."""

    def __init__(self, images_NCHW: Tensor) -> None:
        super().__init__()
        pixels = images_NCHW[0].numel()
        with torch.device("meta"):
            self.front = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2))
        self.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in self.front.parameters():
                parameter.zero_()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return self.loss(self.front(images), labels)

    def loss(self, smashed: Tensor, labels: Tensor) -> Tensor:
        """The server's half."""
        return cross_entropy(smashed, labels)


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x.flatten(1)


def label_control_run(
    space: ImageSpace, victim: LabelVictim, *, seed: int = 0
) -> tuple[MessageLog, Background, RecordsAt]:
    """One step of two clients: bright pictures are of the rare class, dark ones of the other.

    Args:
        space: Where images lie: those of the real victim.
        victim: Whom to attack.
        seed: Seeds the images.
    """
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(2 * LABELLED_RECORDS).remainder(_EVERY).eq(0).long()
    unit = 0.2 + 0.6 * labels[:, None, None, None] + 0.1 * space.random(len(labels), draw)
    images = space.to_input(unit)
    module = _OneLogit(images) if victim is LabelVictim.ONE_LOGIT else _Logits(images)
    template = (torch.zeros_like(images[:2]), torch.zeros(2, dtype=torch.int64))
    split = search(module, template).cut(LABEL_CUT).split
    log = MessageLog()
    for client in range(_CLIENTS):
        own = range(client * _BATCH, (client + 1) * _BATCH)
        _play(log, module, client, images[own.start : own.stop], labels[own.start : own.stop], tuple(own))

    def records(indices: tuple[int, ...]) -> Records:
        return Records(images_BCHW=images[list(indices)], labels_B=labels[list(indices)])

    background = Background(
        program=lambda _: Program(module, split, template),
        space=space,
        auxiliary=Records(images_BCHW=images[LABELLED_RECORDS:], labels_B=labels[LABELLED_RECORDS:]),
        server_weights={name: parameter.detach() for name, parameter in module.named_parameters()},
        batch_sizes=lambda client, round: (_BATCH,),
        known_labels=known_labels_of(log, records),
    )
    return log, background, records


def _play(
    log: MessageLog, module: _OneLogit | _Logits, client: int, images: Tensor, labels: Tensor, indices: tuple[int, ...]
) -> None:
    smashed = module.front(images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(module.loss(smashed, labels), [smashed])
    weights = {name: tensor.detach() for name, tensor in module.named_parameters() if name.startswith(LABEL_CUT)}
    up, down = (client_name(client), SERVER), (SERVER, client_name(client))
    for kind, (sender, receiver), tensors in (
        (MessageKind.BROADCAST, (FED_SERVER, client_name(client)), weights),
        (MessageKind.SMASHED, up, {"0": smashed.detach()}),
        (MessageKind.CUT_GRADIENT, down, {"0": gradient}),
    ):
        message = Message(
            number=sum(1 for _ in log.messages()),
            kind=kind,
            sender=sender,
            receiver=receiver,
            round=0,
            step=0,
            cut=LABEL_CUT,
            tensors=tensors,
        )
        log.append(message, Origin(client, indices))
