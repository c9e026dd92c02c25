"""Learning whose is what ahead of a step, on a copy of the module, where the step itself cannot be the one to tell."""

from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.strategy.rounds import Rounds


def find_out(rounds: Rounds, batches: ClientBatches, client: int) -> None:
    """Learn whose is what from a client's step on a copy, if it is not known.

    Raises:
        SkippedStep: The step is skipped.
        CutError: The step needs another split than the run began with.
    """
    batch = batches[client]
    if rounds.federation is None:
        rounds.choose_cut(batch)
        rounds.known.on_copy(rounds.cuts, batch, batches.step, rounds.found)
        rounds.begin(batches)
    if rounds.known.of(rounds.cuts.of(client), batch) is None:
        rounds.known.on_copy(rounds.cuts, batch, batches.step, lambda splits: rounds.check_same(splits, client))
