"""Learning to invert: a network that is trained to turn gradients into images."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.attack import Findings
from attacks.attacker import Attacker, UnavailableError
from attacks.gradients.messages import OF_UPDATES, rebuild_each, whole_model_targets
from attacks.gradients.victim import GradientOf, Gradients, carries_nothing, observed
from attacks.images import ImageSpace
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.threat import ThreatModel

Defence = Callable[[Gradients], Gradients]
"""What the victim does to its gradient before sending it, as the attacker can imitate it."""


def undefended(gradients: Gradients) -> Gradients:
    """The gradient as it is."""
    return gradients


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningToInvert:
    """A network from gradients to images, trained on auxiliary images.

    Wu et al. 2023, "Learning To Invert: Simple Adaptive Attacks for Gradient Inversion in Federated Learning":
    the attacker makes (gradient, image) pairs with its own images through the victim's model and
    the victim's defence, and fits a fully connected network by mean squared error. It needs no derivative of the
    defence, so it stands against pruning, signs and quantisation. Each gradient is of one record. Large gradients are
    first projected by random signs into ``features`` buckets (their hashing); ours: then set to mean 0 and deviation 1
    by the auxiliary gradients.

    Args:
        features: Numbers that a gradient is projected to.
        width: Of the two hidden layers.
        iterations: Steps of Adam on the network.
        batch: Pairs in a step.
        learning_rate: Of Adam; falls to 0 along a cosine.
        seed: Seeds projection, network and order of pairs.
    """

    features: int = 2048
    width: int = 512
    iterations: int = 400
    batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0

    name: ClassVar[str] = "learning to invert"
    needs: ClassVar[ThreatModel] = OF_UPDATES

    def __post_init__(self) -> None:
        for name in ("features", "width", "iterations", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")

    @property
    def budget(self) -> str:
        """What one attack spends."""
        return f"{self.iterations} steps of {self.batch} on a network, and one gradient for each auxiliary image"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`. Updates of one record each can be attacked."""
        targets = [target for target in whole_model_targets(attacker) if target.records == 1]
        if not targets:
            raise UnavailableError("it inverts the gradient of one record, and every update stems from several.")
        auxiliary, space = attacker.auxiliary, attacker.space
        labels = auxiliary.labels_B
        if labels is None:
            raise UnavailableError("it needs auxiliary records with class labels, and these have none.")
        # Every client was sent the same weights.
        images = space.to_unit(auxiliary.images_BCHW)
        learned = self.fit(targets[0].gradient_of, images, labels, space, progress=lambda share: progress(share / 2))
        return Findings(
            batches=rebuild_each(
                attacker,
                [target for target in targets if target.update.round == targets[0].update.round],
                lambda target, part: learned.reconstruct(target.gradients),
                lambda share: progress((1 + share) / 2),
            ),
            budget=f"{self.budget}, {len(images)} auxiliary images",
        )

    def fit(
        self,
        gradient_of: GradientOf,
        auxiliary_BCHW: Tensor,
        labels_B: Tensor,
        space: ImageSpace,
        defence: Defence = undefended,
        progress: Progress = unwatched,
    ) -> "GradientInverter":
        """Train the network; one serves every gradient of one record from that victim.

        Args:
            gradient_of: The victim as the attacker runs it.
            auxiliary_BCHW: Unit images.
            labels_B: A label for each; any will do, the victim's are not known.
            space: Where the images lie.
            defence: What the victim does to its gradient.
            progress: Told the share of the work done.
        """
        if len(auxiliary_BCHW) < 2 or len(labels_B) != len(auxiliary_BCHW):
            raise ValueError(
                f"auxiliary_BCHW of {len(auxiliary_BCHW)} images with {len(labels_B)} labels is not accepted: give at"
                " least 2, each with a label."
            )
        draw = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            made = [
                observed(defence(gradient_of(space.to_input(image[None]), label[None])))
                for image, label in zip(auxiliary_BCHW, labels_B, strict=True)
            ]
        length = sum(tensor.numel() for tensor in made[0])
        device = made[0][0].device
        projection = _Projection.drawn(length, self.features, draw, device)
        features_BF = torch.stack([projection(gradients) for gradients in made])
        centre_F, spread_F = features_BF.mean(0), features_BF.std(0).clamp_min(1e-12)
        features_BF = (features_BF - centre_F) / spread_F
        wanted_BP = auxiliary_BCHW.to(device=device, dtype=features_BF.dtype).flatten(1)
        network = self._network(features_BF.shape[1], wanted_BP.shape[1], draw).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        for step in range(self.iterations):
            places = torch.randint(len(wanted_BP), (self.batch,), generator=draw).to(device)
            optimizer.param_groups[0]["lr"] = self.learning_rate * (1 + math.cos(math.pi * step / self.iterations)) / 2
            optimizer.zero_grad()
            (network(features_BF[places]) - wanted_BP[places]).square().mean().backward()
            optimizer.step()
            progress((step + 1) / self.iterations)
        with torch.no_grad():
            error = float((network(features_BF) - wanted_BP).square().mean() / wanted_BP.var().clamp_min(1e-12))
        return GradientInverter(network, projection, centre_F, spread_F, space, min(error, 1.0), self.iterations)

    def _network(self, inputs: int, outputs: int, draw: torch.Generator) -> nn.Sequential:
        widths = (inputs, self.width, self.width, outputs)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            # Skipping the default start leaves the global random state alone.
            linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
            bound = fan_in**-0.5
            with torch.no_grad():
                linear.weight.copy_((2 * torch.rand(linear.weight.shape, generator=draw) - 1) * bound)
                linear.bias.zero_()
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1], nn.Sigmoid())


