"""What runs a fit, put together from the strategy's arguments."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import lightning.pytorch as pl

from lightning_sfl.algorithms.aggregation import Aggregation
from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.strategy.checks import ServerBatching
from lightning_sfl.strategy.client_steps import ClientSteps
from lightning_sfl.strategy.cuts import Cuts
from lightning_sfl.strategy.encoded_steps import EncodedMergedSteps, EncodedSteps
from lightning_sfl.strategy.forward_only_steps import ForwardOnlySteps
from lightning_sfl.strategy.known_splits import KnownSplits
from lightning_sfl.strategy.loss_scale import LossScale
from lightning_sfl.strategy.merged_steps import MergedSteps
from lightning_sfl.strategy.presence import Nonfinite, Presence
from lightning_sfl.strategy.rounds import Rounds

if TYPE_CHECKING:
    from lightning_sfl.strategy.split_federated import SplitFederatedStrategy


def wired(strategy: "SplitFederatedStrategy", trainer: pl.Trainer) -> tuple[Rounds, ClientSteps]:
    """The rounds of a fit, and the steps in them."""
    module, optimizer = trainer.lightning_module, strategy.optimizers[0]
    presence = Presence(strategy.attendance, skips_nonfinite=strategy.nonfinite is Nonfinite.SKIP)
    rounds = Rounds(
        module,
        optimizer,
        algorithm=strategy.algorithm,
        aggregation=Aggregation(
            weighting=strategy.weighting,
            client_optimizer_state=strategy.client_optimizer_state,
            client_samples=strategy.samples_held,
        ),
        link=strategy.link,
        cuts=Cuts.given(strategy.cut, strategy.num_clients),
        presence=presence,
        known=KnownSplits(module, strategy.precision_plugin, strategy.server_inputs),
    )
    encoded = strategy.codecs.encodes_at_cuts
    make_steps: Callable[..., ClientSteps] = EncodedSteps if encoded else ClientSteps
    if isinstance(strategy.algorithm, ForwardOnly):
        make_steps = functools.partial(ForwardOnlySteps, algorithm=strategy.algorithm, seed=strategy.seed)
    elif strategy.server_batching is ServerBatching.MERGED:
        make_steps = EncodedMergedSteps if encoded else MergedSteps
    steps = make_steps(
        module,
        optimizer,
        strategy.precision_plugin,
        loss_scale=LossScale(strategy.precision_plugin, accumulates=trainer.accumulate_grad_batches),
        link=strategy.link,
        rounds=rounds,
        presence=presence,
    )
    return rounds, steps
