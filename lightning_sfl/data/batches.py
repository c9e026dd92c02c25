"""What one step's loader yields: a batch for every client that takes part."""

import dataclasses
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(kw_only=True)  # not frozen: Lightning's precision plugins rebuild it with converted tensors
class ClientBatches:
    """The batches of one step, by client. This is the ``batch`` that Lightning hands to callbacks.

    Attributes:
        batches: ``{client: batch}``; each batch is what the user's ``collate_fn`` made of that client's samples.
        indices: ``{client: places in the training set}`` of those samples.
        round: The round the step belongs to.
        step: The step, counted over the whole run.
        participants: The clients that take part in the round; sequential algorithms have one at a time in a step.
        begins_optimizer_step: Whether it is the first of the steps whose gradients one optimizer step is made of.
        closes_round: Whether that optimizer step is the last of its round.
    """

    batches: dict[int, Any]
    indices: dict[int, tuple[int, ...]]
    round: int
    step: int
    participants: tuple[int, ...]
    begins_optimizer_step: bool
    closes_round: bool

    def __iter__(self) -> Iterator[int]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, client: int) -> Any:
        return self.batches[client]

    def sizes(self) -> dict[int, int]:
        """How many samples each client's batch holds."""
        return {client: len(indices) for client, indices in self.indices.items()}
