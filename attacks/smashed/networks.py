"""Networks that an attacker trains: weights drawn from a seed, and how images are made of smashed data."""

import contextlib
import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, unfold

from attacks.images import ImageSpace
from attacks.smashed.distance import wide

_RIDGE = 1e-3
"""Ridge of the linear part, relative to the mean square of what it is given."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Modules made in here draw their weights from the seed; the random state is afterwards what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would move those of GPUs as well
        yield


def drawn_weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights as somebody who knows the program alone would draw them: by each layer's own rule, from another seed.

    Parameters that no layer has a rule for (class tokens, positions) are normal with standard deviation 0.02.
    """
    own = copy.deepcopy(module).cpu()
    with seeded(seed), torch.no_grad():
        for parameter in own.parameters():
            parameter.normal_(0, 0.02)
        for layer in own.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
    return {name: parameter.detach().clone() for name, parameter in own.named_parameters()}


def as_map(smashed: tuple[Tensor, ...], records: int) -> Tensor:
    """Smashed data as one tensor: (B, C, H, W) where all are maps of one size, else (B, D) where all are flat.

    Raises:
        ValueError: They are neither, or their first axis does not count records.
    """
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in smashed)
    if any(tensor.ndim < 2 or len(tensor) != records for tensor in smashed):
        raise ValueError(
            f"Smashed data of shapes {shapes} are not accepted: the first axis must count {records} records."
        )
    if {tensor.shape[2:] for tensor in smashed} == {smashed[0].shape[2:]} and smashed[0].ndim == 4:
        return torch.cat([wide(tensor) for tensor in smashed], dim=1)
    if all(tensor.ndim < 4 for tensor in smashed):
        return torch.cat([wide(tensor).flatten(1) for tensor in smashed], dim=1)
    raise ValueError(
        f"Smashed data of shapes {shapes} are not accepted: a decoder needs maps of one height and width, or flat data."
    )


class InverseNetwork(nn.Module):
    """From smashed data to unit images.

    He et al. 2019: the mirror of the client's half, one transposed convolution of stride 2 for every halving
    of the resolution, which is read off the smashed data. Flat ones begin with a dense layer onto a small map. Beside
    it (ours) a linear map of the 3x3 places around each pixel's own, which :meth:`solve_linear` finds in closed form,
    so that steps are spent on what is not linear. Until then it is 0, and what stands behind the other is 0 as well.

    Args:
        example: Smashed data as :func:`as_map` gives them; their mean and spread are taken out from now on, so that
            nothing depends on the scale of the client's weights.
        space: Where the images lie.
        width: Channels within.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, example: Tensor, space: ImageSpace, width: int) -> None:
        super().__init__()
        axes = [0, *range(2, example.ndim)]
        self.register_buffer("mean", example.mean(axes, keepdim=True))
        spread = (example - self.mean).square().mean(axes, keepdim=True).sqrt()
        # A channel that is always the same tells nothing.
        self.register_buffer("spread", torch.where(spread > 1e-6 * spread.max(), spread, torch.inf))
        channels, *size = space.shape_CHW
        layers: list[nn.Module] = []
        if example.ndim == 2:
            small = [max(1, length // 4) for length in size]
            layers += [nn.Linear(example.shape[1], width * small[0] * small[1]), nn.Unflatten(1, (width, *small))]
            layers.append(nn.ReLU())
            now, at = width, small
        else:
            now, at = example.shape[1], list(example.shape[2:])
        while at[0] * 2 <= size[0] and at[1] * 2 <= size[1]:
            layers += [nn.ConvTranspose2d(now, width, 4, stride=2, padding=1), nn.ReLU()]
            now, at = width, [length * 2 for length in at]
        last = nn.Conv2d(width, channels, 3, padding=1)
        layers += [nn.Conv2d(now, width, 3, padding=1), nn.ReLU(), last]
        if at != size:
            layers.append(nn.Upsample(size=tuple(size), mode="bilinear"))
        self.layers = nn.Sequential(*layers)
        ratio = size[0] // example.shape[2] if example.ndim == 4 else 0
        fits = example.ndim == 4 and [ratio * length for length in example.shape[2:]] == size
        self.ratio = ratio if fits else 0
        """Pixels of the image to one place of the map, along each axis; 0 if they do not come out even."""
        self.linear = nn.Conv2d(example.shape[1], channels * ratio**2, 3, padding=1) if fits else None
        if self.linear is not None:
            for parameter in (*self.linear.parameters(), *last.parameters()):
                nn.init.zeros_(parameter)

    def forward(self, smashed: Tensor) -> Tensor:
        """Unit images, not yet clipped."""
        seen = self.normalised(smashed)
        unit_BCHW: Tensor = 0.5 + self.layers(seen)
        return unit_BCHW if self.linear is None else unit_BCHW + pixel_shuffle(self.linear(seen), self.ratio)

    @torch.no_grad()
    def solve_linear(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the linear part to the ridge regression of pixels on the 3x3 places of the map around them.

        Args:
            pairs: Smashed maps and the unit images they came from.
        """
        assert self.linear is not None
        size = self.linear.weight[0].numel() + 1
        gram = self.mean.new_zeros((size, size), dtype=torch.float64)
        moment = self.mean.new_zeros((size, len(self.linear.weight)), dtype=torch.float64)
        for smashed, unit_BCHW in pairs:
            rows_RF = unfold(self.normalised(smashed), 3, padding=1).transpose(1, 2).flatten(0, 1)
            rows_RF = torch.cat([rows_RF, torch.ones_like(rows_RF[:, :1])], dim=1)
            wanted_RP = pixel_unshuffle(unit_BCHW - 0.5, self.ratio).flatten(2).transpose(1, 2).flatten(0, 1)
            gram, moment = gram + (rows_RF.T @ rows_RF).double(), moment + (rows_RF.T @ wanted_RP).double()
        ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
        solved_FP = torch.linalg.solve(gram + ridge, moment).to(self.linear.weight)
        self.linear.weight.copy_(solved_FP[:-1].T.reshape_as(self.linear.weight))
        assert self.linear.bias is not None
        self.linear.bias.copy_(solved_FP[-1])

    def normalised(self, smashed: Tensor) -> Tensor:
        """Smashed data without the mean and spread of the example, channel by channel."""
        return (smashed - self.mean) / self.spread


def mirrored(images_BCHW: Tensor, draw: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    mirror_B = torch.rand(len(images_BCHW), generator=draw).to(images_BCHW.device) < 0.5
    return torch.where(mirror_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)


def batches(count: int, size: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Places of batches without end: passes in a random order, without a short last batch unless it is all."""
    while True:
        for places in torch.randperm(count, generator=draw).split(size):
            if len(places) == min(size, count):
                yield places
