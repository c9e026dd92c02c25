"""A learned inverse network: it is shown what auxiliary images become when they are sent."""

import dataclasses
import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from attacks.attack import Findings, RebuiltBatch
from attacks.attacker import Attacker
from attacks.images import ImageSpace
from attacks.observation import last_observations
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.smashed.distance import carries_nothing, relative_distance, wide
from attacks.smashed.messages import bound_of, check_decodable
from attacks.smashed.networks import InverseNetwork, as_map, batches, mirrored, seeded
from attacks.smashed.victim import Forward
from attacks.threat import Knowledge, ThreatModel
from lightning_sfl.link.message import MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """An inverse network, black box with queries.

    He et al. 2019: on pairs of auxiliary images and what they become, Adam on the mean squared error of
    pixels; here with a step size that falls to 0 by a cosine, smashed data freed of mean and scale, and a linear part
    that is solved for. A query gives
    what crossed as the server decodes it, so quantisers and noise are trained against.

    Args:
        steps: Of training.
        batch: Auxiliary images in a step.
        learning_rate: Of Adam, at the start.
        width: Channels of the network.
        linear_places: Places of maps that the linear part is solved from, before the training.
        seed: Seeds weights, batches and mirroring.
    """

    steps: int = 400
    batch: int = 50
    learning_rate: float = 1e-3
    width: int = 64
    linear_places: int = 1 << 17
    seed: int = 0

    name: ClassVar[str] = "learned decoder"
    needs: ClassVar[ThreatModel] = ThreatModel(
        name="black box at the cut",
        description=(
            "Who sees the smashed data, may have the client's half run on images of its choice, and has images of the"
            " same kind."
        ),
        sees=frozenset({MessageKind.SMASHED}),
        knows=frozenset({Knowledge.QUERIES, Knowledge.AUXILIARY_RECORDS, Knowledge.INPUT_RANGE}),
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "width", "linear_places"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return (
            f"{self.steps} steps of training, {(self.steps + 1) * self.batch} queries and those of the linear part (as"
            f" many as send {self.linear_places} places, each auxiliary image at most once)"
        )

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        observations = last_observations(attacker)
        check_decodable(observations)
        space, images = attacker.space, attacker.auxiliary.images_BCHW
        # Clients of one round were sent the same weights.
        rounds = sorted({seen.round for seen in observations})
        learned: dict[int, TrainedDecoder] = {}
        for place, round in enumerate(rounds):
            seen = next(found for found in observations if found.round == round)
            if carries_nothing(seen.smashed):
                continue
            learned[round] = self.trained(
                space.to_unit(images),
                attacker.query(seen.client, seen.round, seen.number),
                space,
                partial(_part, progress, place, len(rounds)),
            )
        batches = []
        for seen in observations:
            if seen.round in learned:
                made = learned[seen.round].reconstruct(seen.smashed, seen.records)
            else:
                made = Reconstruction(unit_BCHW=space.grey(seen.records), fit=1.0, iterations=0)
            images_BCHW = space.to_input(made.unit_BCHW)
            batches.append(RebuiltBatch(number=seen.number, images_BCHW=images_BCHW, in_order=True, fit=made.fit))
        progress(1.0)
        return Findings(
            batches=tuple(batches),
            budget=f"{self.budget}, {len(images)} auxiliary images, {len(rounds)} network(s)",
            bound=bound_of(observations),
        )

    def trained(
        self, auxiliary_BCHW: Tensor, query: Forward, space: ImageSpace, progress: Progress = unwatched
    ) -> "TrainedDecoder":
        """Train it; once trained it rebuilds any number of messages.

        Args:
            auxiliary_BCHW: Unit images of the same kind as the targets, none of them a target.
            query: What images become when they are sent and decoded.
            space: Where images lie.
            progress: Told the share of the work done.

        Raises:
            ValueError: There are no auxiliary images, or no image can be decoded from such smashed data, which may also
                be all zero or not finite.
        """
        if not len(auxiliary_BCHW):
            raise ValueError("auxiliary_BCHW of 0 images is not accepted: a decoder learns from at least one.")
        images_BCHW = wide(auxiliary_BCHW)
        draw = torch.Generator().manual_seed(self.seed)
        order = batches(len(images_BCHW), self.batch, draw)
        first_BCHW = images_BCHW[next(order).to(images_BCHW.device)]
        example = self._asked(query, space, first_BCHW)
        if carries_nothing((example,)):
            raise ValueError("The client's half sends nothing but zeros, or numbers that are not finite.")
        with seeded(self.seed):
            network = InverseNetwork(example.cpu(), space, self.width)
        network = network.to(images_BCHW.device, images_BCHW.dtype)
        if network.linear is not None:
            some_BCHW = images_BCHW[: max(1, self.linear_places // example[0, 0].numel())]
            network.solve_linear(
                (self._asked(query, space, part_BCHW), part_BCHW) for part_BCHW in some_BCHW.split(self.batch)
            )
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for step in range(self.steps):
            sent_BCHW = mirrored(images_BCHW[next(order).to(images_BCHW.device)], draw)
            smashed = self._asked(query, space, sent_BCHW)
            with torch.enable_grad():
                optimizer.zero_grad()
                mse_loss(network(smashed), sent_BCHW).backward()
            optimizer.step()
            schedule.step()
            progress((step + 1) / self.steps)
        return TrainedDecoder(network.eval().requires_grad_(requires_grad=False), query, space, self.steps)

    def _asked(self, query: Forward, space: ImageSpace, unit_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            return as_map(query(space.to_input(unit_BCHW)), len(unit_BCHW)).to(unit_BCHW)


@dataclasses.dataclass(frozen=True)
class TrainedDecoder:
    """A decoder that has learned."""

    network: InverseNetwork
    query: Forward
    space: ImageSpace
    steps: int

    def reconstruct(self, target: tuple[Tensor, ...], records: int) -> Reconstruction:
        """Rebuild a batch of images from what crossed; one more query tells the fit.

        Grey with a fit of 1 where the smashed data are all zero or not all finite.
        """
        weight = next(self.network.parameters())
        if carries_nothing(target):
            grey_BCHW = self.space.grey(records, weight.dtype, weight.device)
            return Reconstruction(unit_BCHW=grey_BCHW, fit=1.0, iterations=0)
        with torch.no_grad():
            unit_BCHW = self.network(as_map(target, records).to(weight)).clamp(0, 1)
            fit = float(relative_distance(self.query(self.space.to_input(unit_BCHW)), target))
        return Reconstruction(unit_BCHW=unit_BCHW, fit=fit, iterations=self.steps)


def _part(progress: Progress, place: int, places: int, share: float) -> None:
    progress((place + share) / places)
