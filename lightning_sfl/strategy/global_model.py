"""Whoever reads the model sees the global one: validation, test, prediction, checkpoints, and the end of a fit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning.pytorch as pl
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.algorithms.placement import Algorithm
from lightning_sfl.allocation import Allocation
from lightning_sfl.cut.split import Split
from lightning_sfl.data.loader import ClientLoader
from lightning_sfl.link.link import LocalLink
from lightning_sfl.random_state import RandomState
from lightning_sfl.strategy.checkpoints import (
    Settings,
    begin_after_a_whole_epoch,
    begin_next_epoch,
    check_settings,
    copied,
    plateau_state,
    put_back,
    readable,
    restore_metrics,
    run_validation,
    update_plateaus,
    validation_is_due,
)
from lightning_sfl.strategy.client_steps import ClientSteps
from lightning_sfl.strategy.codecs import CodecPlan
from lightning_sfl.strategy.controls import SimulatedControls
from lightning_sfl.strategy.cuts import Cuts
from lightning_sfl.strategy.epoch_sums import EpochSums, epoch_sums
from lightning_sfl.strategy.rounds import Rounds
from lightning_sfl.strategy.server_gradients import ServerGradients
from lightning_sfl.strategy.single_process import SingleProcessStrategy


class GlobalModelStrategy(SingleProcessStrategy):
    """Shows the global model to all who read it, and saves and loads what it takes to go on bit for bit."""

    strategy_name: ClassVar[str]
    algorithm: Algorithm
    _rounds: Rounds | None
    _steps: ClientSteps | None
    _loader: ClientLoader | None
    _server: ServerGradients | None
    controls: SimulatedControls
    codec_plan: CodecPlan
    link: LocalLink
    _logged_earlier: EpochSums
    _saved: dict[str, Any] | None
    _before: dict[str, Tensor]

    @property
    def has_fixed_norms(self) -> bool:
        """Whether clients' batch normalisation goes by its running statistics in training."""
        return isinstance(self.algorithm, ForwardOnly)

    @property
    def _fitting(self) -> bool:
        return self._trainer.state.fn == TrainerFn.FITTING

    @property
    def _trains(self) -> bool:
        """Whether a fit is going on."""
        return self._fitting and self._trainer.state.status == TrainerStatus.RUNNING

    @property
    def _trainer(self) -> pl.Trainer:
        return self._module.trainer

    @property
    def _module(self) -> pl.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    @property
    def _federation(self) -> Federation | None:
        return None if self._rounds is None else self._rounds.federation

    # Who is where

    @property
    def splits(self) -> dict[str, Split]:
        """Whose is what at every cut used so far, by cut; empty before the first step, and without a cut."""
        return {} if self._rounds is None else dict(self._rounds.known.splits)

    @property
    def rounds(self) -> int:
        """Rounds begun in this fit."""
        return 0 if self._rounds is None else self._rounds.count

    @property
    def cuts(self) -> Cuts | None:
        """Where every registered client cuts in the round at hand; None outside a fit."""
        return None if self._rounds is None else self._rounds.cuts

    @property
    def lost(self) -> frozenset[int]:
        """The participants of the round at hand that are lost; nobody between rounds."""
        if self._federation is None:
            return frozenset()
        return frozenset(client for client, found in self._federation.participants.items() if found.lost)

    # What clients can be given

    def learn_cuts(self, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """Find out whose is what at cuts that may be allocated, once a step has shown a batch.

        Args:
            names: The cuts; None: every valid one that leaves the server a parameter, as far as they lie one behind
                the other.

        Returns:
            Their names, in the order in which the model runs.

        Raises:
            CutError: A cut is not valid, or the cuts do not lie one behind the other.
        """
        assert self._rounds is not None
        return self._rounds.learn(names)

    def owned_at(self, deepest: str) -> tuple[str, ...]:
        """The parameters that would drift apart within a round if this were the deepest cut.

        They are those that each client has of its own, on whichever side they are computed; all others are the same for
        everybody at any time. With one participant alone there is nobody to drift apart from.
        """
        assert self._loader is not None
        if len(self._loader.schedule.turn(0).participants) == 1:
            return ()
        split = self.splits[deepest]
        placement = self.algorithm.place(self._module, split, split)
        return (*placement.client.parameters, *placement.replica.parameters)

    def participants(self, rounds: Iterable[int]) -> list[int]:
        """The clients that take part in any of these rounds, unless they are lost."""
        assert self._loader is not None
        return sorted({client for round in rounds for client in self._loader.schedule.participants(round)})

    def in_force(self) -> Allocation:
        """What every registered client has in the next round, as far as anybody was given it."""
        assert self._loader is not None
        assert self._rounds is not None
        cuts = self._rounds.planned_cuts
        return Allocation(
            cut=[cuts.of(client) or "" for client in range(cuts.num_clients)],
            batch_size=self._loader.next_batch_sizes,
            bits=self.codec_plan.next_bits(cuts.num_clients),
            **self.controls.last,
        )

    @property
    def owners(self) -> dict[Optimizer, int]:
        """Whose client's own part each optimizer steps, in `on_before_optimizer_step`; the server's is not here."""
        if self._federation is None:
            return {}
        found = [(own, client) for client, held in self._federation.participants.items() for own in held.parties]
        return {own.optimizer: client for own, client in found if own.optimizer is not None}

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
        if (
            self._loader is not None
            and self._rounds is not None
            and self._steps is not None
            and self._server is not None
            and "optimizer_states" in checkpoint
        ):
            loader = self._loader.state_dict()
            epochs = cast(_ProcessedTracker, self._trainer.fit_loop.epoch_progress.current)
            if epochs.processed >= epochs.ready:
                loader["epoch_steps"] = 0  # the epoch is over, however early it was left off
            checkpoint[self.strategy_name] = {
                "settings": self._settings(),
                "loader": loader,
                "rounds": self._rounds.state_dict(),
                "steps": self._steps.state_dict(),
                "controls": self.controls.state_dict(),
                "bits": self.codec_plan.state_dict(),
                "left_out": self.link.memory.state_dict(),
                "server_gradients": self._server.state_dict(),
                "random": RandomState.capture().to_state(),
                "validation_is_due": validation_is_due(self._trainer),
                "plateaus": plateau_state(self._trainer),
                "logged": epoch_sums(self._trainer),
            }
            # Lightning's own copy of the loader's state: a plain loader could not take it over.
            checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def _settings(self) -> Settings:
        """The arguments that decide who trains when; a checkpoint of others is refused."""
        raise NotImplementedError

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
        except Exception:  # whatever it was, it is raised again
            put_back(self._module, self._before)
            raise

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        super().load_optimizer_state_dict(checkpoint)
        saved = checkpoint.get(self.strategy_name)
        if saved is None:
            return
        assert self._rounds is not None
        self._saved = saved
        assert self._steps is not None
        self._rounds.load_state_dict(saved["rounds"])
        self._steps.load_state_dict(saved["steps"])
        self.controls.load_state_dict(saved["controls"])
        self.codec_plan.load_state_dict(saved["bits"])
        self.link.memory.load_state_dict(saved["left_out"])
        begin_after_a_whole_epoch(self._trainer)
        if self._loader is not None:  # made early, by a scheduler that asked for the number of steps
            with self._as_before_on_error():
                self._loader.load_state_dict(saved["loader"])
            fetcher = self._trainer.fit_loop._data_fetcher
            assert fetcher is not None
            iter(fetcher)  # the iterator that was made with the loader begins anew

    def _resume(self) -> None:
        """Put back of a loaded checkpoint what Lightning has not, and run the validation that was due then."""
        assert self._loader is not None
        assert self._server is not None
        self._before = {}
        if self._saved is None:
            return
        RandomState.from_state(self._saved["random"]).restore()
        restore_metrics(self._trainer, self._saved["plateaus"])
        if self._saved["validation_is_due"]:
            run_validation(self._trainer)
        update_plateaus(self._trainer, self._saved["plateaus"])
        begin_next_epoch(self._trainer)
        self._server.load_state_dict(self._saved["server_gradients"])
        self._logged_earlier = EpochSums(self._saved["logged"], self._trainer.current_epoch)
        # Lightning goes on to fast-forward its loops, which draws seeds for loaders that nobody reads.
        self._loader.random_state = RandomState.capture()
        self._saved = None

    @override
    def on_train_end(self) -> None:
        self._read()

    @override
    def on_exception(self, exception: BaseException) -> None:
        self._read()
