"""Activation inversion: find the input whose smashed data are those that were sent."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attacks.client_half import ClientHalf, carries_nothing, relative_distance
from attacks.observation import Observation
from attacks.threat import Knowledge, ThreatModel
from lightning_sfl.link.message import MessageKind


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What an attack made of one message.

    Attributes:
        records: The rebuilt batch, of the shape of the private input.
        fit: ‖f(x) − z‖² / ‖z‖² of the rebuilt batch; all that the attacker knows of its success.
    """

    records: Tensor
    fit: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationInversion:
    """Regularised maximum likelihood estimation, white box, made free of scale.

    He, Zhang and Lee 2019, "Model Inversion Attacks Against Collaborative Inference" (ACSAC, section 4), minimise
    ‖f(x) − z‖² + a·TV(x). Here the distance is divided by ‖z‖² and Adam's eps is 1e-8, since with the published
    constants the input hardly moves where activations are small. The server knows f: it averages and broadcasts the
    clients' weights. A batch is rebuilt as a whole, since batch normalisation ties its records together.

    Args:
        iterations: Steps of the optimiser.
        learning_rate: Of Adam, in units of the input's range; decays to 0 by a cosine.
        total_variation_weights: Candidates for a, the weight of the mean squared difference of neighbouring pixels (for
            a range of 1). One of them is chosen by rebuilding auxiliary images; it falls to 0 along with the step size.
        restarts: Independent starts, of which the one with the best fit is kept. The first starts at mid-range.
        input_min: Smallest value a pixel can have.
        input_max: Largest.
        seed: Seeds the starts after the first.
    """

    iterations: int = 400
    learning_rate: float = 0.4
    total_variation_weights: tuple[float, ...] = (0.001, 0.05, 0.5)
    restarts: int = 1
    input_min: float = 0.0
    input_max: float = 1.0
    seed: int = 0

    name: ClassVar[str] = "activation inversion (white box, scale-free)"
    threat: ClassVar[ThreatModel] = ThreatModel(
        name="white-box server",
        description=(
            "An honest but curious server that sees the smashed data, labels, masks and the weights broadcast to"
            " clients, and that knows the model's program, the range of its input and some images of the same kind."
        ),
        sees=frozenset(
            {MessageKind.SMASHED, MessageKind.LABEL, MessageKind.MASK, MessageKind.INPUT, MessageKind.BROADCAST}
        ),
        knows=frozenset(
            {Knowledge.ARCHITECTURE, Knowledge.INPUT_SHAPE, Knowledge.INPUT_RANGE, Knowledge.AUXILIARY_RECORDS}
        ),
    )

    def __post_init__(self) -> None:
        for name in ("iterations", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")
        if not self.total_variation_weights or min(self.total_variation_weights) < 0:
            raise ValueError(
                f"total_variation_weights={self.total_variation_weights} is not accepted: give numbers of at least 0."
            )
        if not self.input_max > self.input_min:
            raise ValueError(
                f"input_max={self.input_max} is not accepted: it must be above input_min={self.input_min}."
            )

    def check(self, client: ClientHalf) -> None:
        """Raise a ValueError unless the private input of this client is one floating tensor of images."""
        _image_input(client, 1)

    def tuned(
        self,
        observation: Observation,
        client: ClientHalf,
        auxiliary_BCHW: Tensor | None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> "ActivationInversion":
        """This attack with the one weight that rebuilds auxiliary images best, by mean squared error.

        The attacker sends auxiliary images through its own copy of the client's half. Without
        auxiliary images the first candidate is taken.
        """
        if auxiliary_BCHW is None or len(self.total_variation_weights) == 1:
            return dataclasses.replace(self, total_variation_weights=self.total_variation_weights[:1])
        name, _ = _image_input(client, observation.records)
        images_BCHW = auxiliary_BCHW[: observation.records]
        client.load(observation.weights)
        with torch.no_grad():
            smashed = tuple(tensor.detach() for tensor in client({name: images_BCHW}, {}))
        own = dataclasses.replace(observation, smashed=smashed, known={})
        errors: dict[float, float] = {}
        for place, weight in enumerate(self.total_variation_weights):
            candidate = dataclasses.replace(self, total_variation_weights=(weight,))
            done = partial(part_of, progress, place, len(self.total_variation_weights))
            rebuilt = candidate.reconstruct(own, client, done).records
            errors[weight] = float((rebuilt - images_BCHW).square().mean())
        return dataclasses.replace(self, total_variation_weights=(min(errors, key=lambda weight: errors[weight]),))

    def reconstruct(
        self, observation: Observation, client: ClientHalf, progress: Callable[[float], None] = lambda share: None
    ) -> Reconstruction:
        """Rebuild a batch of records from one message of smashed data.

        Args:
            observation: What the attacker saw.
            client: The client's half, as the attacker runs it.
            progress: Told the share of the work done, from 0 to 1.

        Returns:
            The batch; where the smashed data are all zero or not all finite (a dead or diverged client), mid-range with
            a fit of 1, since nothing can be fitted to them.

        Raises:
            ValueError: The private input is not one floating tensor of images.
        """
        name, shape = _image_input(client, observation.records)
        client.load(observation.weights)
        # Small steps of the optimiser would be lost in 16 bits.
        dtype = torch.promote_types(client.private_dtypes()[name], torch.float32)
        if carries_nothing(observation.smashed):
            return Reconstruction(self._to_input(torch.full(shape, 0.5, dtype=dtype)), fit=1.0)
        draw = torch.Generator().manual_seed(self.seed)
        best: Reconstruction | None = None
        for start in range(self.restarts):
            unit_BCHW = torch.full(shape, 0.5) if start == 0 else torch.rand(shape, generator=draw)
            unit_BCHW, fit = self._descend(
                unit_BCHW.to(dtype),
                lambda x: client({name: self._to_input(x)}, observation.known),
                observation.smashed,
                partial(part_of, progress, start, self.restarts),
            )
            if best is None or fit < best.fit:
                best = Reconstruction(self._to_input(unit_BCHW), fit)
        assert best is not None
        return best

    def _descend(
        self,
        unit_BCHW: Tensor,
        forward: Callable[[Tensor], tuple[Tensor, ...]],
        target: tuple[Tensor, ...],
        progress: Callable[[float], None],
    ) -> tuple[Tensor, float]:
        """Adam from one start, inside the unit box; returns where it ends and the fit there."""
        guess_BCHW = unit_BCHW.clone().requires_grad_()
        optimizer = torch.optim.Adam([guess_BCHW], lr=self.learning_rate, eps=1e-8)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        for step in range(self.iterations):
            optimizer.zero_grad()
            fit = relative_distance(forward(guess_BCHW), target)
            remaining = schedule.get_last_lr()[0] / self.learning_rate
            (fit + remaining * self.total_variation_weights[0] * total_variation(guess_BCHW)).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                guess_BCHW.clamp_(0, 1)
            progress((step + 1) / self.iterations)
        with torch.no_grad():
            fit = relative_distance(forward(guess_BCHW.detach()), target)
        return guess_BCHW.detach(), float(fit)

    def _to_input(self, unit: Tensor) -> Tensor:
        return self.input_min + (self.input_max - self.input_min) * unit


def total_variation(images_BCHW: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down and across."""
    down = (images_BCHW[..., 1:, :] - images_BCHW[..., :-1, :]).square().mean()
    across = (images_BCHW[..., :, 1:] - images_BCHW[..., :, :-1]).square().mean()
    return down + across


def part_of(progress: Callable[[float], None], place: int, places: float, share: float) -> None:
    """Report the progress of one of several equal parts of the work."""
    progress((place + share) / places)


def _image_input(client: ClientHalf, records: int) -> tuple[str, tuple[int, ...]]:
    shapes, dtypes = client.private_shapes(records), client.private_dtypes()
    if len(shapes) != 1 or any(len(shape) != 4 or not dtypes[name].is_floating_point for name, shape in shapes.items()):
        found = ", ".join(f"{name!r} {shape} {dtypes[name]}" for name, shape in shapes.items()) or "none"
        raise ValueError(
            "Activation inversion rebuilds one private input of floating images, shape (records, channels, height,"
            f" width); the private inputs of this cut are {found}."
        )
    return next(iter(shapes.items()))
