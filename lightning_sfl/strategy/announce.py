"""What a fit says of itself when it starts."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import nn

from lightning_sfl.data.loader import ClientLoader


def announce(loader: ClientLoader, algorithm: str, module: nn.Module, *, keeps_state: bool) -> None:
    """Say how many clients take part, how large their batches are together, and how long an epoch is."""
    sizes = [len(part) for part in loader.parts]
    pairs = list(zip(sizes, loader.batch_sizes, strict=True))
    schedule = loader.schedule
    effective = schedule.clients_per_round * sum(min(pair) for pair in pairs) / len(sizes) * loader.accumulates
    batches = "" if loader.accumulates == 1 else f" in {loader.accumulates} steps"
    rank_zero_info(
        f"split_federated: {algorithm}, {len(sizes)} clients ({schedule.clients_per_round} per round) with"
        f" {min(sizes)} to {max(sizes)} samples; effective batch {effective:g}{batches}, {len(loader)} steps per epoch."
    )
    if (small := sum(size < batch for size, batch in pairs)) > 0:
        batches = " or ".join(map(str, sorted({batch for size, batch in pairs if size < batch})))
        rank_zero_info(f"{small} clients hold fewer samples than a batch of {batches}; they use all they have.")
    if keeps_state:
        rank_zero_info(
            "client_optimizer_state='keep': memory for optimizer state grows with every client that takes part."
        )
    single = [client for client, (size, batch) in enumerate(pairs) if size % batch == 1]
    if (
        len(sizes) > 1
        and single
        and not loader.drop_last
        and any(isinstance(part, nn.BatchNorm1d) for part in module.modules())
    ):
        named = ", ".join(map(str, single[:5])) + (", ..." if len(single) > 5 else "")
        rank_zero_warn(
            f"The last batch of {len(single)} clients (client {named}) has a single sample, which batch normalisation"
            " may refuse. Give the loader drop_last=True, or another batch_size."
        )


def warn_of_long_schedules(configs: Sequence[LRSchedulerConfig], steps: float) -> None:
    """Warn of schedules in steps that were laid out for plain training: the run would end too early for them."""
    for config in configs:
        horizon = _horizon(config.scheduler)
        if config.interval == "step" and horizon is not None and 0 < steps < horizon:
            rank_zero_warn(
                f"{type(config.scheduler).__name__} is laid out for {horizon} steps, but this run has {steps:g}: with"
                " several clients an epoch has fewer steps than in plain training."
            )


def _horizon(scheduler: Any) -> int | None:
    """How many scheduler steps a schedule is laid out for, where it says so."""
    for attribute in ("T_max", "total_steps", "total_iters"):
        value = getattr(scheduler, attribute, None)
        if isinstance(value, int):
            return value
    return None