@dataclasses.dataclass(frozen=True)
class _Projection:
    """Signed sums of buckets of entries: keeps lengths on average, and costs one pass."""

    bucket_L: Tensor
    sign_L: Tensor
    features: int

    @classmethod
    def drawn(cls, length: int, features: int, draw: torch.Generator, device: torch.device) -> "_Projection":
        if features >= length:
            return cls(torch.arange(length, device=device), torch.ones(length, device=device), length)
        bucket = torch.randint(features, (length,), generator=draw)
        sign = 2.0 * torch.randint(2, (length,), generator=draw) - 1
        return cls(bucket.to(device), sign.to(device), features)

    def __call__(self, gradients: Gradients) -> Tensor:
        flat_L = torch.cat([tensor.flatten() for tensor in gradients])
        return flat_L.new_zeros(self.features).index_add_(0, self.bucket_L, flat_L * self.sign_L.to(flat_L))


@dataclasses.dataclass(frozen=True)
class GradientInverter:
    """The trained network.

    Attributes:
        network: From projected gradients to pixels.
        projection: Of gradients.
        centre_F: Subtracted from projected gradients.
        spread_F: Then divided by.
        space: Where the images lie.
        fit: Squared error on the auxiliary images against their variance: all that the attacker knows of success.
        iterations: Steps of training.
    """

    network: nn.Module
    projection: Callable[[Gradients], Tensor]
    centre_F: Tensor
    spread_F: Tensor
    space: ImageSpace
    fit: float
    iterations: int

    def reconstruct(self, seen: Gradients) -> Reconstruction:
        """Rebuild one record from its gradient; grey with a fit of 1 where that is zero or not finite."""
        seen = observed(seen)
        if carries_nothing(seen):
            grey = self.space.grey(1, device=seen[0].device)
            return Reconstruction(unit_BCHW=grey, fit=1.0, iterations=self.iterations)
        with torch.no_grad():
            features_F = (self.projection(seen) - self.centre_F) / self.spread_F
            unit_BCHW = self.network(features_F[None]).view(1, *self.space.shape_CHW)
        return Reconstruction(unit_BCHW=unit_BCHW, fit=self.fit, iterations=self.iterations)
