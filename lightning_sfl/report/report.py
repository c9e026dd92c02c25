"""The trade-off report as a value: what each cut costs and what it leaks. Renderers turn it into files."""

import dataclasses
from typing import ClassVar

from lightning_sfl.report.leakage import CutLeakage


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionRow:
    """What a policy decided between two rounds.

    Attributes:
        round: The first round that it holds for.
        clients: For how many clients.
        cuts: How often each cut was given, in words.
        batch_sizes: The same of batch sizes.
        bits: The same of bits per element; empty where nobody has a quantiser.
        controls: The least and the largest power, clock and bandwidth, with their units, as far as they are allocated.
        reason: Why.
    """

    round: int
    clients: int
    cuts: str
    batch_sizes: str
    bits: str
    controls: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutRow:
    """One training: what it cost at its cut and what leaked there. Costs that were not counted are None.

    Attributes:
        cut: Name of the cut module; of a training under a policy, a name that no cut has.
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
        leakage: What attacks recovered; None where none was tried.
        policy: The policy that moved the cuts; None where everybody cut there all the time.
        decisions: What it decided, in order.
    """

    cut: str
    accuracy: float | None
    client_forward_flop_per_sample: float | None
    client_backward_flop_per_sample: float | None
    client_parameters: int | None
    client_parameter_byte: int | None
    client_training_memory_byte: int | None
    smashed_byte_per_sample: float | None
    uplink_byte_per_round: float | None
    downlink_byte_per_round: float | None
    simulated_s_per_round: float | None
    client_joule_per_round: float | None
    train_wall_s: float | None
    leakage: CutLeakage | None
    policy: str | None = None
    decisions: tuple[DecisionRow, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A trade-off report.

    Attributes:
        title: What was trained.
        created: When, ISO 8601.
        metric: Name of the accuracy.
        settings: How it was trained and attacked, for the reader.
        versions: Versions of the packages that made it.
        rows: One per cut, in order of execution; then that of the policy, where there is one.
        notes: What a reader must know to read the figures right.
    """

    schema: ClassVar[str] = "lightning-sfl trade-off report 4"

    title: str
    created: str
    metric: str
    settings: dict[str, str]
    versions: dict[str, str]
    rows: tuple[CutRow, ...]
    notes: tuple[str, ...]


def leakage_row(found: CutLeakage) -> CutRow:
    """A row of what leaked alone, without any costs."""
    return CutRow(
        cut=found.cut,
        accuracy=None,
        client_forward_flop_per_sample=None,
        client_backward_flop_per_sample=None,
        client_parameters=None,
        client_parameter_byte=None,
        client_training_memory_byte=None,
        smashed_byte_per_sample=None,
        uplink_byte_per_round=None,
        downlink_byte_per_round=None,
        simulated_s_per_round=None,
        client_joule_per_round=None,
        train_wall_s=None,
        leakage=found,
    )
