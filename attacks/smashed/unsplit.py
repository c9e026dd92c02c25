"""UnSplit: no weights, no data, no queries; the program alone."""

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
from attacks.smashed.descent import total_variation_B
from attacks.smashed.distance import carries_nothing, relative_distance, wide
from attacks.smashed.messages import QUERY_FREE, bound_of, program_of, rebuilt
from attacks.smashed.victim import Program
from attacks.threat import Knowledge, ThreatModel
from lightning_sfl.link.message import MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnSplit:
    """Images and a clone of the client's half, found together by turns.

    Erdogan, Küpçü and Çiçek 2022, "UnSplit" (WPES): from mid-range images and randomly drawn weights, 1000
    rounds of 100 steps of Adam (amsgrad) on the images, MSE(f̃(x), z) + 0.1·TV(x) + mean(x²), and 100 on the weights,
    MSE(f̃(x), z). Here the distance is divided by mean(z²), pixels are kept in the box, and x in the penalty is what the
    model sees.

    Every message has a clone of its own, drawn anew; what was sent is only read; what is found is given as it is,
    neither stretched nor shifted. (The published code carries the clone from image to image, sends gradients into the
    victim's weights, and stretches every picture to the full range before it is scored.)

    Args:
        rounds: Turns. The published 1000 cost minutes per image; with far fewer nothing is learned of a deep cut.
        image_steps: Steps on the images in each turn.
        weight_steps: Steps on the weights in each turn.
        learning_rate: Of both.
        prior_weight: Of the mean squared difference of neighbouring pixels.
        energy_weight: Of the mean square of what the model sees.
    """

    rounds: int = 1000
    image_steps: int = 100
    weight_steps: int = 100
    learning_rate: float = 1e-3
    prior_weight: float = 0.1
    energy_weight: float = 1.0

    name: ClassVar[str] = "UnSplit"
    needs: ClassVar[ThreatModel] = dataclasses.replace(
        QUERY_FREE,
        sees=frozenset({MessageKind.SMASHED}),
        knows=frozenset({Knowledge.ARCHITECTURE, Knowledge.INPUT_RANGE}),
    )

    def __post_init__(self) -> None:
        for name in ("rounds", "image_steps", "weight_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")
        for name in ("prior_weight", "energy_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give a number of at least 0.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return f"{self.rounds} rounds of {self.image_steps} + {self.weight_steps} steps per message"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        observations, program = last_observations(attacker), program_of(attacker)

        def rebuild(seen: Observation, part: Progress) -> Reconstruction:
            drawn = attacker.program.drawn_weights(seen.number)  # a clone of its own for every message
            return self.reconstruct(seen.smashed, program, drawn, attacker.space, seen.records, part)

        return Findings(
            batches=rebuilt(attacker, observations, rebuild, progress),
            budget=f"{self.budget}, {len(observations)} messages",
            bound=bound_of(observations),
        )

    def reconstruct(
        self,
        target: tuple[Tensor, ...],
        program: Program,
        drawn: Mapping[str, Tensor],
        space: ImageSpace,
        records: int,
        progress: Progress = unwatched,
    ) -> Reconstruction:
        """Rebuild a batch of images from one message.

        Args:
            target: The smashed data, as decoded.
            program: The client's half with weights of the attacker's choice.
            drawn: The clone's weights at the start, which the attacker drew; they are left as they are.
            space: Where the images lie.
            records: How many.
            progress: Told the share of the work done.

        Returns:
            The batch; grey with a fit of 1 where the smashed data are all zero or not all finite. The fit is that of
            the clone, which may explain what was sent by images that are nothing like it.
        """
        sent = tuple(wide(tensor.detach()) for tensor in target)
        unit_BCHW = space.grey(records, sent[0].dtype, sent[0].device)
        if carries_nothing(sent):
            return Reconstruction(unit_BCHW=unit_BCHW, fit=1.0, iterations=0)
        unit_BCHW.requires_grad_()
        clone = {name: weight.detach().clone().requires_grad_() for name, weight in drawn.items()}
        on_images = torch.optim.Adam([unit_BCHW], lr=self.learning_rate, amsgrad=True)
        on_weights = torch.optim.Adam(clone.values(), lr=self.learning_rate, amsgrad=True)
        with torch.enable_grad():
            for turn in range(self.rounds):
                for _ in range(self.image_steps):
                    seen_BCHW = space.to_input(unit_BCHW)
                    distance = relative_distance(program(clone, seen_BCHW), sent)
                    rough = self.prior_weight * total_variation_B(seen_BCHW).mean()
                    (distance + rough + self.energy_weight * seen_BCHW.square().mean()).backward(inputs=[unit_BCHW])
                    on_images.step()
                    on_images.zero_grad()
                    with torch.no_grad():
                        unit_BCHW.clamp_(0, 1)
                still_BCHW = space.to_input(unit_BCHW.detach())
                for _ in range(self.weight_steps):
                    relative_distance(program(clone, still_BCHW), sent).backward(inputs=list(clone.values()))
                    on_weights.step()
                    on_weights.zero_grad()
                progress((turn + 1) / self.rounds)
        with torch.no_grad():
            fit = float(relative_distance(program(clone, space.to_input(unit_BCHW)), sent))
        steps = self.rounds * (self.image_steps + self.weight_steps)
        return Reconstruction(unit_BCHW=unit_BCHW.detach(), fit=fit, iterations=steps)
