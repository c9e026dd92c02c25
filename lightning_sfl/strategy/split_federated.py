"""Split federated learning as a Lightning strategy, in the order in which Lightning calls it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.strategies import _StrategyRegistry
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sfl.algorithms import make_algorithm
from lightning_sfl.algorithms.aggregation import Aggregation, ClientOptimizerState, Weighting
from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.cut.split import Split
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.data.loader import ClientLoader, client_loader
from lightning_sfl.data.partition import Partition, parse_partition
from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.log import MessageLog
from lightning_sfl.optimizers import check_optimizer
from lightning_sfl.random_state import RandomState
from lightning_sfl.strategy.announce import announce, warn_of_long_schedules
from lightning_sfl.strategy.checkpoints import (
    Settings,
    begin_after_a_whole_epoch,
    begin_next_epoch,
    check_settings,
    copied,
    put_back,
    readable,
    run_validation,
    validation_is_due,
)
from lightning_sfl.strategy.checks import (
    check_choice,
    check_devices,
    check_integer,
    check_log,
    check_module,
    check_precision,
)
from lightning_sfl.strategy.client_steps import ClientSteps, together
from lightning_sfl.strategy.single_process import SingleProcessStrategy
from lightning_sfl.strategy.step_logs import StepLogs
from lightning_sfl.strategy.transfer import PerClientTransfer


class SplitFederatedStrategy(SingleProcessStrategy):
    """Trains an ordinary LightningModule by split federated learning, on one device.

    Every client holds its own part of the module, up to the end of the cut module's forward, and its own samples of the
    training set; a server holds the rest. Only messages on the link cross between them. Validation, test, prediction
    and checkpoints see the global model, under the module's own names.

    Args:
        cut: Name of the module that ends the clients' half, such as ``"model.layer2"``; ``find_cuts`` lists the valid
            ones. None takes, of the first half of the valid cuts, the one with the least smashed data, and says which.
            Left out for ``algorithm="fedavg"``.
        num_clients: Registered clients.
        algorithm: ``"splitfed_shared"`` (one server model, stepped every step on the participants' weighted mean loss),
            ``"splitfed_v1"`` (a server replica per participant), ``"splitfed_v2"`` (one server model, stepped client by
            client), ``"split_learning"`` (one set of client weights, handed on) or ``"fedavg"`` (no server half).
        partition: Which client holds which training samples: ``"iid"``, ``"dirichlet:ALPHA"``, ``"shards:K"``, one list
            of indices per client, or a :class:`~lightning_sfl.data.partition.Partition`.
        aggregate_every: Steps of each participant between two aggregations; in split learning, steps of one holder of
            the weights before it hands them on.
        clients_per_round: How many clients are drawn to take part in a round; None for all.
        batch_size: Samples per client and step; None takes the training loader's. A client with fewer uses all it has.
        weighting: What clients count in proportion to when they are averaged: the ``"samples"`` they processed since
            the last aggregation, the ``"data"`` they hold, or nothing (``"uniform"``, for the server's loss as well).
        client_optimizer_state: What becomes of the clients' optimizer state at an aggregation: ``"average"`` it,
            ``"reset"`` it, or each client may ``"keep"`` its own, which takes memory for every client that ever took
            part.
        server_inputs: Names of model inputs that the server half may read although the cut is to keep them private
            (``"labels"`` where labels are the input ids; ``"0"`` for the first part of a tuple).
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
        cut: str | None = None,
        num_clients: int = 10,
        algorithm: str = "splitfed_shared",
        partition: str | list[list[int]] | Partition = "iid",
        aggregate_every: int = 1,
        clients_per_round: int | None = None,
        batch_size: int | None = None,
        weighting: Literal["samples", "data", "uniform"] = "samples",
        client_optimizer_state: Literal["average", "reset", "keep"] = "average",
        server_inputs: Sequence[str] = (),
        message_log: MessageLog | None = None,
        seed: int = 0,
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        super().__init__(accelerator=accelerator, checkpoint_io=checkpoint_io, precision_plugin=precision_plugin)
        check_integer("num_clients", num_clients, least=1)
        check_integer("aggregate_every", aggregate_every, least=1)
        check_integer("clients_per_round", clients_per_round, least=1, or_none=True)
        check_integer("batch_size", batch_size, least=1, or_none=True)
        check_integer("seed", seed, least=0)
        if clients_per_round is not None and clients_per_round > num_clients:
            raise ValueError(f"clients_per_round={clients_per_round} is more than num_clients={num_clients}.")
        if isinstance(server_inputs, str):
            raise ValueError(
                f"server_inputs={server_inputs!r} is one name; give a sequence of names, ({server_inputs!r},)."
            )
        self.algorithm = make_algorithm(algorithm)
        if cut is not None and not self.algorithm.uses_cut:
            raise ValueError(
                f"cut={cut!r} does not go with algorithm={algorithm!r}, which has no server half. Leave it out."
            )
        self.weighting = check_choice("weighting", weighting, Weighting)
        self.client_optimizer_state = check_choice(
            "client_optimizer_state", client_optimizer_state, ClientOptimizerState
        )
        self.partition = parse_partition(partition)
        self.cut = cut
        self.num_clients = num_clients
        self.aggregate_every = aggregate_every
        self.clients_per_round = clients_per_round or num_clients
        self.batch_size = batch_size
        self.server_inputs = tuple(server_inputs)
        self.seed = seed
        self.message_log = message_log
        self._fresh_fit()

    def _fresh_fit(self) -> None:
        """Forget the last fit; a meter counts one fit."""
        self.link = LocalLink(self.message_log)
        self._transfer: PerClientTransfer | None = None
        self._steps: ClientSteps | None = None
        self._loader: ClientLoader | None = None
        self._loader_is_new = False
        self._saved: dict[str, Any] | None = None
        self._before: dict[str, Tensor] = {}
        self._open_batches: ClientBatches | None = None
        self._server_gradients: list[tuple[Tensor, Tensor]] = []

    @property
    def _fitting(self) -> bool:
        return self._trainer.state.fn == TrainerFn.FITTING

    @property
    def _trainer(self) -> pl.Trainer:
        return self._module.trainer

    @property
    def _module(self) -> pl.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    @property
    def split(self) -> Split | None:
        """Whose is what at the cut in force; None before the first step, and without a cut."""
        return None if self._steps is None else self._steps.split

    @property
    def rounds(self) -> int:
        """Rounds begun in this fit."""
        return 0 if self._steps is None else self._steps.rounds

    @property
    def _federation(self) -> Federation | None:
        return None if self._steps is None else self._steps.federation

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
            check_precision(self.precision_plugin)
            check_module(self._module, trainer, self.cut)
            check_log(self.message_log)
        super().setup(trainer)
        for optimizer in self.optimizers:
            check_optimizer(optimizer)
        if self._fitting:
            self._transfer = PerClientTransfer(trainer)
            self._steps = ClientSteps(
                self._module,
                self.optimizers[0],
                self.precision_plugin,
                algorithm=self.algorithm,
                aggregation=Aggregation(
                    weighting=self.weighting,
                    client_optimizer_state=self.client_optimizer_state,
                    client_samples=self._samples_held,
                ),
                link=self.link,
                cut=self.cut,
                server_inputs=self.server_inputs,
            )

    @override
    def model_to_device(self) -> None:
        self._module.to(self.root_device)

    @override
    def process_dataloader(self, dataloader: object) -> object:
        """Deal a training loader's samples out to the clients; leave every other loader as it is."""
        if not self._trainer.training:
            return dataloader
        if self._loader_is_new:
            raise MisconfigurationException(
                "The training data come in several loaders; their samples cannot be dealt out to clients. Give one"
                " DataLoader, for example over a torch.utils.data.ConcatDataset."
            )
        schedule = self.algorithm.schedule(
            num_clients=self.num_clients,
            clients_per_round=self.clients_per_round,
            steps_per_round=self.aggregate_every,
            seed=self.seed,
        )
        earlier = self._loader
        self._loader = client_loader(
            dataloader,
            partition=self.partition,
            num_clients=self.num_clients,
            batch_size=self.batch_size,
            schedule=schedule,
            seed=self.seed,
        )
        self._loader_is_new = True
        if earlier is not None:
            self._loader.go_on_after(earlier)  # Trainer(reload_dataloaders_every_n_epochs=...)
        if self._saved is not None:
            with self._as_before_on_error():
                self._loader.load_state_dict(self._saved["loader"])
        return self._loader

    def _samples_held(self, client: int) -> int:
        assert self._loader is not None
        return len(self._loader.parts[client])

    @override
    def on_train_start(self) -> None:
        assert self._loader is not None
        announce(self._loader, self.algorithm.name)
        warn_of_long_schedules(self.lr_scheduler_configs, self._trainer.estimated_stepping_batches)
        self._loader.most_steps = self._trainer.num_training_batches
        self._before = {}
        if self._saved is not None:
            RandomState.from_state(self._saved["random"]).restore()
            if self._saved["validation_is_due"]:
                run_validation(self._trainer)
            begin_next_epoch(self._trainer)
            # Lightning goes on to fast-forward its loops, which draws seeds for loaders that nobody reads.
            self._loader.random_state = RandomState.capture()
            self._saved = None

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
        """Run every participant's forward and backward pass, one after the other.

        Returns:
            What Lightning expects of a training step: the participants' weighted mean loss, or, where the module
            returns mappings, a mapping with it and each other value by client; None if every participant skipped.
        """
        assert self._steps is not None
        batches = cast(ClientBatches, args[0])
        self._loader_is_new = False
        self._steps.begin(batches)
        self._clear_server_gradients()
        logs = StepLogs(self._trainer)
        sizes = batches.sizes()
        weights = self._steps.aggregation.loss_weights(sizes)
        outputs: dict[int, Any] = {}
        for client in batches:
            logs.begin_client(batches[client])
            output = self._steps.run(batches, client, weights[client], (batches[client], *args[1:]), kwargs)
            logs.end_client(sizes[client])
            if output is not None:
                outputs[client] = output
        logs.end_step(batches, sum(sizes.values()))
        present = sum(weights[client] for client in outputs)
        self._hold_server_gradients(present)
        self._open_batches = batches
        return together(outputs, {client: weights[client] / present for client in outputs})

    def _clear_server_gradients(self) -> None:
        """Let go of the last step's gradients, which Lightning would zero only after this step's were made."""
        for parameter in self._module.parameters():
            parameter.grad = None

    def _hold_server_gradients(self, present: float) -> None:
        """Take the server's gradients aside while Lightning zeroes gradients between training step and backward.

        They are sums over the clients with a loss, whose weights add up to ``present``; the rest is made up for.
        """
        self._server_gradients = [(p, p.grad) for p in self._module.parameters() if p.grad is not None]
        for parameter, gradient in self._server_gradients:
            parameter.grad = None
            if self._steps is not None and self._steps.shares_loss and present < 1 - 1e-6:
                gradient.div_(present)

    @override
    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Put the server's gradients in place; they were made in the training step, client by client."""
        self.pre_backward(closure_loss)
        closure_loss = self.precision_plugin.pre_backward(closure_loss, self._module)
        for parameter, gradient in self._server_gradients:
            parameter.grad = gradient
        self._server_gradients = []
        closure_loss = self.precision_plugin.post_backward(closure_loss, self._module)
        self.post_backward(closure_loss)
        return closure_loss

    @override
    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Step the server, then every participant, and end the round where it is due."""
        result = super().optimizer_step(optimizer, closure, model, **kwargs)
        steps, batches = self._steps, self._open_batches
        if steps is None or steps.federation is None or batches is None:
            return result
        for client in batches:
            for party in steps.federation.participants[client].parties:
                if party.optimizer is not None:
                    self._clip(party.optimizer)
                party.step()
        steps.finish(batches)
        self._open_batches = None
        if self._trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._read()
        return result

    def _clip(self, optimizer: Optimizer) -> None:
        """Clip one party's gradients, by the user's hook; no party knows the others' norm."""
        self._module.configure_gradient_clipping(
            optimizer,
            gradient_clip_val=self._trainer.gradient_clip_val,
            gradient_clip_algorithm=cast(str, self._trainer.gradient_clip_algorithm),
        )

    # Reading the global model

    def global_weights(self) -> dict[str, Tensor]:
        """Copies of the global parameters and buffers by name; in mid-round the weighted mean of those taking part."""
        if self._federation is not None:
            return self._federation.global_weights()
        held = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        return {name: tensor.detach().clone() for name, tensor in held.items()}

    def _read(self) -> None:
        if self._federation is not None:
            self._federation.read()

    @override
    def on_validation_start(self) -> None:
        self._read()

    @override
    def on_test_start(self) -> None:
        self._read()

    @override
    def on_predict_start(self) -> None:
        self._read()

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        self._read()
        return super().lightning_module_state_dict()

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        self._read()
        return super().optimizer_state(optimizer)

    # Checkpoints

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save Lightning's checkpoint of the global model, and beside it what it takes to go on bit for bit."""
        if self._loader is not None and self._steps is not None and "optimizer_states" in checkpoint:
            loader = self._loader.state_dict()
            epochs = cast(_ProcessedTracker, self._trainer.fit_loop.epoch_progress.current)
            if epochs.processed >= epochs.ready:
                loader["epoch_steps"] = 0  # the epoch is over, however early it was left off
            checkpoint[self.strategy_name] = {
                "settings": self._settings(),
                "loader": loader,
                "steps": self._steps.state_dict(),
                "random": RandomState.capture().to_state(),
                "validation_is_due": validation_is_due(self._trainer),
            }
            # Lightning's own copy of the loader's state: a plain loader could not take it over.
            checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def _settings(self) -> Settings:
        return {
            "algorithm": self.algorithm.name,
            "num_clients": self.num_clients,
            "clients_per_round": self.clients_per_round,
            "aggregate_every": self.aggregate_every,
            "batch_size": self.batch_size or 0,
            "weighting": self.weighting.value,
            "client_optimizer_state": self.client_optimizer_state.value,
            "seed": self.seed,
        }

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint; one of other clients is refused, for a fit, before anything is overwritten."""
        with readable(str(checkpoint_path)):
            checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        if self._fitting and self.strategy_name in checkpoint:
            check_settings(checkpoint[self.strategy_name], self._settings(), str(checkpoint_path))
        return checkpoint

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        self._before = copied(self._module)
        with self._as_before_on_error():
            super().load_model_state_dict(checkpoint, strict=strict)

    @contextmanager
    def _as_before_on_error(self) -> Iterator[None]:
        """Put the module's weights and buffers back if what is done here fails."""
        try:
            yield
        except Exception:
            put_back(self._module, self._before)
            raise

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        super().load_optimizer_state_dict(checkpoint)
        saved = checkpoint.get(self.strategy_name)
        if saved is None:
            return
        assert self._steps is not None
        self._saved = saved
        if saved["steps"] is not None:
            self._steps.load_state_dict(saved["steps"])
        begin_after_a_whole_epoch(self._trainer)
        if self._loader is not None:  # made early, by a scheduler that asked for the number of steps
            with self._as_before_on_error():
                self._loader.load_state_dict(saved["loader"])
            fetcher = self._trainer.fit_loop._data_fetcher
            assert fetcher is not None
            iter(fetcher)  # the iterator that was made with the loader begins anew

    # The end

    @override
    def on_train_end(self) -> None:
        self._read()

    @override
    def on_exception(self, exception: BaseException) -> None:
        self._read()

    @override
    def teardown(self) -> None:
        self._read()
        if self._steps is not None:
            self._steps.end()
        if self._transfer is not None:
            self._transfer.undo()
        super().teardown()

    @classmethod
    @override
    def register_strategies(cls, strategy_registry: _StrategyRegistry) -> None:
        strategy_registry.register(cls.strategy_name, cls, description=cls.__name__)
