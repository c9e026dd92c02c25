"""Labels of an update's batch, from the gradient of the model's last layer."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.attack import Findings, GuessedLabels
from attacks.attacker import Attacker, UnavailableError
from attacks.gradients.labels import counts_by_bias, idlg_by_bias, labels_of
from attacks.gradients.messages import OF_UPDATES, Target, whole_model_targets
from attacks.reconstruction import Progress
from attacks.threat import Knowledge, ThreatModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """How often every class is in a batch, from an update of the whole model.

    One record: exact (iDLG, Zhao et al. 2020). Several: counts from the bias of the last layer and the model's answers
    to auxiliary images (:func:`attacks.gradients.labels.counts_by_bias`).
    """

    name: ClassVar[str] = "label counts"
    needs: ClassVar[ThreatModel] = dataclasses.replace(OF_UPDATES, knows=OF_UPDATES.knows - {Knowledge.INPUT_RANGE})

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return "closed form, one gradient of auxiliary images"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        found = []
        targets = whole_model_targets(attacker)
        for place, target in enumerate(targets):
            labels = labels_in(attacker, target)
            found.append(GuessedLabels(number=target.update.number, labels_B=labels, in_order=target.records == 1))
            progress((place + 1) / len(targets))
        return Findings(batches=tuple(found), budget=f"{self.budget}, {len(targets)} updates")


def labels_in(attacker: Attacker, target: Target) -> Tensor:
    """The labels of an update's batch in ascending order, int64 (B,).

    Raises:
        UnavailableError: No last layer with a bias is among what was sent.
    """
    name = last_bias(attacker, target)
    bias_K = target.gradients[target.names.index(name)]
    if target.records == 1:
        return torch.tensor([idlg_by_bias(bias_K)])
    return labels_of(counts_by_bias(bias_K, _mean_probability(attacker, target, name, len(bias_K)), target.records))


def last_bias(attacker: Attacker, target: Target) -> str:
    """The name of the last fully connected layer's bias.

    Raises:
        UnavailableError: None is among what was sent.
    """
    layers = [name for name, part in attacker.program.module.named_modules() if isinstance(part, nn.Linear)]
    biases = [f"{name}.bias" for name in layers if f"{name}.bias" in target.names]
    if not biases:
        raise UnavailableError("no fully connected layer with a bias is among what clients send.")
    return biases[-1]


def _mean_probability(attacker: Attacker, target: Target, name: str, classes: int) -> Tensor:
    """What the victim answers to auxiliary images on average: its last bias moves by p - y, and their y are known."""
    auxiliary = attacker.auxiliary
    labels = auxiliary.labels_B
    if labels is None:
        labels = torch.zeros(len(auxiliary.images_BCHW), dtype=torch.int64)  # any will do: they are taken off again
    with torch.no_grad():
        moved = target.mean_gradient_of(auxiliary.images_BCHW, labels)[target.names.index(name)]
    share = torch.bincount(labels, minlength=classes).double() / len(labels)
    return moved.double() + share
