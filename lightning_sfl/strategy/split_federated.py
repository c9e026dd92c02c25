"""Split federated learning as a Lightning strategy, in the order in which Lightning calls it."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.strategies import _StrategyRegistry
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_sfl.algorithms import make_algorithm
from lightning_sfl.algorithms.aggregation import ClientOptimizerState, Weighting
from lightning_sfl.algorithms.placement import Algorithm
from lightning_sfl.allocation import Allocation
from lightning_sfl.attendance import Attendance, EverybodyIsThere
from lightning_sfl.clients import Shard
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.data.client_loaders import partition_of
from lightning_sfl.data.loader import ClientLoader, client_loader
from lightning_sfl.data.partition import Partition
from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.log import MessageLog
from lightning_sfl.strategy.announce import announce, warn_of_long_schedules
from lightning_sfl.strategy.checkpoints import Settings
from lightning_sfl.strategy.checks import (
    ServerBatching,
    allocated_cuts,
    check_accumulates_on,
    check_choice,
    check_cut,
    check_devices,
    check_fit,
    check_forward_only,
    check_integer,
    check_merging,
    check_names,
    check_one_loader,
    check_optimizers,
    check_participants,
)
from lightning_sfl.strategy.client_steps import ClientSteps
from lightning_sfl.strategy.codecs import CodecPlan, Codecs, GivenCodecs
from lightning_sfl.strategy.controls import SimulatedControls
from lightning_sfl.strategy.cuts import Cuts
from lightning_sfl.strategy.epoch_end import ReadAtEpochEnd
from lightning_sfl.strategy.epoch_sums import EpochSums
from lightning_sfl.strategy.global_model import GlobalModelStrategy
from lightning_sfl.strategy.party_steps import PartySteps
from lightning_sfl.strategy.presence import Nonfinite
from lightning_sfl.strategy.server_gradients import ServerGradients
from lightning_sfl.strategy.settings import checkpoint_settings, log_chosen_cut, log_settings
from lightning_sfl.strategy.step_logs import StepLogs
from lightning_sfl.strategy.summary import print_owners
from lightning_sfl.strategy.transfer import PerClientTransfer
from lightning_sfl.strategy.wiring import wired


class SplitFederatedStrategy(GlobalModelStrategy):
    """Trains an ordinary LightningModule by split federated learning, on one device.

    Every client holds its own part of the module, up to the end of the cut module's forward, and its own samples of the
    training set; a server holds the rest. Only messages on the link cross between them. Validation, test, prediction
    and checkpoints see the global model, under the module's own names.

    Args:
        cut: Name of the module that ends the clients' half, such as ``"model.layer2"``; ``find_cuts`` lists the valid
            ones. Or one for every client, ``{client: name}``. Or two, ``("first", "last")``, for a U-shape: the server
            computes what lies between, and the client goes on from there to the loss with labels that never leave it.
            None takes, of the first half of the valid cuts, the one with the least smashed data, and says which. Left
            out for ``algorithm="fedavg"``.
        num_clients: Registered clients.
        algorithm: ``"splitfed_shared"`` (one server model, stepped every step on the participants' weighted mean loss),
            ``"splitfed_v1"`` (a server replica per participant), ``"splitfed_v2"`` (one server model, stepped client by
            client), ``"split_learning"`` (one set of client weights, handed on), ``"fedavg"`` (no server half), or
            ``"ho_sfl"`` (clients without backpropagation) and its relatives ``"zo_sfl"``, ``"hosl"``, ``"heron_sfl"``,
            or one of their classes with hyper-parameters, ``HOSFL(probes=2)``.
        partition: Which client holds which training samples: ``"iid"``, ``"dirichlet:ALPHA"``, ``"shards:K"``, one list
            of indices per client, a loader for every client, ``{client: DataLoader}``, or a
            :class:`~lightning_sfl.data.partition.Partition`. Clients with loaders train on those, each in its own batch
            size; `fit` is given one of them, or one over the ``ConcatDataset`` of all their data.
        aggregate_every: Optimizer steps of each participant between two aggregations; in split learning, of one holder
            of the weights before it hands them on.
        clients_per_round: How many clients are drawn to take part in a round; None for all.
        batch_size: Samples per client and step; None takes the loader's. A client with fewer uses all it has.
        weighting: What clients count in proportion to when they are averaged: the ``"samples"`` they processed since
            the last aggregation, the ``"data"`` they hold, or nothing (``"uniform"``, for the server's loss as well).
        client_optimizer_state: What becomes of the clients' optimizer state at an aggregation: ``"average"`` it,
            ``"reset"`` it, or each client may ``"keep"`` its own, which takes memory for every client that ever took
            part.
        server_batching: Whether the server runs once ``"per_client"``, or once on the smashed data of all clients
            ``"merged"`` into one batch, whose statistics its batch normalisation then uses.
        server_inputs: Names of model inputs that the server half may read although the cut is to keep them private
            (``"labels"`` where labels are the input ids; ``"0"`` for the first part of a tuple).
        codecs: What smashed data and gradients at cuts go through on the link, from left to right, such as
            ``[TopK(fraction=0.1), StochasticUniform(bits=8)]`` (:mod:`lightning_sfl.link.codecs`). Or
            ``{kind: codecs}``, where ``"client_update"`` is a kind too, its change since the broadcast. Or either of
            these by client.
        attendance: Decides which participants are lost, and when (:mod:`lightning_sfl.attendance`); None loses nobody.
        nonfinite: What happens at a NaN or infinite loss or update of a client: ``"error"`` stops and names it,
            ``"skip"`` leaves it out of the step or the averaging.
        message_log: Keeps the messages that cross, for an audit; None keeps none.
        seed: Seeds the partition and the draw of participants. The order within clients follows `seed_everything`, as
            the plain loader's would.
        accelerator: See :class:`lightning.pytorch.strategies.Strategy`.
        checkpoint_io: See :class:`lightning.pytorch.strategies.Strategy`.
        precision_plugin: See :class:`lightning.pytorch.strategies.Strategy`.

    Raises:
        ValueError: An argument is out of range, unknown, or does not go with the algorithm.
    """

    strategy_name: ClassVar[str] = "split_federated"

    def __init__(
        self,
        *,
        cut: str | tuple[str, str] | dict[int, str] | None = None,
        num_clients: int = 10,
        algorithm: str | Algorithm = "splitfed_shared",
        partition: str | list[list[int]] | dict[int, DataLoader[Any]] | Partition = "iid",
        aggregate_every: int = 1,
        clients_per_round: int | None = None,
        batch_size: int | None = None,
        weighting: Literal["samples", "data", "uniform"] = "samples",
        client_optimizer_state: Literal["average", "reset", "keep"] = "average",
        server_batching: Literal["per_client", "merged"] = "per_client",
        server_inputs: Sequence[str] = (),
        codecs: Codecs = (),
        attendance: Attendance | None = None,
        nonfinite: Literal["error", "skip"] = "error",
        message_log: MessageLog | None = None,
        seed: int = 0,
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        super().__init__(accelerator=accelerator, checkpoint_io=checkpoint_io, precision_plugin=precision_plugin)
        check_integer("num_clients", num_clients, least=1)
        check_integer("aggregate_every", aggregate_every, least=1)
        check_integer("batch_size", batch_size, least=1, or_none=True)
        check_integer("seed", seed, least=0)
        self.algorithm = make_algorithm(algorithm)
        if cut is not None and not self.algorithm.uses_cut:
            raise ValueError(
                f"cut={cut!r} does not go with algorithm={algorithm!r}, which has no server half. Leave it out."
            )
        self.weighting = check_choice("weighting", weighting, Weighting)
        self.client_optimizer_state = check_choice(
            "client_optimizer_state", client_optimizer_state, ClientOptimizerState
        )
        self.partition = partition_of(partition, num_clients)
        self.cut = check_cut(cut, num_clients)
        self.num_clients = num_clients
        self.aggregate_every = aggregate_every
        self.clients_per_round = check_participants(clients_per_round, num_clients)
        self.batch_size = batch_size
        self.server_inputs = check_names("server_inputs", server_inputs)
        self.nonfinite = check_choice("nonfinite", nonfinite, Nonfinite)
        self.server_batching = check_choice("server_batching", server_batching, ServerBatching)
        check_merging(self.server_batching, self.algorithm, self.weighting, Cuts.given(self.cut, num_clients))
        check_forward_only(self.algorithm, Cuts.given(self.cut, num_clients), self.client_optimizer_state)
        self.codecs = GivenCodecs.of(codecs, num_clients, self.algorithm, is_u_shape=isinstance(self.cut, tuple))
        self.attendance: Attendance = attendance or EverybodyIsThere()
        self.seed = seed
        self.message_log = message_log
        self._fresh_fit()

    def _fresh_fit(self) -> None:
        """Forget the last fit; a meter counts one fit."""
        self.codec_plan = CodecPlan(self.codecs, self.seed)
        self.link = LocalLink(self.message_log, self.codec_plan)
        self._transfer: PerClientTransfer | None = None
        self._epoch_end: ReadAtEpochEnd | None = None
        self._rounds = None
        self._steps: ClientSteps | None = None
        self._loader: ClientLoader | None = None
        self._saved: dict[str, Any] | None = None
        self._before: dict[str, Tensor] = {}
        self._open_batches: ClientBatches | None = None
        self._server = None
        self.controls = SimulatedControls()
        self._logged_earlier = EpochSums({}, 0)
        self._parties: PartySteps | None = None
        self._shows_every_step = False
        self._is_first_step = False

    # Set-up

    @override
    def setup_environment(self) -> None:
        check_devices(self.parallel_devices, self.num_nodes)
        if self._fitting:
            self._fresh_fit()
        super().setup_environment()

    @override
    def setup(self, trainer: pl.Trainer) -> None:
        if self._fitting:
            check_fit(trainer, self.algorithm, Cuts.given(self.cut, self.num_clients), self.message_log)
        super().setup(trainer)
        if self._fitting:
            check_optimizers(self.optimizers)
            log_settings(trainer, self)
            self._transfer = PerClientTransfer(trainer)
            self._epoch_end = ReadAtEpochEnd(trainer, self._read)
            self._server = ServerGradients(self._module)
            self._rounds, self._steps = wired(self, trainer)

    @override
    def model_to_device(self) -> None:
        self._module.to(self.root_device)

    @override
    def process_dataloader(self, dataloader: object) -> object:
        """Deal a training loader's samples out to the clients; leave every other loader as it is."""
        if not self._trainer.training:
            return dataloader
        schedule = self.algorithm.schedule(
            num_clients=self.num_clients,
            clients_per_round=self.clients_per_round,
            steps_per_round=self.aggregate_every,
            seed=self.seed,
        )
        # Where the user asks for the same batches over and over.
        overfits = bool(getattr(self._trainer, "overfit_batches", 0))
        earlier = self._loader
        self._loader = client_loader(
            dataloader,
            partition=self.partition,
            num_clients=self.num_clients,
            batch_size=self.batch_size,
            schedule=schedule,
            seed=self.seed,
            accumulates=self._trainer.accumulate_grad_batches,
            in_order=overfits,
        )
        self._loader.starts_over = self.num_clients == 1 or overfits  # with one client an epoch is a plain run's
        if earlier is not None:
            self._loader.go_on_after(earlier)  # Trainer(reload_dataloaders_every_n_epochs=...)
        if self._saved is not None:
            with self._as_before_on_error():
                self._loader.load_state_dict(self._saved["loader"])
        return self._loader

    def allocate(self, allocation: Allocation) -> None:
        """Give clients other cuts, batch sizes and bits from the next round on, from any callback during a fit.

        Layers that change hands are messages on the link; weights, buffers and optimizer state go with them. Power,
        clock and bandwidth are those of simulated devices (:class:`~lightning_sfl.callbacks.EfficiencyMonitor`).

        Args:
            allocation: What every registered client is given.

        Raises:
            MisconfigurationException: There is no fit going on.
            ValueError: There is not one entry per registered client, the algorithm has no cut, or a client is given
                bits and has no quantiser among its codecs. Nothing is changed then.
            CutError: A cut is not valid, or the cuts do not lie one behind the other. Nothing is changed then.
        """
        if self._rounds is None or self._loader is None or not self._trains:
            raise MisconfigurationException("allocate() takes effect at the next round of a fit; no fit is going on.")
        allocation.check(self.num_clients)
        self.codec_plan.check(allocation)
        if allocation.cut is not None:
            cuts = allocated_cuts(self._module, self.algorithm, allocation.cut, self._rounds.cuts)
            check_merging(self.server_batching, self.algorithm, self.weighting, cuts)
            self._rounds.allocate(cuts, self._loader.next_round)
        if allocation.batch_size is not None:
            self._loader.allocate([int(size) for size in allocation.batch_size])
        for planned in (self.controls, self.codec_plan):
            planned.plan(allocation, self._loader.next_round)

    def samples_held(self, client: int) -> int:
        """How many training samples a client holds, once the loader was dealt out."""
        assert self._loader is not None
        return len(self._loader.parts[client])

    @override
    def on_train_start(self) -> None:
        assert self._loader is not None
        check_one_loader(self._trainer)
        keeps_state = self.client_optimizer_state is ClientOptimizerState.KEEP
        announce(self._loader, self.algorithm.name, self._module, keeps_state=keeps_state)
        assert self._server is not None
        self._parties = PartySteps(self._trainer, self._server)
        callbacks = getattr(self._trainer, "callbacks", [])
        self._shows_every_step = any(isinstance(callback, WeightAveraging) for callback in callbacks)
        warn_of_long_schedules(self.lr_scheduler_configs, self._trainer.estimated_stepping_batches)
        self._is_first_step = True
        self._loader.most_steps = self._trainer.num_training_batches
        self._resume()

    # Moving batches

    @override
    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        if not isinstance(batch, ClientBatches):
            return super().batch_to_device(batch, device, dataloader_idx)
        for client, own in batch.batches.items():
            batch.batches[client] = super().batch_to_device(own, device, dataloader_idx)
        return batch

    # One step

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run every participant's forward and backward pass.

        Returns:
            What Lightning expects of a training step: the participants' weighted mean loss, or, where the module
            returns mappings, a mapping with it and each other value by client (merged: as it is); None if every
            participant skipped.
        """
        assert self._steps is not None
        assert self._server is not None
        check_accumulates_on(self._trainer, self._steps.loss_scale.accumulates)  # callbacks change it while training
        batches: ClientBatches = args[0]
        self._steps.begin(batches, self._trainer.current_epoch)
        if self.message_log is not None:
            self.message_log.note_step(batches.round, batches.indices, self._module)
        self._server.begin(afresh=batches.begins_optimizer_step)
        logs = StepLogs(self._trainer, self._logged_earlier)
        output, factor = self._steps.run(batches, args[1:], kwargs, logs)
        logs.end_step(batches, sum(batches.sizes().values()))
        self._server.end(factor)
        if not self._steps.loss_scale.is_dynamic and not self._server.is_finite():  # a scaler skips such a step itself
            self._steps.presence.leave_out_server_step(batches)
            self._server.drop()
        if output is None:
            self._server.put()  # no backward pass follows that would
        self._open_batches = batches
        return output

    @override
    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Put the server's gradients in place; they were made in the training step, client by client."""
        self.pre_backward(closure_loss)
        closure_loss = self.precision_plugin.pre_backward(closure_loss, self._module)
        assert self._parties is not None
        closure_loss = self._parties.after_backward(closure_loss, self._open_parties())
        self.post_backward(closure_loss)
        return closure_loss

    @override
    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Step the server, then every participant, and end the round where it is due."""
        assert self._parties is not None
        assert self._server is not None
        assert self._rounds is not None
        result = self._parties.step(optimizer, closure, self._open_parties, **kwargs)
        self._server.close()
        if self._open_batches is None:
            return result
        self._rounds.finish(self._open_batches)
        self._open_batches = None
        if self._is_first_step and self._federation is not None:
            self._is_first_step = False
            if self.cut is None and self.algorithm.uses_cut:
                log_chosen_cut(self._trainer, self._rounds.cuts)
            print_owners(self._trainer, self._rounds)
        if self._shows_every_step or self._trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._read()
        return result

    def _open_parties(self) -> list[Shard]:
        """The clients and server replicas of the step at hand."""
        if self._federation is None or self._open_batches is None:
            return []
        own = [party for client in self._open_batches for party in self._federation.participants[client].parties]
        return [self._federation.alike, *own]

    # The end

    @override
    def _settings(self) -> Settings:
        return {**checkpoint_settings(self), "accumulate_grad_batches": self._trainer.accumulate_grad_batches}

    @override
    def teardown(self) -> None:
        self._read()
        if self._rounds is not None:
            self._rounds.end()
        if self._transfer is not None:
            self._transfer.undo()
        if self._epoch_end is not None:
            self._epoch_end.undo()
        super().teardown()

    @classmethod
    @override
    def register_strategies(cls, strategy_registry: _StrategyRegistry) -> None:
        strategy_registry.register(cls.strategy_name, cls, description=cls.__name__)
