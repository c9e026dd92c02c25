"""Partitions: which client holds which samples. Every sample goes to exactly one client."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_sfl.random import generator

Indices = npt.NDArray[np.int64]
Labels = Callable[[], Indices]


class Partition(Protocol):
    """Deals the samples of a data set out to clients."""

    def split(self, num_samples: int, num_clients: int, labels: Labels, seed: int) -> list[Indices]:
        """Deal out ``num_samples`` samples.

        Args:
            num_samples: How many samples there are.
            num_clients: How many clients there are; never more than samples.
            labels: Gives one integer label per sample, read from the data set when first called.
            seed: The seed.

        Returns:
            One array of places in the data set per client; together they hold every place once.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class IID:
    """Shuffles the samples and deals them out in equal parts (sizes differ by one at most)."""

    name: ClassVar[str] = "iid"

    def __str__(self) -> str:
        return self.name

    def split(self, num_samples: int, num_clients: int, labels: Labels, seed: int) -> list[Indices]:
        """See :meth:`Partition.split`."""
        order = generator(seed, "partition").permutation(num_samples)
        return [np.sort(part) for part in np.array_split(order, num_clients)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """Label skew: each label's samples are dealt out in shares drawn from a symmetric Dirichlet distribution.

    Hsu, Qi and Brown 2019 (arXiv 1909.06335) in the form of Yurochkin et al. 2019: for every label, shares
    p ~ Dir(alpha · 1) over the clients. Drawn again until every client has a sample.

    Args:
        alpha: Concentration, above 0. Small values give clients of few labels, large ones come close to iid.
    """

    name: ClassVar[str] = "dirichlet"
    attempts: ClassVar[int] = 1000
    alpha: float

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1e6:  # NumPy's Dirichlet draw overflows far above
            raise ValueError(f"partition='dirichlet:{self.alpha}': alpha must be a number above 0 and at most 1e6.")

    def __str__(self) -> str:
        return f"{self.name}:{self.alpha:g}"

    def split(self, num_samples: int, num_clients: int, labels: Labels, seed: int) -> list[Indices]:
        """See :meth:`Partition.split`.

        Raises:
            ValueError: No draw within the bound gives every client a sample.
        """
        classes = labels()
        draw = generator(seed, "partition")
        by_class = [draw.permutation(np.flatnonzero(classes == label)) for label in np.unique(classes)]
        for _ in range(self.attempts):
            parts: list[list[Indices]] = [[] for _ in range(num_clients)]
            for members in by_class:
                shares = draw.dirichlet(np.full(num_clients, self.alpha))
                ends = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
                for part, taken in zip(parts, np.split(members, ends), strict=True):
                    part.append(taken)
            dealt = [np.sort(np.concatenate(part)) for part in parts]
            if min(len(part) for part in dealt) > 0:
                return dealt
        raise ValueError(
            f"partition='dirichlet:{self.alpha:g}': none of {self.attempts} draws gave each of"
            f" num_clients={num_clients} a sample of the {num_samples}. Give a larger alpha or fewer clients."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shards:
    """Sorts the samples by label, cuts them into equal shards and deals every client the same number of them.

    McMahan et al. 2017 (AISTATS, section 3), "pathological non-iid".

    Args:
        shards_per_client: Shards each client receives, at least 1.
    """

    name: ClassVar[str] = "shards"
    shards_per_client: int

    def __post_init__(self) -> None:
        if self.shards_per_client < 1:
            raise ValueError(f"partition='shards:{self.shards_per_client}': give an integer of at least 1.")

    def __str__(self) -> str:
        return f"{self.name}:{self.shards_per_client}"

    def split(self, num_samples: int, num_clients: int, labels: Labels, seed: int) -> list[Indices]:
        """See :meth:`Partition.split`.

        Raises:
            ValueError: There are more shards than samples.
        """
        total = self.shards_per_client * num_clients
        if total > num_samples:
            raise ValueError(
                f"partition='shards:{self.shards_per_client}': {num_clients} clients need {total} shards, but there are"
                f" {num_samples} samples. Give fewer shards per client, at most {num_samples // num_clients}."
            )
        draw = generator(seed, "partition")
        mixed = draw.permutation(num_samples)  # so that equal labels are in no particular order
        shards = np.array_split(mixed[np.argsort(labels()[mixed], kind="stable")], total)
        dealt = draw.permutation(total).reshape(num_clients, self.shards_per_client)
        return [np.sort(np.concatenate([shards[place] for place in hand])) for hand in dealt]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explicit:
    """Index lists given by the user, one per client, in the user's order."""

    lists: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        return "index lists"

    def split(self, num_samples: int, num_clients: int, labels: Labels, seed: int) -> list[Indices]:
        """See :meth:`Partition.split`.

        Raises:
            ValueError: The lists do not give every sample to exactly one client.
        """
        if len(self.lists) != num_clients:
            raise ValueError(
                f"partition: {len(self.lists)} index lists were given for num_clients={num_clients}, need one each."
            )
        if empty := [client for client, indices in enumerate(self.lists) if len(indices) == 0]:
            raise ValueError(f"partition: the index lists of clients {empty} are empty; every client needs a sample.")
        parts = [np.asarray(indices, dtype=np.int64) for indices in self.lists]
        together = np.concatenate(parts)
        if together.min() < 0 or together.max() >= num_samples:
            wrong = together[(together < 0) | (together >= num_samples)][0]
            raise ValueError(
                f"partition: index {wrong} is not in the data set, whose indices are 0 to {num_samples - 1}."
            )
        count = np.bincount(together, minlength=num_samples)
        if (count > 1).any():
            twice = np.flatnonzero(count > 1)
            raise ValueError(
                f"partition: {len(twice)} samples are listed more than once, the first of them {twice[0]}; every sample"
                " belongs to exactly one client."
            )
        if (count == 0).any():
            left = np.flatnonzero(count == 0)
            raise ValueError(
                f"partition: {len(left)} of {num_samples} samples are in no list, the first of them {left[0]}; to"
                " train on fewer samples, give the loader a torch.utils.data.Subset."
            )
        return parts


def parse_partition(partition: "str | Sequence[Sequence[int]] | Partition") -> Partition:
    """Make a partition from what the user gave.

    Args:
        partition: ``"iid"``, ``"dirichlet:ALPHA"``, ``"shards:K"``, one list of indices per client, or an object with
            a ``split`` method (:class:`Partition`).

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(partition, str):
        name, _, argument = partition.partition(":")
        if name not in _NAMED:
            raise ValueError(f"partition={partition!r} is not known. Accepted are {_ACCEPTED}.")
        return _NAMED[name](argument)
    given: object = partition
    if hasattr(given, "split") and not isinstance(given, Tensor):
        return cast(Partition, given)
    try:
        lists = cast(Sequence[Sequence[int]], given)
        return Explicit(lists=tuple(tuple(operator.index(index) for index in indices) for indices in lists))
    except TypeError:
        raise ValueError(f"partition={partition!r} is not accepted. Accepted are {_ACCEPTED}.") from None


def _iid(argument: str) -> IID:
    if argument:
        raise ValueError(f"partition='iid:{argument}' is not accepted: 'iid' takes no number.")
    return IID()


def _dirichlet(argument: str) -> Dirichlet:
    try:
        alpha = float(argument)
    except ValueError:
        raise ValueError(f"partition='dirichlet:{argument}' is not accepted: alpha must be a number above 0.") from None
    return Dirichlet(alpha=alpha)


def _shards(argument: str) -> Shards:
    try:
        count = int(argument)
    except ValueError:
        raise ValueError(
            f"partition='shards:{argument}' is not accepted: the number of shards per client must be an integer."
        ) from None
    return Shards(shards_per_client=count)


_NAMED: dict[str, Callable[[str], Partition]] = {IID.name: _iid, Dirichlet.name: _dirichlet, Shards.name: _shards}
_ACCEPTED = (
    "'iid', 'dirichlet:ALPHA', 'shards:K', one list of indices per client, a DataLoader per client ({client: loader}),"
    " or an object with a split method"
)
