"""A callback that lets simulated time pass while a run trains, and logs what steps and rounds cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.callbacks import loggers
from lightning_sfl.callbacks.client_table import COLUMNS, ClientTable
from lightning_sfl.callbacks.costed import CostedStep, Happened, cost_step
from lightning_sfl.callbacks.crossed import CrossedSince
from lightning_sfl.callbacks.profiled import profile_of
from lightning_sfl.callbacks.round_sums import RoundSums
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.strategy.split_federated import SplitFederatedStrategy
from lightning_sfl.world.arrays import IntArray
from lightning_sfl.world.cost.clock import Clock
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.environments import Environment, make_environment
from lightning_sfl.world.world import World


class EfficiencyMonitor(pl.Callback):
    """Simulates devices, channel and server of a run, and logs seconds, joules, bytes and memory.

    What crosses is taken from the link's meter, what is computed from the model's profile at the first batch's shape. A
    client that is lost costs what it has sent, and what it computed for that.

    Logged per step: ``delay/step_s``, ``delay/straggler`` (whose own stages took longest),
    ``energy/step_client_joule``, ``energy/step_server_joule``, ``comm/step_uplink_bytes``,
    ``comm/step_downlink_bytes``, ``memory/client_bytes`` (of the one that needs most). Per round, at most once per
    ``log_every_n_steps``: ``delay/round_s``, ``delay/simulated_s`` (since the run's start), ``energy/client_joule``,
    ``energy/server_joule``, ``comm/uplink_bytes``, ``comm/downlink_bytes`` and ``round``. When the fit ends,
    ``comm/total_bytes``, ``energy/total_joule`` (of clients and server), ``delay/total_s``, and a table of the clients,
    ``report/clients``. What an environment does not model is not logged. A run that goes on from a
    checkpoint goes on with the simulated time and the sums that it had.

    Args:
        environment: The simulated devices, channel and server: ``"wei_chen"``, ``"hasfl"``, ``"safsl"``, the path of a
            CSV file of devices (with the channel and server of ``"wei_chen"``), or an
            :class:`~lightning_sfl.world.environments.Environment`.
        seed: The seed that a named environment is drawn with.
        flop_per_mac: 1 where the environment's speeds count a multiply-accumulate as one operation, else 2.

    Attributes:
        clock: Simulated seconds and joules so far.
        world: What the run is simulated in; None before the first step.
        clients: What every client has cost.
    """

    def __init__(
        self, *, environment: str | Path | Environment = "wei_chen", seed: int = 0, flop_per_mac: Literal[1, 2] = 2
    ) -> None:
        if flop_per_mac not in (1, 2):
            raise ValueError(f"flop_per_mac={flop_per_mac!r} is not accepted: a multiply-accumulate is 1 or 2 FLOP.")
        # A path among the types keeps the command line from reading the file as if it were a configuration.
        self.environment = str(environment) if isinstance(environment, Path) else environment
        self.seed = seed
        self.flop_per_mac = flop_per_mac
        self.clock = Clock()
        self.clients = ClientTable()
        self.world: World | None = None
        self._round = RoundSums()
        self._logs_from_step = 0
        self._drawn: Environment | None = None
        self._crossed: CrossedSince | None = None
        self._lost: frozenset[int] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draw the environment; time begins with the fit, unless a checkpoint says otherwise.

        Raises:
            MisconfigurationException: The strategy is another one.
            ValueError: The environment is not known, or has fewer devices than there are clients.
        """
        if stage != "fit":
            return
        strategy = _strategy_of(trainer)
        found = self.environment
        if isinstance(found, str):
            found = make_environment(found, strategy.num_clients, self.seed)
        found.check(strategy.num_clients)
        self._drawn, self.world, self._crossed = found, None, None
        self.clock, self.clients, self._round, self._logs_from_step = Clock(), ClientTable(), RoundSums(), 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the meter from now on."""
        self._crossed = CrossedSince(_strategy_of(trainer).link.meter)
        loggers.prepare(trainer.loggers)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """See who has trained in this step; after the last one of a round nobody is known to be lost any more."""
        self._lost = _strategy_of(trainer).lost

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the step's time pass, with the beginning and the end of a round that fall into it."""
        assert isinstance(batch, ClientBatches)
        strategy = _strategy_of(trainer)
        self.world = self._world(pl_module, strategy, batch)
        if self.world is not None:
            costed = cost_step(self.world, self._happened(self.world, strategy, batch), self.clock)
            self._add(costed)
            pl_module.log_dict(_modelled(costed.metrics()), on_step=True, on_epoch=False, batch_size=1)
        self._lost = None
        shown = {"round": float(batch.round), "simulated_s": self.clock.seconds}
        pl_module.log_dict(shown, prog_bar=True, logger=False, on_step=True, on_epoch=False, batch_size=1)
        if batch.closes_round:
            self._end_round(trainer, batch.round)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the table of clients, and what the run has cost in all."""
        loggers.log_table(trainer.loggers, COLUMNS, self.clients.rows())
        clock = self.clock
        clients = math.fsum([*clock.client_compute_joule.values(), *clock.client_radio_joule.values()])
        totals = {
            "comm/total_bytes": self.clients.total_bytes,
            "energy/total_joule": clients + clock.server_compute_joule + clock.server_radio_joule,
            "delay/total_s": clock.seconds,
        }
        loggers.log_metrics(trainer.loggers, _modelled(totals), trainer.global_step)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "clock": self.clock.state_dict(),
            "clients": self.clients.state_dict(),
            "round": self._round.state_dict(),
            "logs_from_step": self._logs_from_step,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clock.load_state_dict(state_dict["clock"])
        self.clients.load_state_dict(state_dict["clients"])
        self._round = RoundSums.from_state(state_dict["round"])
        self._logs_from_step = state_dict["logs_from_step"]

    def _happened(self, world: World, strategy: SplitFederatedStrategy, batch: ClientBatches) -> Happened:
        assert self._crossed is not None
        assert strategy.cuts is not None
        clients, sizes = np.array(batch.participants), batch.sizes()
        crossed = self._crossed.look(clients)
        uses_cut = world.rule.uses_cut
        names = [strategy.cuts.of(client) or "" for client in batch.participants]
        return Happened(
            round=batch.round,
            clients=clients,
            cut=world.profile.index(names) if uses_cut else np.zeros_like(clients),
            deepest=int(world.profile.index(strategy.cuts.names).max()) if uses_cut else None,
            batch_size=np.array([sizes.get(client, 0) for client in batch.participants]),
            present=~np.isin(clients, list(strategy.lost if self._lost is None else self._lost)),
            closes_round=batch.closes_round,
            crossed=crossed,
            controls=_controls(strategy.controls.at(batch.round), clients),
        )

    def _add(self, costed: CostedStep) -> None:
        crossed, joule = costed.happened.crossed, costed.joule
        self.clients.add(
            costed.happened.clients,
            delay_s=costed.seconds,
            joule=joule,
            uplink_bit=crossed.up,
            downlink_bit=crossed.down,
            memory_byte=costed.memory_byte,
        )
        self._round = self._round.plus(
            client_joule=float(joule.sum()),
            server_joule=costed.server_joule,
            uplink_bit=float(crossed.up.sum()),
            downlink_bit=float(crossed.down.sum()),
        )

    def _end_round(self, trainer: pl.Trainer, round: int) -> None:
        """Log the round, unless one was logged only a few steps ago, and begin the next one's sums."""
        if trainer.global_step >= self._logs_from_step:
            values = {**self._round.metrics(self.clock.seconds), "round": float(round)}
            loggers.log_metrics(trainer.loggers, _modelled(values), trainer.global_step)
            self._logs_from_step = trainer.global_step + getattr(trainer, "log_every_n_steps", 1)
        self._round = RoundSums(began_s=self.clock.seconds)

    def _world(
        self, module: pl.LightningModule, strategy: SplitFederatedStrategy, batch: ClientBatches
    ) -> World | None:
        """The world, with a profile of all the cuts that are in use by now; None while nobody has done anything yet."""
        assert self._drawn is not None
        if self.world is not None and set(strategy.splits) == set(self.world.profile.cuts):
            return self.world
        if strategy.algorithm.uses_cut and not strategy.splits:
            return None
        profile = profile_of(module, strategy, batch.batches.values())
        if profile is None:
            return self.world
        return World(
            profile=profile,
            fleet=self._drawn.fleet,
            channel=self._drawn.channel,
            server=self._drawn.server,
            algorithm=strategy.algorithm.name,
            aggregate_every=strategy.aggregate_every * module.trainer.accumulate_grad_batches,
            probes=strategy.algorithm.probes if isinstance(strategy.algorithm, ForwardOnly) else None,
            flop_per_mac=self.flop_per_mac,
            quantised={
                kind: np.array(whose) for kind, whose in strategy.codecs.quantised(strategy.num_clients).items()
            },
        )


def _strategy_of(trainer: pl.Trainer) -> SplitFederatedStrategy:
    if not isinstance(trainer.strategy, SplitFederatedStrategy):
        raise MisconfigurationException(
            f"EfficiencyMonitor simulates split federated learning; the trainer has"
            f" strategy={type(trainer.strategy).__name__}. Give it lightning_sfl.SplitFederatedStrategy."
        )
    return trainer.strategy


def _controls(given: Mapping[str, Sequence[float]], clients: IntArray) -> Controls:
    own = {name: np.array(values)[clients] for name, values in given.items()}
    return Controls(
        power_watt=own.get("transmit_power_watt"),
        clock_hz=own.get("clock_hz"),
        bandwidth_hz=own.get("bandwidth_hz"),
    )


def _modelled(values: Mapping[str, float]) -> dict[str, float]:
    """What the environment models; the rest is NaN."""
    return {name: value for name, value in values.items() if not math.isnan(value)}
