"""Pools of candidates: the records that were used, among others that were not, in an order that gives nothing away."""

from collections.abc import Sequence

import torch

from attacks.attacker import Records, UnavailableError
from attacks.audit.truth import RecordsAt
from lightning_sfl.link.log import MessageLog
from lightning_sfl.random import generator


class CandidatePool:
    """For every round, the records that clients worked on in it, among auxiliary ones. Labels are left out.

    Args:
        log: The log; which records were worked on is kept beside it, and read when a pool is asked for.
        records: Gives records by their places in the training set.
        auxiliary: The others.
        seed: Seeds the order.
    """

    def __init__(self, log: MessageLog, records: RecordsAt, auxiliary: Records | None, *, seed: int = 0) -> None:
        self._log = log
        self._records = records
        self._auxiliary = auxiliary
        self._seed = seed
        self._used: dict[int, list[int]] = {}

    def records(self, round: int) -> Records:
        """See :class:`attacks.attacker.Pool`.

        Raises:
            UnavailableError: Which records were used is not known, or there are no others.
        """
        if self._auxiliary is None:
            raise UnavailableError("it needs auxiliary records to hide the true ones among, and there are none.")
        used = self._used_in(round)
        if not used:
            raise UnavailableError(f"it needs candidates, and no record is known that was used in round {round}.")
        own_BCHW = self._records(tuple(used)).images_BCHW
        images_NCHW = torch.cat([own_BCHW, self._auxiliary.images_BCHW.to(own_BCHW)])
        return Records(images_BCHW=images_NCHW[self._order(round)])

    def places(self, round: int, indices: Sequence[int]) -> list[int]:
        """See :class:`attacks.attacker.Pool`."""
        where = {self._used_in(round)[at]: place for place, at in self._shuffled(round)}
        return [where[index] for index in indices]

    def _shuffled(self, round: int) -> list[tuple[int, int]]:
        """Places in the pool, and which of the used records stand there."""
        used = len(self._used_in(round))
        return [(place, at) for place, at in enumerate(self._order(round).tolist()) if at < used]

    def _order(self, round: int) -> torch.Tensor:
        others = 0 if self._auxiliary is None else len(self._auxiliary.images_BCHW)
        count = len(self._used_in(round)) + others
        return torch.from_numpy(generator(self._seed, "candidates", round).permutation(count))

    def _used_in(self, round: int) -> list[int]:
        if round not in self._used:
            clients = {m.client for m in self._log.messages() if m.round == round and m.client is not None}
            steps = [step for client in sorted(clients) for step in self._log.worked_on(client, round)]
            self._used[round] = sorted({index for step in steps for index in step})
        return self._used[round]
