"""The trade-off report as a value: what each cut costs and what it leaks. Renderers turn it into files."""

import dataclasses
from enum import StrEnum
from typing import ClassVar

Pixels = tuple[tuple[tuple[int, ...], ...], ...]
"""Rows of pixels; a pixel is one value from 0 to 255 per channel."""


class Verdict(StrEnum):
    """What an attack shows. It can show a leak; it cannot show that there is none."""

    LEAKS = "leaks"
    INCONCLUSIVE = "inconclusive: the attack was too weak"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over records with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    records: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """An original record beside what an attack made of it."""

    original: Pixels
    reconstruction: Pixels
    psnr_db: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leakage:
    """What one attack recovered at one cut.

    Attributes:
        attack: Name of the attack.
        threat: What the attacker saw and knew.
        psnr_db: Peak signal-to-noise ratio of the reconstructions.
        ssim: Structural similarity of the reconstructions.
        baseline: Name of the best guess made without the messages.
        baseline_psnr_db: Its peak signal-to-noise ratio.
        baseline_ssim: Its structural similarity.
        psnr_gain_db: Reconstruction minus baseline, paired record by record.
        worst_record_psnr_db: Of the record that was rebuilt best.
        fit: How well the reconstructions explain what was sent, 0 being perfectly: the attacker's own measure.
        verdict: What this shows.
        budget: What the attacker spent.
        pictures: Some pairs of original and reconstruction.
    """

    attack: str
    threat: str
    psnr_db: Interval
    ssim: Interval
    baseline: str
    baseline_psnr_db: Interval
    baseline_ssim: Interval
    psnr_gain_db: Interval
    worst_record_psnr_db: float
    fit: float
    verdict: Verdict
    budget: str
    pictures: tuple[Picture, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutRow:
    """One cut: what training there cost and what leaked.

    Attributes:
        cut: Name of the cut module.
        accuracy: The trained global model's score on the validation set; None where nothing was trained.
        client_forward_flop_per_sample: A client's forward pass.
        client_backward_flop_per_sample: A client's backward pass.
        client_parameters: Number of parameters a client holds.
        client_parameter_byte: Their bytes.
        client_training_memory_byte: Weights, gradients, optimizer state, buffers and saved activations of a client.
        smashed_byte_per_sample: What crosses up per sample.
        uplink_byte_per_round: Payload all clients sent in a round, as metered on the link.
        downlink_byte_per_round: Payload all clients received in a round, as metered on the link.
        simulated_s_per_round: Simulated time of a round; None where no world was simulated.
        client_joule_per_round: What all clients' simulated devices took in a round; None where that is not modelled.
        train_wall_s: Wall time of the training.
        attack_wall_s: Wall time of the attack.
        leakage: What the attack recovered.
    """

    cut: str
    accuracy: float | None
    client_forward_flop_per_sample: float
    client_backward_flop_per_sample: float
    client_parameters: int
    client_parameter_byte: int
    client_training_memory_byte: int
    smashed_byte_per_sample: float
    uplink_byte_per_round: float | None
    downlink_byte_per_round: float | None
    simulated_s_per_round: float | None
    client_joule_per_round: float | None
    train_wall_s: float | None
    attack_wall_s: float
    leakage: Leakage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A trade-off report.

    Attributes:
        title: What was trained.
        created: When, ISO 8601.
        metric: Name of the accuracy.
        settings: How it was trained and attacked, for the reader.
        versions: Versions of the packages that made it.
        rows: One per cut, in order of execution.
        notes: What a reader must know to read the figures right.
    """

    schema: ClassVar[str] = "lightning-sfl trade-off report 1"

    title: str
    created: str
    metric: str
    settings: dict[str, str]
    versions: dict[str, str]
    rows: tuple[CutRow, ...]
    notes: tuple[str, ...]
