"""Labels from clusters of gradients, or of smashed data."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from attacks.attack import Findings, GuessedLabels
from attacks.attacker import Attacker
from attacks.labels.direction import WITH_KNOWN_LABELS
from attacks.labels.k_means import k_means, named
from attacks.labels.label_attack import LabelAttack
from attacks.labels.rows import Rows, gradient_rows, joined, parted, references, smashed_rows
from attacks.reconstruction import Progress
from attacks.threat import ThreatModel
from lightning_sfl.link.message import MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientClusters(LabelAttack):
    """Gradients in clusters by their directions, each named by one known record (similarity and k-means attacks).

    Records of one class are pulled the same way. As many clusters as classes are sought, from the known records and
    from random rows; those of least spread are kept. Clusters are matched to known records one to one.

    Args:
        random_starts: How often to begin from random rows.
        seed: Seeds their drawing.
    """

    name: ClassVar[str] = "clusters of gradients"
    needs: ClassVar[ThreatModel] = WITH_KNOWN_LABELS

    random_starts: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.random_starts < 0:
            raise ValueError(f"random_starts={self.random_starts} is not accepted: give an integer of at least 0.")

    @property
    @override
    def budget(self) -> str:
        return f"k-means from 1 + {self.random_starts} starts, one known record per class"

    @override
    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        return self.clustered(attacker, gradient_rows(attacker), progress, on_sphere=True)

    def clustered(
        self, attacker: Attacker, batches: Sequence[Rows], progress: Progress, *, on_sphere: bool
    ) -> Findings:
        """Name the clusters of these rows."""
        known = references(attacker, batches)
        labels_N = clustered_labels(
            joined(batches),
            torch.stack(list(known.values())),
            torch.tensor(list(known)),
            random_starts=self.random_starts,
            on_sphere=on_sphere,
            seed=self.seed,
        )
        progress(1.0)
        found = tuple(
            GuessedLabels(number=batch.number, labels_B=part, in_order=True)
            for batch, part in zip(batches, parted(labels_N, batches), strict=True)
        )
        return Findings(batches=found, budget=f"{self.budget}, {len(known)} classes, {len(batches)} batches")


def clustered_labels(
    rows_ND: Tensor, references_KD: Tensor, classes_K: Tensor, *, random_starts: int, on_sphere: bool, seed: int
) -> Tensor:
    """The class of every row: that of its cluster's reference, (N,)."""
    found = k_means(
        rows_ND,
        [references_KD],
        clusters=len(classes_K),
        random_starts=random_starts,
        on_sphere=on_sphere,
        seed=seed,
    )
    near_KD = normalize(references_KD, eps=1e-300) if on_sphere else references_KD
    return classes_K[named(found.centres_KD, near_KD)][found.cluster_N.cpu()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmashedClusters(GradientClusters):
    """Smashed data in clusters by Euclidean distance, named likewise: what a model has learned lies near its class."""

    name: ClassVar[str] = "clusters of smashed data"
    needs: ClassVar[ThreatModel] = dataclasses.replace(
        WITH_KNOWN_LABELS,
        name="who reads smashed data and knows a few labels",
        description="Who sees the smashed data, and knows the class of one of the records of each class.",
        sees=frozenset({MessageKind.SMASHED}),
    )

    @override
    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        return self.clustered(attacker, smashed_rows(attacker), progress, on_sphere=False)
