"""White-box inversion: find the image whose smashed data are those that were sent."""

import dataclasses
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attacks.attack import Findings
from attacks.attacker import Attacker
from attacks.images import ImageSpace
from attacks.observation import Observation, last_observations
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.smashed.descent import Descent, Problem, better_half, descend
from attacks.smashed.distance import carries_nothing, wide
from attacks.smashed.messages import WHITE_BOX, bound_of, forward_of, rebuild_each
from attacks.smashed.victim import Forward
from attacks.threat import ThreatModel

FAITHFUL = Descent(prior_weight=0.001, learning_rate=0.4)
"""For cuts that lose little: the prior only leads the first steps."""

SMOOTH = Descent(prior_weight=1.0, learning_rate=0.05)
"""For cuts that lose much: coarse first, then as much detail as the smashed data force."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhiteBox:
    """Regularised maximum likelihood estimation, white box, made free of scale.

    He, Zhang and Lee 2019, "Model Inversion Attacks Against Collaborative Inference" (ACSAC), minimise
    ‖f(x) − z‖² + a·TV(x), TV the mean squared difference of neighbouring pixels, from a constant image by Adam. Here
    the distance is divided by ‖z‖² and Adam's eps is 1e-8, since with the published constants the input hardly moves
    where activations are small; pixels are kept in the box; and a falls to 0 with the step size, so that a strong prior
    can shape the image without holding it back in the end. The attacker knows f.

    Records that do not depend on one another (he tries it on his own copy) have their own fit, best start and end;
    where batch statistics tie them, a batch is rebuilt as one.

    Args:
        iterations: Steps of a descent.
        candidates: One is chosen by rebuilding auxiliary images (:meth:`tuned`); the first, without any.
        restarts: Starts for every record, the first grey, the others noise. By successive halving on the fit: every
            round gives those that are left a quarter of the steps and drops the worse half; the last gets all steps.
        enough: A record whose fit is not above this is finished.
        seed: Seeds the starts after the first.
    """

    iterations: int = 400
    candidates: tuple[Descent, ...] = (FAITHFUL, SMOOTH)
    restarts: int = 1
    enough: float = 1e-11
    seed: int = 0

    name: ClassVar[str] = "white-box inversion (scale-free)"
    needs: ClassVar[ThreatModel] = WHITE_BOX

    def __post_init__(self) -> None:
        for name in ("iterations", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if not self.candidates:
            raise ValueError(f"candidates={self.candidates} is not accepted: give at least one Descent.")
        if not self.enough >= 0:
            raise ValueError(f"enough={self.enough} is not accepted: give a number of at least 0.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        tuning = f"; {len(self.candidates)} candidates tried on auxiliary images" if len(self.candidates) > 1 else ""
        return f"at most {self._most_steps()} iterations from {self.restarts} start(s){tuning}"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        observations = last_observations(attacker)
        first, space = observations[0], attacker.space
        parts = len(self.candidates) + len(observations)
        chosen = self.tuned(
            attacker.auxiliary_unit,
            forward_of(attacker, first),
            space,
            first.records,
            lambda share: progress(share * len(self.candidates) / parts),
        )

        def rebuild(seen: Observation, forward: Forward, space: ImageSpace, part: Progress) -> Reconstruction:
            return chosen.reconstruct(seen.smashed, forward, space, seen.records, part)

        batches = rebuild_each(
            attacker,
            observations,
            rebuild,
            lambda share: progress((len(self.candidates) + share * len(observations)) / parts),
        )
        weight = chosen.candidates[0].prior_weight
        return Findings(
            batches=batches,
            budget=f"{self.budget}; prior {weight:g}; {len(observations)} batches",
            bound=bound_of(observations),
        )

    def tuned(
        self,
        auxiliary_BCHW: Tensor | None,
        forward: Forward,
        space: ImageSpace,
        records: int,
        progress: Progress = unwatched,
    ) -> "WhiteBox":
        """This attack with the one candidate that rebuilds auxiliary images best, by the mean of log squared errors.

        The attacker sends them through his own copy; nothing of the batch under attack is read.

        Args:
            auxiliary_BCHW: Unit images of the same kind, of which as many are used as a batch holds, some of them
                repeatedly where there are fewer; None if there are none.
            forward: His copy of the client's half.
            space: Where images lie.
            records: Size of a batch under attack.
            progress: Told the share of the work done.
        """
        if auxiliary_BCHW is None or len(self.candidates) == 1:
            return dataclasses.replace(self, candidates=self.candidates[:1])
        places = torch.arange(records, device=auxiliary_BCHW.device) % len(auxiliary_BCHW)
        images_BCHW = wide(auxiliary_BCHW[places])
        with torch.no_grad():
            smashed = forward(space.to_input(images_BCHW))
        errors: list[float] = []
        for place, candidate in enumerate(self.candidates):
            attack = dataclasses.replace(self, candidates=(candidate,))
            done = partial(_part, progress, place, len(self.candidates))
            rebuilt_BCHW = attack.reconstruct(smashed, forward, space, records, done).unit_BCHW
            error_B = (rebuilt_BCHW - images_BCHW).square().flatten(1).mean(1)
            errors.append(float(error_B.clamp(min=1e-10).log().mean()))  # nothing is gained beyond 100 dB
        return dataclasses.replace(self, candidates=(self.candidates[errors.index(min(errors))],))

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
            forward: The attacker's copy of the client's half, differentiable.
            space: Where the images lie.
            records: How many.
            progress: Told the share of the work done.

        Returns:
            The batch; grey with a fit of 1 where the smashed data are all zero or not all finite (a dead or diverged
            client), since nothing can be fitted to them.
        """
        grey_BCHW = space.grey(records, wide(target[0]).dtype, target[0].device)
        if carries_nothing(target):
            return Reconstruction(unit_BCHW=grey_BCHW, fit=1.0, iterations=0)
        draw = torch.Generator().manual_seed(self.seed)
        problem = Problem.of(target, forward, space, space.random(records, draw).to(grey_BCHW))
        starts = [grey_BCHW, *(space.random(records, draw).to(grey_BCHW) for _ in range(self.restarts - 1))]
        spent = 0

        def told(step: int) -> None:
            progress((spent + step) / self._most_steps())

        while len(starts) > 1:
            ended = []
            for start_BCHW in starts:
                ended.append(descend(start_BCHW, problem, self.candidates[0], self._round(), self.enough, told))
                spent += ended[-1].iterations
            starts = better_half(ended, problem)
        last = descend(starts[0], problem, self.candidates[0], self.iterations, self.enough, told)
        progress(1.0)
        return Reconstruction(
            unit_BCHW=last.unit_BCHW, fit=float(last.fit_G.mean()), iterations=spent + last.iterations
        )

    def _round(self) -> int:
        return -(-self.iterations // 4)

    def _most_steps(self) -> int:
        starts, steps = self.restarts, self.iterations
        while starts > 1:
            steps += starts * self._round()
            starts = -(-starts // 2)
        return steps


def _part(progress: Progress, place: int, places: int, share: float) -> None:
    """Report the progress of one of several equal parts of the work."""
    progress((place + share) / places)
