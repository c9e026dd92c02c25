"""A shadow of the client's half, made without a query, and inversion of it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from attacks.attack import Findings
from attacks.attacker import Attacker
from attacks.images import ImageSpace
from attacks.observation import Observation, last_observations
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.smashed.distance import wide
from attacks.smashed.messages import QUERY_FREE, bound_of, rebuilt, simulation_of
from attacks.smashed.networks import batches
from attacks.smashed.victim import Forward, Program, ServerLoss
from attacks.smashed.white_box import WhiteBox
from attacks.threat import ThreatModel
from lightning_sfl.link.message import MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shadow:
    """Query-free inversion through a shadow model.

    He et al. 2019: a half of the attacker's own is trained on labelled auxiliary images so that the
    server's half, which stays as it is, classifies what it sends; what the client sent is then inverted as if the
    shadow had sent it.

    Args:
        steps: Of training the shadow, Adam.
        batch: Auxiliary images in a step.
        learning_rate: Of Adam.
        inversion: The attack on the shadow; its candidate is chosen on auxiliary images sent through the shadow.
        seed: Seeds the batches.
    """

    steps: int = 400
    batch: int = 50
    learning_rate: float = 1e-3
    inversion: WhiteBox = dataclasses.field(default_factory=WhiteBox)
    seed: int = 0

    name: ClassVar[str] = "shadow model"
    needs: ClassVar[ThreatModel] = dataclasses.replace(QUERY_FREE, sees=frozenset({MessageKind.SMASHED}))

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return f"{self.steps} steps of {self.batch} auxiliary images; then {self.inversion.budget}"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        observations, own = last_observations(attacker), simulation_of(attacker, self.seed)
        shadow = self.trained(
            own.auxiliary_BCHW,
            own.labels_B,
            own.program,
            own.drawn,
            own.server_loss,
            attacker.space,
            lambda share: progress(share / 2),
        ).tuned(observations[0].records)

        def rebuild(seen: Observation, part: Progress) -> Reconstruction:
            return shadow.reconstruct(seen.smashed, seen.records, part)

        return Findings(
            batches=rebuilt(attacker, observations, rebuild, lambda share: progress((1 + share) / 2)),
            budget=f"{self.budget}, {len(own.labels_B)} auxiliary images",
            bound=bound_of(observations),
        )

    def trained(
        self,
        auxiliary_BCHW: Tensor,
        labels_B: Tensor,
        program: Program,
        drawn: Mapping[str, Tensor],
        server_loss: ServerLoss,
        space: ImageSpace,
        progress: Progress = unwatched,
    ) -> "TrainedShadow":
        """Train the shadow; it then serves for any number of messages.

        Args:
            auxiliary_BCHW: Unit images of the same kind as the targets.
            labels_B: Their labels.
            program: The client's half with weights of the attacker's choice.
            drawn: The shadow's weights at the start, which the attacker drew; they are left as they are.
            server_loss: The server's half.
            space: Where images lie.
            progress: Told the share of the work done.

        Raises:
            ValueError: There are no auxiliary images, or not a label for each.
        """
        if not 0 < len(auxiliary_BCHW) == len(labels_B):
            raise ValueError(
                f"auxiliary_BCHW of {len(auxiliary_BCHW)} images with {len(labels_B)} labels is not accepted: give at"
                " least one, each with its label."
            )
        weights = {name: weight.detach().clone().requires_grad_() for name, weight in drawn.items()}
        images_BCHW = space.to_input(wide(auxiliary_BCHW))
        optimizer = torch.optim.Adam(weights.values(), lr=self.learning_rate)
        order = batches(len(images_BCHW), self.batch, torch.Generator().manual_seed(self.seed))
        for step in range(self.steps):
            places = next(order).to(images_BCHW.device)
            with torch.enable_grad():
                loss = server_loss(program(weights, images_BCHW[places]), labels_B[places])
                loss.backward(inputs=list(weights.values()))
            optimizer.step()
            optimizer.zero_grad()
            progress((step + 1) / self.steps)
        found = {name: weight.detach() for name, weight in weights.items()}
        return TrainedShadow(lambda seen_BCHW: program(found, seen_BCHW), wide(auxiliary_BCHW), space, self.inversion)


@dataclasses.dataclass(frozen=True)
class TrainedShadow:
    """A shadow that the server's half takes for the client's half."""

    forward: Forward
    auxiliary_BCHW: Tensor
    space: ImageSpace
    inversion: WhiteBox

    def tuned(self, records: int, progress: Progress = unwatched) -> "TrainedShadow":
        """With the inversion's candidate chosen, for messages of so many records."""
        chosen = self.inversion.tuned(self.auxiliary_BCHW, self.forward, self.space, records, progress)
        return dataclasses.replace(self, inversion=chosen)

    def reconstruct(self, target: tuple[Tensor, ...], records: int, progress: Progress = unwatched) -> Reconstruction:
        """Rebuild a batch of images from what crossed, as if the shadow had sent it; the fit is the shadow's."""
        return self.inversion.reconstruct(target, self.forward, self.space, records, progress)
