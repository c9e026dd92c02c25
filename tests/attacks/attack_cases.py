"""Small client halves, message logs made by hand, and attackers of them, for the tests of attacks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.attacker import Attacker, Background
from attacks.images import ImageSpace
from attacks.observation import Observation
from attacks.program import Program
from attacks.threat import MALICIOUS_SERVER, Knowledge, ThreatModel
from lightning_sfl.cut.find import search
from lightning_sfl.link.log import MessageLog, Origin
from lightning_sfl.link.message import FED_SERVER, SERVER, Message, MessageKind, client_name


class TwoHalves(nn.Module):
    """A client's half of the test's choice and a linear head behind it, on (images, labels)."""

    def __init__(self, front: nn.Module, smashed: int) -> None:
        super().__init__()
        self.front = front
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(smashed, 4))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return cross_entropy(self.head(self.front(images)), labels)


def two_halves(front: nn.Module, images_BCHW: Tensor) -> TwoHalves:
    with torch.no_grad():
        smashed = front(images_BCHW[:1]).numel()
    return TwoHalves(front, smashed)


def program_of(module: nn.Module, images_BCHW: Tensor, cut: str | None = "front") -> Program:
    """The attacker's copy of a module's program; it is shown a blank batch only. At None, the whole model's."""
    template = (torch.zeros_like(images_BCHW[:2]), torch.zeros(2, dtype=torch.int64))
    return Program(module, None if cut is None else search(module, template).cut(cut).split, template)


def weights_of(module: nn.Module, prefix: str = "front.") -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items() if name.startswith(prefix)}


def observed(front: nn.Module, images_BCHW: Tensor) -> Observation:
    """What a server sees of a batch that went through ``front``, part of a :class:`TwoHalves`."""
    with torch.no_grad():
        smashed = front(images_BCHW)
    return Observation(
        number=0,
        client=0,
        round=0,
        step=0,
        cut="front",
        smashed=(smashed,),
        known={},
        cut_gradients=(None,),
        weights={f"front.{name}": tensor.clone() for name, tensor in front.state_dict().items()},
    )


def orthogonal_1x1(channels: int, seed: int = 0) -> nn.Conv2d:
    """A 1x1 convolution by an orthogonal matrix of channels."""
    convolution = nn.Conv2d(channels, channels, 1, bias=False)
    convolution.weight.data = _orthogonal(channels, seed)[:, :, None, None]
    return convolution


def orthogonal_3x3(channels: int, seed: int = 0) -> nn.Conv2d:
    """A 3x3 convolution that shifts every channel around the torus, each another way, then mixes them orthogonally."""
    convolution = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular", bias=False)
    weight = torch.zeros_like(convolution.weight)
    for channel, column in enumerate(_orthogonal(channels, seed).T):
        weight[:, channel, channel % 3, (channel + 1) % 3] = column
    convolution.weight.data = weight
    return convolution


def orthogonal_linear(size: int, seed: int = 0) -> nn.Sequential:
    """The flattened image times an orthogonal matrix."""
    linear = nn.Linear(size, size, bias=False)
    linear.weight.data = _orthogonal(size, seed)
    return nn.Sequential(nn.Flatten(), linear)


def _orthogonal(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))[0]


def noise_images(records: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(records, channels, size, size, generator=torch.Generator().manual_seed(seed))


OF_WEIGHTS = (MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE, MessageKind.OPTIMIZER_STATE)


class HandMadeLog(MessageLog):
    """A log in memory that numbers what it is given."""

    def add(
        self,
        kind: MessageKind,
        tensors: Mapping[str, Tensor],
        *,
        client: int,
        round: int,
        step: int,
        cut: str | None = "front",
        down: bool | None = None,
        indices: Sequence[int] | None = None,
    ) -> int:
        number = sum(1 for _ in self.messages())
        if down is None:
            down = kind in (MessageKind.BROADCAST, MessageKind.CUT_GRADIENT)
        far = FED_SERVER if kind in OF_WEIGHTS else SERVER
        message = Message(
            number=number,
            kind=kind,
            sender=far if down else client_name(client),
            receiver=client_name(client) if down else far,
            round=round,
            step=step,
            cut=cut,
            tensors=tensors,
        )
        self.append(message, None if indices is None else Origin(client, tuple(indices)))
        return number


class TruthRead(AssertionError):
    """The truth was read where it must not be."""


class PoisonedLog(HandMadeLog):
    """A log whose truth may not be read."""

    def truth(self) -> dict[int, Origin]:
        raise TruthRead

    def worked_on(self, client: int, round: int) -> list[tuple[int, ...]]:
        raise TruthRead


def threat_model(*sees: MessageKind, knows: Sequence[Knowledge] = ()) -> ThreatModel:
    """Somebody who sees and knows this alone."""
    return ThreatModel(name="listener", description="For a test.", sees=frozenset(sees), knows=frozenset(knows))


def background_of(module: nn.Module, images_BCHW: Tensor, **known: object) -> Background:
    """What there is to know of a run of this module."""
    _, channels, height, width = images_BCHW.shape
    return Background(
        program=lambda cut: program_of(module, images_BCHW, cut),
        space=ImageSpace(shape_CHW=(channels, height, width)),
        **known,
    )


def attacker_of(
    log: MessageLog,
    threat: ThreatModel = MALICIOUS_SERVER,
    background: Background | None = None,
    *,
    cut: str | None = "front",
    records: int = 1000,
) -> Attacker:
    """Somebody who attacks a log; unless said otherwise, with nothing to know but with every right to."""

    def no_program(cut: str | None) -> Program:
        raise AssertionError

    if background is None:
        background = Background(program=no_program, space=ImageSpace(shape_CHW=(1, 2, 2)))
    return Attacker(log, threat, background, cut=cut, records=records)
