"""Inverting the update of a client's half, with the cut gradient that made it."""

import dataclasses
from typing import ClassVar

import torch

from attacks.attack import Findings
from attacks.attacker import Attacker
from attacks.gradients.inverting import InvertingGradients
from attacks.gradients.messages import OF_HALF_UPDATES, Target, half_targets, rebuild_each
from attacks.reconstruction import Progress, Reconstruction
from attacks.threat import ThreatModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvertingHalfGradients(InvertingGradients):
    """Gradient matching where a client holds the layers before a cut only.

    What it sends is Jᵀ·g, with the cut gradient g that it was sent and the Jacobian J of its own layers, so an attacker
    who sees both needs neither labels nor the server's half. The smashed data themselves are not used.
    The cut gradients say which record was in which step, so none changes places.
    """

    name: ClassVar[str] = "inverting gradients of the client's half"
    needs: ClassVar[ThreatModel] = OF_HALF_UPDATES

    def targets(self, attacker: Attacker) -> list[Target]:
        """See :meth:`InvertingGradients.targets`."""
        return half_targets(attacker)

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        targets = self.targets(attacker)
        first = targets[0]
        blank = torch.zeros(first.records, dtype=torch.int64)  # labels do not matter here
        chosen = self.tuned(first.gradient_of, attacker.auxiliary_unit, blank, attacker.space)

        def rebuild(target: Target, part: Progress) -> Reconstruction:
            labels = torch.zeros(target.records, dtype=torch.int64)
            return chosen.reconstruct(target.gradient_of, target.gradients, labels, attacker.space, part)

        return Findings(
            batches=rebuild_each(attacker, targets, rebuild, progress),
            budget=f"{self.budget}, total variation {chosen.total_variation_weights[0]:g}, {len(targets)} updates",
        )
