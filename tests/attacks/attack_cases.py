"""Small client halves, message logs made by hand, and trained runs for the tests of attacks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.client_half import ClientHalf
from attacks.observation import Observation
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


def attackers_half(module: nn.Module, images_BCHW: Tensor, cut: str = "front") -> ClientHalf:
    """The attacker's copy of a module's half; it is shown a blank batch only."""
    template = (torch.zeros_like(images_BCHW[:2]), torch.zeros(2, dtype=torch.int64))
    return ClientHalf(module, search(module, template).cut(cut).split, template)


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
        indices: Sequence[int] | None = None,
    ) -> int:
        number = sum(1 for _ in self.messages())
        down = kind in (MessageKind.BROADCAST, MessageKind.CUT_GRADIENT)
        far = FED_SERVER if kind in (MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE) else SERVER
        message = Message(
            number=number,
            kind=kind,
            sender=far if down else client_name(client),
            receiver=client_name(client) if down else far,
            round=round,
            step=step,
            cut="front",
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
