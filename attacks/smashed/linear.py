"""Least squares: the whole image, where the client's half is an affine map of it."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from attacks.attack import Findings
from attacks.attacker import Attacker, UnavailableError
from attacks.images import ImageSpace
from attacks.observation import Observation, last_observations
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.smashed.distance import carries_nothing, relative_distance, wide
from attacks.smashed.messages import WHITE_BOX, bound_of, forward_of, rebuild_each
from attacks.smashed.victim import Forward, records_are_independent
from attacks.threat import Knowledge, ThreatModel


def is_affine(
    forward: Forward, space: ImageSpace, records: int, device: torch.device | str = "cpu", seed: int = 0
) -> bool:
    """Whether a client's half is an affine map of the image, as far as random images show.

    An affine map keeps every affine combination, and no other map does: f(a·x + (1 − a)·y) = a·f(x) + (1 − a)·f(y).
    The attacker tries it on his own copy, with noise in the box and with combinations that leave it.
    """
    draw = torch.Generator().manual_seed(seed)
    one_BCHW, other_BCHW = (space.random(records, draw).to(device) for _ in range(2))
    with torch.no_grad():
        at_one, at_other = (forward(space.to_input(unit_BCHW)) for unit_BCHW in (one_BCHW, other_BCHW))
        # Sums round in 32 bits, results in the type that crosses.
        relative = 200 * torch.finfo(torch.float32).eps + 10 * max(torch.finfo(sent.dtype).eps for sent in at_one)
        size = torch.maximum(_flat(at_one).norm(), _flat(at_other).norm())
        for share in (0.5, 0.2, -1.5, 3.0):
            mixed = _flat(forward(space.to_input(share * one_BCHW + (1 - share) * other_BCHW)))
            expected = share * _flat(at_one) + (1 - share) * _flat(at_other)
            if not (mixed - expected).norm() <= relative * (abs(share) + abs(1 - share)) * size:
                return False
    return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """The image whose smashed data are nearest, in closed form; white box, for a half that is affine in the image.

    f(x) = A·x + b, so x = A⁺(z − b), where A⁺ is the pseudo-inverse: what SFLAM's quantised linear cut gives away. A
    small A is written out and inverted in 64 bits; of a large one the normal equations AᵀA·d = Aᵀ(z − f(grey)) are
    solved by conjugate gradients (Hestenes and Stiefel 1952, the form for least squares), with A·d = f(grey + d) −
    f(grey) and Aᵀ·r by backward. What A maps to nothing stays grey; pixels are clipped to the box at the end.

    Args:
        iterations: Most steps of conjugate gradients.
        most_entries: A with at most so many entries (per record) is written out.
        enlarged_from: Height and width that the images are known to have been enlarged from (bilinearly, corners not
            aligned, as SFLAM's are for its transformer): the unknowns are then the pixels before that, fewer than the
            numbers sent, so that quantisation errors are averaged away. None: nothing is known.
    """

    iterations: int = 300
    most_entries: int = 1 << 22
    enlarged_from: tuple[int, int] | None = None

    name: ClassVar[str] = "least squares"
    needs: ClassVar[ThreatModel] = dataclasses.replace(WHITE_BOX, knows=WHITE_BOX.knows - {Knowledge.AUXILIARY_RECORDS})

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} is not accepted: give an integer of at least 1.")
        if self.most_entries < 0:
            raise ValueError(f"most_entries={self.most_entries} is not accepted: give an integer of at least 0.")
        if self.enlarged_from is not None and (len(self.enlarged_from) != 2 or min(self.enlarged_from) < 1):
            raise ValueError(
                f"enlarged_from={self.enlarged_from} is not accepted: give height and width, each at least 1, or None."
            )

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        known = "" if self.enlarged_from is None else f"; images enlarged from {tuple(self.enlarged_from)}"
        steps = f"closed form up to {self.most_entries} entries, else {self.iterations} steps of conjugate gradients"
        return steps + known

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        observations = last_observations(attacker)
        for observation in observations:
            if not is_affine(forward_of(attacker, observation), attacker.space, observation.records):
                raise UnavailableError("the client's half is no affine map of the image, so there is no linear system.")

        def rebuild(seen: Observation, forward: Forward, space: ImageSpace, part: Progress) -> Reconstruction:
            return self.reconstruct(seen.smashed, forward, space, seen.records, part)

        batches = rebuild_each(attacker, observations, rebuild, progress)
        return Findings(batches=batches, budget=self.budget, bound=bound_of(observations))

    def reconstruct(
        self,
        target: tuple[Tensor, ...],
        forward: Forward,
        space: ImageSpace,
        records: int,
        progress: Progress = unwatched,
    ) -> Reconstruction:
        """Rebuild a batch of images from what crossed.

        Args:
            target: The smashed data, as decoded.
            forward: The attacker's copy of the client's half.
            space: Where the images lie.
            records: How many.
            progress: Told the share of the work done.

        Returns:
            The batch; grey with a fit of 1 where the smashed data are all zero or not all finite.

        Raises:
            ValueError: The half is no affine map (:func:`is_affine`).
        """
        if self.enlarged_from is not None:
            return self._before_enlarging(target, forward, space, records, progress)
        if not is_affine(forward, space, records, target[0].device):
            raise ValueError("Least squares rebuild the images of an affine client half; this one is not affine.")
        grey_BCHW = space.grey(records, wide(target[0]).dtype, target[0].device)
        if carries_nothing(target):
            return Reconstruction(unit_BCHW=grey_BCHW, fit=1.0, iterations=0)
        entries = grey_BCHW[0].numel() * sum(sent.numel() for sent in target) // records
        draw = torch.Generator().manual_seed(0)
        noise_BCHW = space.random(records, draw, grey_BCHW.dtype).to(grey_BCHW.device)
        if entries <= self.most_entries and records_are_independent(forward, space.to_input(noise_BCHW)):
            found_BCHW, iterations = _solved(target, forward, space, grey_BCHW), 1
        else:
            found_BCHW, iterations = self._descend(target, forward, space, grey_BCHW, progress)
        unit_BCHW = found_BCHW.clamp(0, 1)
        with torch.no_grad():
            fit = float(relative_distance(forward(space.to_input(unit_BCHW)), target))
        progress(1.0)
        return Reconstruction(unit_BCHW=unit_BCHW, fit=fit, iterations=iterations)

    def _before_enlarging(
        self, target: tuple[Tensor, ...], forward: Forward, space: ImageSpace, records: int, progress: Progress
    ) -> Reconstruction:
        """Rebuild the pixels before enlarging, and enlarge them.

        Weights of the interpolation add up to 1 in every pixel, so that it goes as well before a change of range as
        after it.
        """
        assert self.enlarged_from is not None
        channels, *size = space.shape_CHW
        height, width = self.enlarged_from
        if height > size[0] or width > size[1]:
            raise UnavailableError(
                f"enlarged_from={tuple(self.enlarged_from)} is larger than the images, which have {tuple(size)}."
            )

        def enlarged(small_BCHW: Tensor) -> Tensor:
            return interpolate(small_BCHW, size=size, mode="bilinear", align_corners=False)

        plain = dataclasses.replace(self, enlarged_from=None)
        small = dataclasses.replace(space, shape_CHW=(channels, height, width))
        found = plain.reconstruct(target, lambda inputs: forward(enlarged(inputs)), small, records, progress)
        return dataclasses.replace(found, unit_BCHW=enlarged(found.unit_BCHW))

    def _descend(
        self, target: tuple[Tensor, ...], forward: Forward, space: ImageSpace, grey_BCHW: Tensor, progress: Progress
    ) -> tuple[Tensor, int]:
        """Conjugate gradients for least squares from grey."""
        with torch.enable_grad():
            base_BCHW = grey_BCHW.clone().requires_grad_()
            at_grey = _flat(forward(space.to_input(base_BCHW)))

        def back(residual: Tensor) -> Tensor:
            slope_BCHW: Tensor = torch.autograd.grad(at_grey, base_BCHW, residual, retain_graph=True)[0]
            return slope_BCHW

        sent, offset = _flat(target), at_grey.detach()
        found = torch.zeros_like(grey_BCHW)
        residual = sent - offset
        direction = slope = back(residual)
        steepness = first = slope.square().sum()
        step = 0
        for step in range(1, self.iterations + 1):
            if steepness <= first * (10 * torch.finfo(sent.dtype).eps) ** 2:
                break
            # A step as long as the image loses no digits beside it.
            stretch = grey_BCHW.norm() / direction.norm()
            with torch.no_grad():
                moved = (_flat(forward(space.to_input(grey_BCHW + stretch * direction))) - offset) / stretch
            length = steepness / moved.square().sum()
            found = found + length * direction
            residual = residual - length * moved
            slope = back(residual)
            steepness, before = slope.square().sum(), steepness
            direction = slope + (steepness / before) * direction
            progress(step / self.iterations)
        return grey_BCHW + found, step


def _solved(target: tuple[Tensor, ...], forward: Forward, space: ImageSpace, grey_BCHW: Tensor) -> Tensor:
    """By the pseudo-inverse of A, written out column by column: f(grey + one pixel) − f(grey)."""
    records, unknowns = len(grey_BCHW), grey_BCHW[0].numel()
    pixels = torch.eye(unknowns, dtype=grey_BCHW.dtype, device=grey_BCHW.device).reshape(-1, *space.shape_CHW)
    columns: list[Tensor] = []
    with torch.no_grad():
        offset = _per_record(forward(space.to_input(grey_BCHW)))
        # As many images at a time as crossed: a half may be bound to its batch size.
        for some in pixels.split(records):
            filled_BCHW = grey_BCHW.clone()
            filled_BCHW[: len(some)] += some
            columns.append((_per_record(forward(space.to_input(filled_BCHW))) - offset)[: len(some)])
        moves = torch.linalg.pinv(torch.cat(columns).T) @ (_per_record(target) - offset).T
    found_BCHW: Tensor = grey_BCHW + moves.T.reshape_as(grey_BCHW).to(grey_BCHW.dtype)
    return found_BCHW


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([wide(tensor).flatten() for tensor in tensors])


def _per_record(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.double().flatten(1) for tensor in tensors], dim=1)
