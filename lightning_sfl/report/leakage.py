"""What attacks recovered, as values: one cell per cut and attack, with everything a reader needs to judge it."""

import dataclasses
from enum import StrEnum

Pixels = tuple[tuple[tuple[int, ...], ...], ...]
"""Rows of pixels; a pixel is one value from 0 to 255 per channel."""

IMAGES_IN = "PSNR (dB)"
"""What attacks on images are measured in."""


class Verdict(StrEnum):
    """What an attack shows. It can show a leak; it cannot show that there is none."""

    LEAKS = "leaks"
    PARTLY = "leaks partly"
    INCONCLUSIVE = "inconclusive: the attack was too weak"
    BOUNDED = "bounded"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over records with its 95 % confidence interval.

    Attributes:
        mean: The mean.
        low: The interval's lower end; None where there are fewer than 2 records.
        high: Its upper end; None likewise.
        records: How many records.
        clients: Of how many clients; whole clients are resampled, since records of one are alike.
    """

    mean: float
    low: float | None
    high: float | None
    records: int
    clients: int

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Both ends; None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A guess that is made without the messages under attack.

    Attributes:
        name: Its name.
        value: How well it does, in the cell's measure.
        uses_truth: Whether it is chosen knowing the record, which no attacker can: shown for comparison, and never what
            a gain is counted from.
    """

    name: str
    value: Interval
    uses_truth: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
    """The same attack where it must succeed.

    Attributes:
        victim: What it attacked.
        value: How well it did, in the cell's measure.
        needed: What it had to reach.
    """

    victim: str
    value: float
    needed: float

    @property
    def passed(self) -> bool:
        """Whether the attack works."""
        return self.value >= self.needed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Victim:
    """The state of what was attacked.

    Attributes:
        round: The round of the messages; 0 is an untrained victim's, unless it began from trained weights.
        trained: How far it was trained, in words.
        mode: Training or evaluation mode, or which of its modules were in which.
        batch_norm: Which statistics batch normalisation used.
        dropout: Whether the client's dropout was at work.
        dtype: Type of what crossed.
        encoded: Codecs that it went through; "none" where there are none.
        batch_sizes: Sizes of the attacked batches, ascending, each once.
        repeated_labels: Share of the records whose label another record of their batch has; None where labels are not
            classes.
    """

    round: int
    trained: str
    mode: str
    batch_norm: str
    dropout: str
    dtype: str
    encoded: str
    batch_sizes: tuple[int, ...]
    repeated_labels: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """An original record beside what an attack made of it.

    Attributes:
        which: "worst" for the record that was rebuilt best, "median" for the middle one, else "".
        original: The record.
        reconstruction: What came back.
        psnr_db: How alike they are.
    """

    which: str
    original: Pixels
    reconstruction: Pixels
    psnr_db: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leakage:
    """What one attack recovered at one cut.

    Attributes:
        cut: The cut; "whole model" where clients hold all of it.
        attack: Name of the attack.
        recovers: "images" or "labels".
        parties: Who could do it, by the names of the threat models that grant what it needs.
        sees: Kinds of messages it read.
        knows: What it knew besides.
        victim: The state of what was attacked.
        measure: What ``value``, baselines, gain, worst record, threshold and control are given in; of images always
            ``IMAGES_IN``, so that attacks on them can be compared.
        value: How well the attack did.
        baseline: Name of the best guess without the messages.
        baselines: All such guesses.
        gain: The attack minus the best guess, paired record by record.
        p_value: That the gain is not above 0, by resampling.
        p_adjusted: The same after Holm's correction over all cells of the report.
        worst_record: Of the record that was recovered best; of labels, of the client.
        threshold: From which value on a record counts as recovered.
        share_recovered: Share of the records at or above it.
        records_beyond: How many records reach the threshold and come at least 10 dB nearer than every guess for that
            record, the auxiliary image nearest to it among them. Of images alone.
        others: Further measures, by name.
        control: The same attack where it must succeed; None where none could be made.
        fit: How far what was sent is from what the attack's result would send, 0 being no distance: the attacker's own
            measure; None where it has none.
        verdict: What this shows.
        reason: Why, in a sentence.
        bound: What bounds every attack on these messages; "" where nothing is known to.
        budget: What the attacker spent.
        cpu_s: CPU seconds of it.
        pictures: Some pairs of original and reconstruction.
        left_out: What could not be measured or scored, with the reason.
    """

    cut: str
    attack: str
    recovers: str
    parties: tuple[str, ...]
    sees: tuple[str, ...]
    knows: tuple[str, ...]
    victim: Victim
    measure: str
    value: Interval
    baseline: str
    baselines: tuple[Baseline, ...]
    gain: Interval
    p_value: float
    p_adjusted: float
    worst_record: float
    threshold: float
    share_recovered: float
    others: dict[str, Interval]
    control: Control | None
    fit: float | None
    verdict: Verdict
    reason: str
    bound: str
    budget: str
    cpu_s: float
    pictures: tuple[Picture, ...] = ()
    records_beyond: int = 0
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def best_guess(self) -> Baseline:
        """The best guess without the messages."""
        return next(found for found in self.baselines if found.name == self.baseline)

    @property
    def records_recovered(self) -> int:
        """How many records reach the threshold: one is a breach, and a share of many rounds it away."""
        return round(self.share_recovered * self.value.records)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotRun:
    """An attack that could not be tried at a cut.

    Attributes:
        cut: The cut.
        attack: The attack.
        reason: Why not.
    """

    cut: str
    attack: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutLeakage:
    """Everything that was tried at one cut.

    Attributes:
        cut: The cut.
        cells: One per attack that ran.
        not_run: The others.
        wall_s: Wall time of all of it.
        indicators: Metrics without an attack, by name: they explain a leak and show none.
        notes: What a reader must know of this cut beside what attacks found, such as labels that cross in clear.
    """

    cut: str
    cells: tuple[Leakage, ...]
    not_run: tuple[NotRun, ...]
    wall_s: float
    indicators: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def strongest(self) -> Leakage | None:
        """The attack on images with the largest gain over guessing; None where none ran."""
        on_images = [cell for cell in self.cells if cell.recovers == "images"]
        return max(on_images, key=lambda cell: cell.gain.mean, default=None)

    @property
    def others(self) -> tuple[Leakage, ...]:
        """The cells beside the strongest."""
        return tuple(cell for cell in self.cells if cell is not self.strongest)
