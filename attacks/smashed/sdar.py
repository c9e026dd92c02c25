"""A passive server that learns while the clients train: simulator, decoder and two critics on auxiliary images."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, one_hot

from attacks.attack import Findings
from attacks.attacker import Attacker, UnavailableError
from attacks.images import ImageSpace
from attacks.observation import Observation, last_observations
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.smashed.distance import carries_nothing, relative_distance, wide
from attacks.smashed.messages import QUERY_FREE, bound_of, rebuilt, simulation_of
from attacks.smashed.networks import InverseNetwork, as_map, batches, seeded
from attacks.smashed.victim import Program, ServerLoss
from attacks.threat import ThreatModel
from lightning_sfl.link.message import MessageKind

Seen = tuple[tuple[Tensor, ...], Tensor | None]
"""One message of smashed data and its labels, None where labels stay with the client."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sdar:
    """Simulator decoding with adversarial regularisation, in small.

    Zhu et al. 2023, "Passive Inference Attacks on Split Learning via Adversarial Regularization" (SDAR); FORA has the
    same parts with other distances. On labelled auxiliary images the server trains a simulator of the client's half, so
    that its own half classifies what the simulator sends and a critic cannot tell it from what clients sent; and a
    decoder of the simulator's smashed data, so that a second critic cannot tell what it makes of the clients' from
    images. Critics know the labels where the server does. Networks and weights here are a reconstruction: smaller, one
    learning rate, smashed data normalised by what the clients sent.

    Args:
        steps: Of training; each takes one message that was seen, in turn, over and over.
        batch: Auxiliary images in a step.
        learning_rate: Of Adam, for simulator and decoder; critics take half of it.
        feature_weight: λ1, of the critic of smashed data in the simulator's objective.
        image_weight: λ2, of the critic of images in the decoder's.
        width: Channels of decoder and critics.
        seed: Seeds weights and batches.
    """

    steps: int = 1000
    batch: int = 32
    learning_rate: float = 1e-3
    feature_weight: float = 1.0
    image_weight: float = 1e-3
    width: int = 32
    seed: int = 0

    name: ClassVar[str] = "SDAR"
    needs: ClassVar[ThreatModel] = QUERY_FREE

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")
        for name in ("feature_weight", "image_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give a number of at least 0.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return f"{self.steps} steps of {self.batch} auxiliary images, each with one message seen"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`. It learns from every message of smashed data that the log holds."""
        observations, own = last_observations(attacker), simulation_of(attacker, self.seed)
        beside = {(m.client, m.step): m.decoded() for m in attacker.messages(MessageKind.LABEL)}
        name = attacker.program.label_input()
        seen = [
            (tuple(message.decoded().values()), beside.get((message.client, message.step), {}).get(name))
            for message in attacker.messages(MessageKind.SMASHED)
        ]
        if any(labels is None for _, labels in seen):
            seen = [(smashed, None) for smashed, _ in seen]
        if all(carries_nothing(smashed) for smashed, _ in seen):
            raise UnavailableError("nothing that crossed can be learned from: it is all zero, or not finite.")
        learned = self.trained(
            seen,
            own.auxiliary_BCHW,
            own.labels_B,
            own.program,
            own.drawn,
            own.server_loss,
            attacker.space,
            progress,
        )

        def rebuild(found: Observation, part: Progress) -> Reconstruction:
            return learned.reconstruct(found.smashed, found.records)

        return Findings(
            batches=rebuilt(attacker, observations, rebuild, unwatched),
            budget=f"{self.budget}, {len(own.labels_B)} auxiliary images, {len(seen)} messages",
            bound=bound_of(observations),
        )

    def trained(
        self,
        seen: Sequence[Seen],
        auxiliary_BCHW: Tensor,
        labels_B: Tensor,
        program: Program,
        drawn: Mapping[str, Tensor],
        server_loss: ServerLoss,
        space: ImageSpace,
        progress: Progress = unwatched,
    ) -> "TrainedSdar":
        """Learn from what was seen.

        Args:
            seen: Messages of one cut and their labels, oldest first; those that carry nothing are passed over.
            auxiliary_BCHW: Unit images of the same kind as the clients'.
            labels_B: Their labels.
            program: The client's half with weights of the attacker's choice.
            drawn: The simulator's weights at the start, which the attacker drew; they are left as they are.
            server_loss: The server's half.
            space: Where images lie.
            progress: Told the share of the work done.

        Raises:
            ValueError: No message carries anything, some messages have labels and others have not, or there are no
                auxiliary images or not a label for each.
        """
        if not 0 < len(auxiliary_BCHW) == len(labels_B):
            raise ValueError(
                f"auxiliary_BCHW of {len(auxiliary_BCHW)} images with {len(labels_B)} labels is not accepted: give at"
                " least one, each with its label."
            )
        useful = [(smashed, labels) for smashed, labels in seen if not carries_nothing(smashed)]
        known = [labels for _, labels in useful if labels is not None]
        if not useful or len(known) not in (0, len(useful)):
            raise ValueError(
                f"seen of {len(useful)} usable messages, {len(known)} with labels, is not accepted: give at least one,"
                " and labels for all or none."
            )
        classes = 1 + max(int(labels.max()) for labels in (*known, labels_B)) if known else 0
        images_BCHW = wide(auxiliary_BCHW)
        sent = [as_map(tuple(wide(tensor) for tensor in smashed), len(smashed[0])) for smashed, _ in useful]
        with seeded(self.seed):
            decoder = InverseNetwork(sent[-1].cpu(), space, self.width)
            of_smashed = Critic(sent[-1].shape[1], classes, self.width)
            of_images = Critic(space.shape_CHW[0], classes, self.width)
        for network in (decoder, of_smashed, of_images):
            network.to(images_BCHW.device, images_BCHW.dtype)
        simulator = {name: weight.detach().clone().requires_grad_() for name, weight in drawn.items()}
        makers = torch.optim.Adam([*simulator.values(), *decoder.parameters()], lr=self.learning_rate)
        critics = torch.optim.Adam([*of_smashed.parameters(), *of_images.parameters()], lr=self.learning_rate / 2)
        order = batches(len(images_BCHW), self.batch, torch.Generator().manual_seed(self.seed))
        for step in range(self.steps):
            theirs, their_labels = sent[step % len(sent)], useful[step % len(sent)][1]
            places = next(order).to(images_BCHW.device)
            own_BCHW, own_labels = images_BCHW[places], labels_B[places]
            asked = own_labels if known else None
            with torch.enable_grad():
                crossing = program(simulator, space.to_input(own_BCHW))
                ours = as_map(crossing, len(own_BCHW))
                # What the decoder learns does not bend the simulator.
                rebuilt, guessed = decoder(ours.detach()), decoder(theirs)
                made = (
                    server_loss(crossing, own_labels)
                    + self.feature_weight * _called(of_smashed(decoder.normalised(ours), asked), real=True)
                    + mse_loss(rebuilt, own_BCHW)
                    + self.image_weight * _called(of_images(guessed, their_labels), real=True)
                )
                makers.zero_grad()
                made.backward()
                makers.step()
                judged = (
                    _called(of_smashed(decoder.normalised(theirs), their_labels), real=True)
                    + _called(of_smashed(decoder.normalised(ours.detach()), asked), real=False)
                    + _called(of_images(own_BCHW, asked), real=True)
                    + _called(of_images(guessed.detach(), their_labels), real=False)
                )
                critics.zero_grad()
                judged.backward()
                critics.step()
            progress((step + 1) / self.steps)
        found = {name: weight.detach() for name, weight in simulator.items()}
        return TrainedSdar(decoder.requires_grad_(requires_grad=False), program, found, space, self.steps)


@dataclasses.dataclass(frozen=True)
class TrainedSdar:
    """A decoder that learned from a simulator of the clients' half."""

    decoder: InverseNetwork
    program: Program
    simulator: Mapping[str, Tensor]
    space: ImageSpace
    steps: int

    def reconstruct(self, target: tuple[Tensor, ...], records: int) -> Reconstruction:
        """Rebuild a batch of images from what crossed; the fit is the simulator's.

        Grey with a fit of 1 where the smashed data are all zero or not all finite.
        """
        weight = next(self.decoder.parameters())
        if carries_nothing(target):
            grey_BCHW = self.space.grey(records, weight.dtype, weight.device)
            return Reconstruction(unit_BCHW=grey_BCHW, fit=1.0, iterations=0)
        with torch.no_grad():
            unit_BCHW = self.decoder(as_map(target, records).to(weight)).clamp(0, 1)
            fit = float(relative_distance(self.program(self.simulator, self.space.to_input(unit_BCHW)), target))
        return Reconstruction(unit_BCHW=unit_BCHW, fit=fit, iterations=self.steps)


class Critic(nn.Module):
    """Tells whether a map or a flat vector is real, given its label where there are labels.

    Args:
        channels: Of the map, or numbers in the vector.
        classes: How many labels there are; 0 if the server does not know them.
        width: Channels within.
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.first = nn.Linear(channels, width)
        self.down = nn.ModuleList([nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(3)])
        self.verdict = nn.Linear(width, 1)
        self.of_label = nn.Linear(classes, width, bias=False) if classes else None

    def forward(self, given: Tensor, labels_B: Tensor | None) -> Tensor:
        """A logit for each record, (B, 1)."""
        act = nn.functional.leaky_relu
        if given.ndim == 2:
            hidden_BD = act(self.first(given), 0.2)
        else:
            hidden = act(self.first(given.movedim(1, -1)).movedim(-1, 1), 0.2)
            for layer in self.down:
                hidden = act(layer(hidden), 0.2)
            hidden_BD = hidden.mean((2, 3))
        logit: Tensor = self.verdict(hidden_BD)
        if self.of_label is not None and labels_B is not None:
            # A label's own direction (projection discriminator, Miyato and Koyama 2018).
            towards_BD = self.of_label(one_hot(labels_B, self.classes).to(hidden_BD))
            logit = logit + (towards_BD * hidden_BD).sum(1, keepdim=True)
        return logit


def _called(logit: Tensor, *, real: bool) -> Tensor:
    return binary_cross_entropy_with_logits(logit, torch.full_like(logit, float(real)))
