"""The best guesses that can be made without the messages under attack."""

import dataclasses

import torch
from torch import Tensor

from attacks.images import ImageSpace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guess:
    """Images for every record under attack.

    Attributes:
        name: What they are.
        unit_NCHW: The images, as unit images.
        uses_truth: Whether they were chosen knowing the record, which no attacker can.
    """

    name: str
    unit_NCHW: Tensor
    uses_truth: bool = False


def no_leak_guesses(
    true_NCHW: Tensor, rebuilt_NCHW: Tensor, clients_N: Tensor, auxiliary_NCHW: Tensor | None, space: ImageSpace
) -> list[Guess]:
    """Guesses for unit images.

    Args:
        true_NCHW: The records under attack; only "nearest" looks at them.
        rebuilt_NCHW: What the attack made of them. What it made of another client's messages is a guess as well: it has
            the look of the attack's pictures without the record, so a prior that invents scores as well there.
        clients_N: Whose record each is.
        auxiliary_NCHW: Images of the same kind that are not under attack, as the model is given them; None if there are
            none.
        space: Where images lie.
    """
    shape = true_NCHW.shape
    guesses = [Guess(name="mid-grey", unit_NCHW=space.grey(shape[0], true_NCHW.dtype))]
    other = _of_another_client(clients_N)
    if other is not None:
        guesses.append(Guess(name="the same attack on another client's messages", unit_NCHW=rebuilt_NCHW[other]))
    if auxiliary_NCHW is not None:
        unit = space.to_unit(auxiliary_NCHW).to(true_NCHW)
        guesses.append(Guess(name="mean of auxiliary images", unit_NCHW=unit.mean(0, keepdim=True).expand(shape)))
        nearest = torch.cdist(true_NCHW.flatten(1), unit.flatten(1)).argmin(1)
        guesses.append(Guess(name="nearest auxiliary image", unit_NCHW=unit[nearest], uses_truth=True))
    return guesses


def _of_another_client(clients_N: Tensor) -> Tensor | None:
    """For every record, the place of one of the next client's, in turn; None if there is one client only."""
    clients = clients_N.unique().tolist()
    if len(clients) < 2:
        return None
    places = {client: (clients_N == client).nonzero().flatten() for client in clients}
    following = {client: places[clients[(place + 1) % len(clients)]] for place, client in enumerate(clients)}
    seen = dict.fromkeys(clients, 0)
    chosen: list[int] = []
    for client in clients_N.tolist():
        chosen.append(int(following[client][seen[client] % len(following[client])]))
        seen[client] += 1
    return torch.tensor(chosen)
