"""What senders keep of what a codec left out, to add it the next time (Stich et al. 2018, Karimireddy et al. 2019)."""

from collections.abc import Mapping

from torch import Tensor


class ErrorFeedback:
    """One memory per client and tensor, for clients that have sent something."""

    def __init__(self) -> None:
        self._by_client: dict[int, dict[str, Tensor]] = {}

    def of(self, client: int) -> dict[str, Tensor]:
        """What a client has left out, by tensor; to be written to."""
        return self._by_client.setdefault(client, {})

    def state_dict(self) -> dict[int, dict[str, Tensor]]:
        """As tensors and plain Python, for checkpoints; not copies."""
        return {client: dict(left_out) for client, left_out in self._by_client.items()}

    def load_state_dict(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._by_client = {client: dict(left_out) for client, left_out in state.items()}
