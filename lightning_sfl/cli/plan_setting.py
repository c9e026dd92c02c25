"""What a plan is made for: the clients' environment and batches, and what the strategy does with them."""

import dataclasses
from collections.abc import Mapping, Sized
from typing import Literal, cast

import numpy as np

from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.callbacks.efficiency import EfficiencyMonitor
from lightning_sfl.cli.job import Run, monitor_among
from lightning_sfl.data.partition import Indices
from lightning_sfl.link.message import MessageKind
from lightning_sfl.schedule import Schedule
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.environments import Environment, make_environment


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PlanSetting:
    """What a plan is made for.

    Attributes:
        environment: Devices, channel and server.
        name: What the environment is called.
        seed: The seed that it was drawn with.
        flop_per_mac: As what its speeds count a multiply-accumulate.
        algorithm: The algorithm.
        probes: Probes per step of clients that run forward only; None for all other algorithms.
        schedule: Who takes part when.
        steps_per_round: Mini-batches of every participant between two aggregations.
        nominal_batch_size: Samples per step.
        batch_size: Every registered client's own, which is smaller where a client holds less, (N,).
        knows_shares: Whether that is known; else the nominal one is every client's.
        sends_state: Whether optimizer state goes with the weights.
        bits: Every registered client's bits per element that crosses at the cut, (N,); None: as computed.
        quantised: Which registered clients' messages of a kind these are the bits of, (N,) each.
        uncounted: The codecs, if they are such as the plan does not count.
    """

    environment: Environment
    name: str
    seed: int
    flop_per_mac: Literal[1, 2]
    algorithm: str
    probes: int | None
    schedule: Schedule
    steps_per_round: int
    nominal_batch_size: int
    batch_size: IntArray
    knows_shares: bool
    sends_state: bool
    bits: FloatArray | None
    quantised: Mapping[MessageKind, BoolArray]
    uncounted: str | None


def setting_of(run: Run, environment: str | None) -> PlanSetting:
    """The setting of a run, in the environment of this name or else that of its efficiency monitor.

    A monitor's seed draws any environment; as what speeds count a multiply-accumulate is said of its own alone.

    Raises:
        ValueError: There is no such environment, it is smaller than there are clients, or there are fewer samples.
    """
    strategy = run.strategy
    monitor = monitor_among(run.trainer) or EfficiencyMonitor()
    found = monitor.environment if environment is None else environment
    world = make_environment(found, strategy.num_clients, monitor.seed) if isinstance(found, str) else found
    world.check(strategy.num_clients)
    sizes, knows_shares = _batch_sizes(run)
    bits = strategy.codecs.quantiser_bits(strategy.num_clients)
    return PlanSetting(
        environment=world,
        name=found if isinstance(found, str) else "the EfficiencyMonitor's own",
        seed=monitor.seed,
        flop_per_mac=monitor.flop_per_mac if environment is None else 2,
        algorithm=strategy.algorithm.name,
        probes=strategy.algorithm.probes if isinstance(strategy.algorithm, ForwardOnly) else None,
        schedule=strategy.algorithm.schedule(
            num_clients=strategy.num_clients,
            clients_per_round=strategy.clients_per_round,
            steps_per_round=strategy.aggregate_every,
            seed=strategy.seed,
        ),
        steps_per_round=strategy.aggregate_every * run.trainer.accumulate_grad_batches,
        nominal_batch_size=run.batch_size,
        batch_size=sizes,
        knows_shares=knows_shares,
        sends_state=strategy.client_optimizer_state == "average",
        bits=None if bits is None else np.array(bits, dtype=np.float64),
        quantised={kind: np.array(whose) for kind, whose in strategy.codecs.quantised(strategy.num_clients).items()},
        uncounted=str(strategy.codecs) if bits is None else None,
    )


class _NeedsLabels(Exception):
    """A partition goes by label."""


def _batch_sizes(run: Run) -> tuple[IntArray, bool]:
    """Every client's samples per step, and whether what it holds is known: labels are not read for that."""
    strategy, nominal = run.strategy, run.batch_size
    held = len(cast(Sized, run.training_loader().dataset))
    if strategy.num_clients > held:
        raise ValueError(f"num_clients={strategy.num_clients} is more than the training set has samples ({held}).")
    try:
        parts = strategy.partition.split(held, strategy.num_clients, _unread, strategy.seed)
    except _NeedsLabels:
        return np.full(strategy.num_clients, nominal), False
    return np.array([min(nominal, len(part)) for part in parts]), True


def _unread() -> Indices:
    raise _NeedsLabels
