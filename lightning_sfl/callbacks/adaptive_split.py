"""A callback that lets a policy decide while a run trains."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sfl.allocation import Allocation
from lightning_sfl.callbacks import loggers
from lightning_sfl.callbacks.efficiency import EfficiencyMonitor
from lightning_sfl.callbacks.observed import ObservedGradients, ObservedRounds
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.policies.decision import Decision, Policy, check
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.strategy.split_federated import SplitFederatedStrategy
from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.channel.seen import CSI, as_seen, check_csi
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.world import World

COLUMNS = ("round", "clients", "cuts", "batch_sizes", "bits", "controls", "reason")
_CONTROLS = {"transmit_power_watt": ("W", 1.0), "clock_hz": ("MHz clock", 1e6), "bandwidth_hz": ("MHz band", 1e6)}


class AdaptiveSplit(pl.Callback):
    """Asks a policy for a decision between rounds, and gives clients what it decided.

    The policy sees the simulated world of the run's :class:`~lightning_sfl.callbacks.EfficiencyMonitor`, which must
    stand before this callback in the trainer's list, with the channel as it is when the decision is due, or its means;
    what the rounds since its last decision cost; and variance, second moment and smoothness of the gradients, estimated
    from those that the run makes anyway (:mod:`lightning_sfl.policies.moments`). The first rounds are those of the
    strategy's own arguments: nothing is known of the model before a step was made. What has not been measured is taken
    to be the default of :func:`lightning_sfl.policies.statistics.assumed`; that is said once.

    Logged with every decision: ``policy/mean_cut`` (in the order of cuts, from 0), ``policy/mean_batch_size``,
    ``policy/mean_bits``, ``policy/mean_transmit_power_watt``, ``policy/mean_clock_hz`` and ``policy/mean_bandwidth_hz``
    where there are any, ``policy/changed_clients``, what the policy's decision has in figures
    (``policy/NAME``), and a line with its reason. When the fit ends, a table of all decisions, ``report/decisions``.
    A run that goes on from a checkpoint goes on with what the policy and the estimates remember.

    Args:
        policy: The policy (:mod:`lightning_sfl.policies`), or anything with its ``decide``.
        every: Rounds between two decisions.
        cuts: The cuts to choose from, besides those in use; None: every valid one that leaves the server a parameter,
            as far as they lie one behind the other.
        csi: Whether the policy sees the channel's gains (or rates) of the instant, or their means, which are the better
            guess where they change while a decision is in force.

    Attributes:
        decisions: A row per decision, in the order of ``COLUMNS``.
    """

    def __init__(
        self, policy: Policy, *, every: int = 1, cuts: Sequence[str] | None = None, csi: CSI = "instantaneous"
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every={every!r} is not accepted: give an integer of at least 1, in rounds.")
        if not callable(getattr(policy, "decide", None)):
            raise ValueError(f"policy={policy!r} is not accepted: it has no decide(observation).")
        if cuts is not None and (isinstance(cuts, str) or not cuts or len(set(cuts)) < len(cuts)):
            raise ValueError(f"cuts={cuts!r} is not accepted: give several cuts, each once, or None.")
        check_csi(csi)
        self.policy = policy
        self.every = every
        self.cuts = cuts
        self.csi = csi
        self.decisions: list[list[Any]] = []
        self._memory: Mapping[str, Any] = {}
        self._gradients, self._rounds = ObservedGradients(), ObservedRounds()
        self._knows_cuts = False
        self._said_assumed = self._said_stale = False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew, unless a checkpoint says otherwise.

        Raises:
            MisconfigurationException: The strategy is another one or has nothing to decide, or there is no monitor.
        """
        if stage != "fit":
            return
        strategy = _strategy_of(trainer)
        if not strategy.algorithm.uses_cut or isinstance(strategy.cut, tuple):
            raise MisconfigurationException(
                f"AdaptiveSplit lets a policy choose where clients cut; with algorithm={strategy.algorithm.name!r} and"
                f" cut={strategy.cut!r} there is not one cut per client to choose."
            )
        if _monitor_of(trainer, self) is None:
            raise MisconfigurationException(
                "AdaptiveSplit decides in a simulated world: put a lightning_sfl.callbacks.EfficiencyMonitor before it"
                " in the trainer's callbacks."
            )
        self.decisions, self._memory = [], {}
        self._gradients, self._rounds = ObservedGradients(), ObservedRounds()
        self._knows_cuts = self._said_assumed = self._said_stale = False

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batches that the next gradients are of."""
        assert isinstance(batch, ClientBatches)
        self._gradients.begin_batch(batch)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at a party's gradients."""
        strategy = _strategy_of(trainer)
        if not self._knows_cuts:  # before the monitor profiles the model, so that it does so once
            strategy.learn_cuts(self.cuts)
            self._knows_cuts = True
        self._gradients.add(pl_module, strategy, optimizer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the policy decide if a round has ended and it is its turn.

        Raises:
            ValueError: Its decision is outside of what there is; no step is made with it.
        """
        strategy, monitor = _strategy_of(trainer), _monitor_of(trainer, self)
        assert monitor is not None
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        stepped = batch.closes_round or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._gradients.end_batch(float(loss) if isinstance(loss, torch.Tensor) else None, stepped=stepped)
        if not batch.closes_round:
            return
        self._rounds.end_round(monitor.clock, batch.round, batch.participants)
        if (batch.round + 1) % self.every or monitor.world is None or not self._knows_cuts:
            return
        self._gradients.end_interval(pl_module, strategy)
        seen = self._observation(pl_module, strategy, monitor, monitor.world, batch.round + 1)
        decision = self.policy.decide(seen)
        if not isinstance(decision, Decision):
            raise ValueError(f"{type(self.policy).__name__} decided {decision!r}; give a Decision.")
        check(self.policy, seen, decision)
        strategy.allocate(decision.allocation)
        self._memory = decision.memory
        self._note(trainer, pl_module, seen, decision)

    def _observation(
        self,
        module: pl.LightningModule,
        strategy: SplitFederatedStrategy,
        monitor: EfficiencyMonitor,
        world: World,
        round: int,
    ) -> Observation:
        clients = strategy.participants(range(round, round + self.every))
        statistics = self._gradients.statistics(module, strategy, world.profile)
        self._say_once(world, statistics)
        now = strategy.in_force()
        assert now.cut is not None
        assert now.batch_size is not None
        place = np.array(clients)
        held = {name: getattr(now, name) for name in ("transmit_power_watt", "clock_hz", "bandwidth_hz")}
        own = {name: None if values is None else np.array(values)[place] for name, values in held.items()}
        channel = as_seen(world.channel, strategy.num_clients, round=round, start_s=monitor.clock.seconds, csi=self.csi)
        return Observation(
            round=round,
            rounds=self.every,
            world=dataclasses.replace(world, channel=channel),
            clients=place,
            samples=np.array([strategy.samples_held(client) for client in clients]),
            cut=world.profile.index([now.cut[client] for client in clients]),
            batch_size=np.array([now.batch_size[client] for client in clients], dtype=np.int64),
            bits=None if now.bits is None else np.array(now.bits, dtype=np.float64)[place],
            controls=Controls(
                power_watt=own["transmit_power_watt"], clock_hz=own["clock_hz"], bandwidth_hz=own["bandwidth_hz"]
            ),
            now=now,
            statistics=statistics,
            learning_rate=float(strategy.optimizers[0].param_groups[0]["lr"]),
            sends_state=strategy.client_optimizer_state == "average",
            passed=self._rounds.taken(),
            memory=self._memory,
        )

    def _say_once(self, world: World, statistics: GradientStatistics) -> None:
        """What a decision goes by that may be otherwise than one would think."""
        policy = type(self.policy).__name__
        if not statistics.is_measured and not self._said_assumed:
            self._said_assumed = True
            rank_zero_info(
                f"{policy} decides before all statistics of the gradients were measured; defaults stand in for them"
                " (lightning_sfl.policies.statistics.assumed)."
            )
        if self.csi == "instantaneous" and world.channel.varies_within_round and not self._said_stale:
            self._said_stale = True
            rank_zero_info(
                f"{policy} sees the channel's state at an instant, but the channel changes within a round, so that"
                " decisions may be stale when bits are sent; with AdaptiveSplit(..., csi='statistical') it sees means."
            )

    def _note(self, trainer: pl.Trainer, module: pl.LightningModule, seen: Observation, decision: Decision) -> None:
        """Log a decision, and keep its row."""
        now = _strategy_of(trainer).in_force()
        changed = sum(_given(seen.now, client) != _given(now, client) for client in seen.clients.tolist())
        assert now.cut is not None
        assert now.batch_size is not None
        cuts = [now.cut[client] for client in seen.clients.tolist()]
        sizes = [now.batch_size[client] for client in seen.clients.tolist()]
        bits = [] if now.bits is None else [now.bits[client] for client in seen.clients.tolist()]
        values = {
            "mean_cut": float(seen.world.profile.index(cuts).mean()),
            "mean_batch_size": float(np.mean(sizes)),
            **({"mean_bits": float(np.mean(bits))} if bits else {}),
            "changed_clients": float(changed),
        }
        controls = {
            name: np.array(held)[seen.clients] for name in _CONTROLS if (held := getattr(now, name)) is not None
        }
        module.log_dict(values, prog_bar=True, logger=False, on_step=True, on_epoch=False, batch_size=1)
        means = {f"mean_{name}": float(own.mean()) for name, own in controls.items()}
        logged = {f"policy/{name}": value for name, value in {**values, **means, **decision.figures}.items()}
        loggers.log_metrics(trainer.loggers, logged, trainer.global_step)
        rank_zero_info(
            f"{type(self.policy).__name__}, from round {seen.round}: {changed} of {len(cuts)} clients changed."
            f" {decision.reason}".rstrip()
        )
        spans = ", ".join(_span(own / _CONTROLS[name][1], _CONTROLS[name][0]) for name, own in controls.items())
        given = [_counted(cuts), _counted(sizes), _counted(bits), spans]
        self.decisions.append([seen.round, len(cuts), *given, decision.reason])

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the table of decisions."""
        loggers.log_table(trainer.loggers, COLUMNS, self.decisions, name="decisions")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "decisions": [list(row) for row in self.decisions],
            "memory": dict(self._memory),
            "gradients": self._gradients.state_dict(),
            "rounds": self._rounds.state_dict(),
            "said_assumed": self._said_assumed,
            "said_stale": self._said_stale,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.decisions = [list(row) for row in state_dict["decisions"]]
        self._memory = state_dict["memory"]
        self._gradients.load_state_dict(state_dict["gradients"])
        self._rounds.load_state_dict(state_dict["rounds"])
        self._said_assumed = state_dict["said_assumed"]
        self._said_stale = state_dict["said_stale"]


def _given(allocation: Allocation, client: int) -> tuple[object, ...]:
    """All that a client has."""
    held = (getattr(allocation, field.name) for field in dataclasses.fields(Allocation))
    return tuple(None if values is None else values[client] for values in held)


def _counted(values: Sequence[object]) -> str:
    """How often each value is there, as in ``3 × block1, 7 × block2``."""
    return ", ".join(f"{values.count(value)} × {value}" for value in dict.fromkeys(sorted(values, key=str)))


def _span(values: FloatArray, unit: str) -> str:
    """The least and the largest, as in ``0.1 to 2 W``."""
    low, high = f"{values.min():.4g}", f"{values.max():.4g}"
    return f"{low if low == high else f'{low} to {high}'} {unit}"


def _strategy_of(trainer: pl.Trainer) -> SplitFederatedStrategy:
    if not isinstance(trainer.strategy, SplitFederatedStrategy):
        raise MisconfigurationException(
            f"AdaptiveSplit decides for split federated learning; the trainer has"
            f" strategy={type(trainer.strategy).__name__}. Give it lightning_sfl.SplitFederatedStrategy."
        )
    return trainer.strategy


def _monitor_of(trainer: pl.Trainer, callback: pl.Callback) -> EfficiencyMonitor | None:
    """The monitor that stands before this callback."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    before = callbacks[: callbacks.index(callback)]
    return next((found for found in before if isinstance(found, EfficiencyMonitor)), None)
