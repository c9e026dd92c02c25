"""A server that has clients train the first half of its own autoencoder (FSHA)."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from attacks.attack import Findings, RebuiltBatch
from attacks.attacker import Attacker, UnavailableError
from attacks.images import ImageSpace
from attacks.local_optimizer import LocalOptimizer
from attacks.observation import last_observations
from attacks.reconstruction import Progress, unwatched
from attacks.session import Session
from attacks.smashed.distance import carries_nothing, wide
from attacks.smashed.messages import check_decodable, program_of
from attacks.smashed.networks import InverseNetwork, as_map, batches, seeded
from attacks.smashed.sdar import Critic
from attacks.smashed.victim import Program
from attacks.threat import Knowledge, ThreatModel
from lightning_sfl.link.message import MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSpaceHijack:
    """Feature-space hijacking: the server answers with gradients that make clients send what its decoder can read.

    Pasquini et al. 2021, "Unleashing the Tiger". On auxiliary images the server trains a pilot half and a decoder of
    what the pilot sends; a critic tells what clients send from what the pilot sends (Wasserstein, with a gradient
    penalty), and clients are answered with the gradient that brings theirs nearer to the pilot's. In the end the
    decoder reads the clients' as well. The loss of the task and the labels are not used.

    Reconstruction, in small: the pilot has the client's program, with weights of its own, so that clients can become
    it; it is trained alone for a while first; features are scaled by their spread over all channels; the penalty's norm
    is over all numbers of a record (the authors' code leaves channels out of it); step sizes fall to 0 by a cosine.
    Answers have a set share of the length of the honest answers in the log, less where clients' momentum adds them up:
    their step sizes were made for those, and a half that is pushed harder dies.

    Args:
        steps: Answers; clients come in turn.
        pilot_steps: Steps that the pilot is trained before.
        batch: Auxiliary images in a step.
        learning_rate: Of Adam, for pilot, decoder and critic. The published ones, 1e-5 and 1e-4, go with 10,000 steps.
        penalty_weight: Of the gradient penalty.
        answer_length: Of answers, in lengths of an honest one; with momentum μ of it 1 - μ.
        width: Channels of decoder and critic.
        seed: Seeds weights and batches.
    """

    steps: int = 2000
    pilot_steps: int = 300
    batch: int = 32
    learning_rate: float = 1e-3
    penalty_weight: float = 500.0
    answer_length: float = 0.3
    width: int = 32
    seed: int = 0

    name: ClassVar[str] = "feature-space hijacking"
    needs: ClassVar[ThreatModel] = ThreatModel(
        name="a server that answers as it likes",
        description=(
            "Who sees what crosses the cut and answers clients with gradients of its own choice, and knows the client's"
            " program, how clients step, the range of the input and some records of the same kind; not the clients'"
            " weights."
        ),
        sees=frozenset({MessageKind.SMASHED, MessageKind.LABEL, MessageKind.CUT_GRADIENT}),
        knows=frozenset(
            {
                Knowledge.ARCHITECTURE,
                Knowledge.LOCAL_HYPERPARAMETERS,
                Knowledge.INPUT_RANGE,
                Knowledge.AUXILIARY_RECORDS,
            }
        ),
        deviates=True,
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if self.pilot_steps < 0:
            raise ValueError(f"pilot_steps={self.pilot_steps} is not accepted: give an integer of at least 0.")
        for name in ("learning_rate", "answer_length"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give a number above 0.")
        if not 0 <= self.penalty_weight < math.inf:
            raise ValueError(f"penalty_weight={self.penalty_weight} is not accepted: give a number of at least 0.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return (
            f"{self.steps} answers to clients that step with them, and {self.pilot_steps + self.steps} steps of"
            f" {self.batch} auxiliary images; for all batches together"
        )

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        observations = last_observations(attacker)
        check_decodable(observations)
        lengths = [length_of(tuple(m.decoded().values())) for m in attacker.messages(MessageKind.CUT_GRADIENT)]
        honest = [length for length in lengths if 0 < length < math.inf]
        if not honest:
            raise UnavailableError("no cut gradient in the log says how long an honest answer is.")
        session = attacker.session([seen.number for seen in observations])
        decoder = self.hijacked(
            session,
            attacker.space.to_unit(attacker.auxiliary.images_BCHW),
            program_of(attacker),
            attacker.program.drawn_weights(self.seed),
            attacker.space,
            self._answer_length(torch.tensor(honest).median().item(), attacker.optimizer),
            progress,
        )
        rebuilt = []
        for seen in observations:
            unit_BCHW = decoder.images(session.replay(seen.number))
            images_BCHW = attacker.space.to_input(unit_BCHW)
            rebuilt.append(RebuiltBatch(number=seen.number, images_BCHW=images_BCHW, in_order=True, fit=None))
        return Findings(batches=tuple(rebuilt), budget=f"{self.budget}. {session.noticed()}")

    def _answer_length(self, honest_length: float, rule: LocalOptimizer) -> float:
        """Adam and AdamW divide by the length of what they are given, so theirs does not matter."""
        return self.answer_length * honest_length * (1 - rule.momentum)

    def hijacked(
        self,
        session: Session,
        auxiliary_BCHW: Tensor,
        program: Program,
        drawn: dict[str, Tensor],
        space: ImageSpace,
        answer_length: float,
        progress: Progress = unwatched,
    ) -> "HijackDecoder":
        """Hijack the clients of a session; what they send can be read afterwards.

        Args:
            session: The conversation with them.
            auxiliary_BCHW: Unit images of the same kind as the clients'.
            program: The client's half with weights of the attacker's choice.
            drawn: The pilot's weights at the start, which the attacker drew; they are left as they are.
            space: Where images lie.
            answer_length: How long the first answers are, all numbers together.
            progress: Told the share of the work done.

        Raises:
            ValueError: There are no auxiliary images.
        """
        if not len(auxiliary_BCHW):
            raise ValueError("auxiliary_BCHW of 0 images is not accepted: a pilot learns from at least one.")
        images_BCHW = wide(auxiliary_BCHW)
        draw = torch.Generator().manual_seed(self.seed)
        order = batches(len(images_BCHW), self.batch, draw)
        pilot = {name: weight.detach().clone().requires_grad_() for name, weight in drawn.items()}

        def sent_by_pilot(unit_BCHW: Tensor) -> Tensor:
            return as_map(program(pilot, space.to_input(unit_BCHW)), len(unit_BCHW))

        with torch.no_grad():
            example = sent_by_pilot(images_BCHW[next(order).to(images_BCHW.device)])
        with seeded(self.seed):
            network = InverseNetwork(example.cpu(), space, self.width)
            critic = Critic(example.shape[1], 0, self.width)
        network, critic = network.to(example), critic.to(example)
        makers = torch.optim.Adam([*pilot.values(), *network.parameters()], lr=self.learning_rate)
        critics = torch.optim.Adam(critic.parameters(), lr=self.learning_rate, betas=(0.5, 0.9))

        def trained_pilot() -> Tensor:
            unit_BCHW = images_BCHW[next(order).to(images_BCHW.device)]
            with torch.enable_grad():
                features = sent_by_pilot(unit_BCHW)
                makers.zero_grad()
                mse_loss(network(features), unit_BCHW).backward()
            makers.step()
            return features.detach()

        for _ in range(self.pilot_steps):
            trained_pilot()
        decoder = HijackDecoder(network, space)
        judge = ScaledCritic(critic, trained_pilot())
        for step in range(self.steps):
            share = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            for group in makers.param_groups:
                group["lr"] = share * self.learning_rate
            sent = session.send()
            ours = trained_pilot()
            theirs = tuple(wide(tensor) for tensor in sent.smashed)
            if carries_nothing(theirs):
                session.answer([torch.zeros_like(tensor) for tensor in sent.smashed])
                continue
            answer = judge.towards_pilot(theirs)
            scale = share * answer_length / max(length_of(answer), 1e-12)
            session.answer([(scale * part).to(tensor) for part, tensor in zip(answer, sent.smashed, strict=True)])
            apart = judge.distance(ours, as_map(theirs, len(theirs[0])), self.penalty_weight, draw)
            critics.zero_grad()
            apart.backward()
            critics.step()
            progress((step + 1) / self.steps)
        network.requires_grad_(requires_grad=False)
        return decoder


@dataclasses.dataclass(frozen=True)
class HijackDecoder:
    """Reads what hijacked clients send."""

    network: InverseNetwork
    space: ImageSpace

    def images(self, smashed: tuple[Tensor, ...]) -> Tensor:
        """Unit images; grey where what was sent is all zero or not all finite."""
        weight = next(self.network.parameters())
        records = len(smashed[0])
        if carries_nothing(smashed):
            return self.space.grey(records, weight.dtype, weight.device)
        with torch.no_grad():
            unit_BCHW: Tensor = self.network(as_map(smashed, records).to(weight))
        return unit_BCHW.clamp(0, 1)


class ScaledCritic:
    """A critic of features, divided by the spread that the pilot's have; high for clients, low for the pilot.

    Args:
        critic: The network.
        features: The pilot's, whose mean over records and places and whose spread are taken out.
    """

    def __init__(self, critic: Critic, features: Tensor) -> None:
        axes = [0, *range(2, features.ndim)]
        self._critic = critic
        self._mean = features.mean(axes, keepdim=True)
        self._spread = (features - self._mean).square().mean().sqrt().clamp_min(1e-12)

    def towards_pilot(self, smashed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradient of what clients send that makes them look more like the pilot when stepped against."""
        with torch.enable_grad():
            own = tuple(tensor.detach().requires_grad_() for tensor in smashed)
            called = self._called(as_map(own, len(own[0]))).mean()
            return torch.autograd.grad(called, own)

    def distance(self, pilot: Tensor, clients: Tensor, penalty_weight: float, draw: torch.Generator) -> Tensor:
        """What the critic is to make small: pilot minus clients, and how far its gradient's norm is from 1 between."""
        few = min(len(pilot), len(clients))
        with torch.enable_grad():
            mix = torch.rand((few, *[1] * (pilot.ndim - 1)), generator=draw).to(pilot)
            between = (mix * self._scaled(pilot[:few]) + (1 - mix) * self._scaled(clients[:few])).requires_grad_()
            (slope,) = torch.autograd.grad(self._critic(between, None).sum(), [between], create_graph=True)
            penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
            apart: Tensor = self._called(pilot).mean() - self._called(clients).mean() + penalty_weight * penalty
            return apart

    def _called(self, features: Tensor) -> Tensor:
        logit: Tensor = self._critic(self._scaled(features), None)
        return logit

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._spread


def length_of(tensors: tuple[Tensor, ...]) -> float:
    """The norm of all their numbers together."""
    return float(torch.stack([wide(tensor).square().sum() for tensor in tensors]).sum().sqrt())
