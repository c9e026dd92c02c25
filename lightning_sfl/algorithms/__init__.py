"""Split federated learning algorithms, one file each, and the federation that carries them out."""

from lightning_sfl.algorithms.fedavg import FedAvg
from lightning_sfl.algorithms.placement import Algorithm
from lightning_sfl.algorithms.split_learning import SplitLearning
from lightning_sfl.algorithms.splitfed_shared import SplitFedShared
from lightning_sfl.algorithms.splitfed_v1 import SplitFedV1
from lightning_sfl.algorithms.splitfed_v2 import SplitFedV2

ALGORITHMS: dict[str, type[Algorithm]] = {
    SplitFedShared.name: SplitFedShared,
    SplitFedV1.name: SplitFedV1,
    SplitFedV2.name: SplitFedV2,
    SplitLearning.name: SplitLearning,
    FedAvg.name: FedAvg,
}


def make_algorithm(name: str) -> Algorithm:
    """The algorithm of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm={name!r} is not known. Accepted are {', '.join(map(repr, ALGORITHMS))}.")
    return ALGORITHMS[name]()
