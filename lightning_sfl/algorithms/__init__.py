"""Split federated learning algorithms, one file each, and the federation that carries them out."""

from lightning_sfl.algorithms.fedavg import FedAvg
from lightning_sfl.algorithms.heron_sfl import HERONSFL
from lightning_sfl.algorithms.ho_sfl import HOSFL
from lightning_sfl.algorithms.hosl import HOSL
from lightning_sfl.algorithms.placement import Algorithm
from lightning_sfl.algorithms.split_learning import SplitLearning
from lightning_sfl.algorithms.splitfed_shared import SplitFedShared
from lightning_sfl.algorithms.splitfed_v1 import SplitFedV1
from lightning_sfl.algorithms.splitfed_v2 import SplitFedV2
from lightning_sfl.algorithms.zo_sfl import ZOSFL

ALGORITHMS: dict[str, type[Algorithm]] = {
    SplitFedShared.name: SplitFedShared,
    SplitFedV1.name: SplitFedV1,
    SplitFedV2.name: SplitFedV2,
    SplitLearning.name: SplitLearning,
    FedAvg.name: FedAvg,
    HOSFL.name: HOSFL,
    ZOSFL.name: ZOSFL,
    HOSL.name: HOSL,
    HERONSFL.name: HERONSFL,
}


def make_algorithm(algorithm: "str | Algorithm") -> Algorithm:
    """The algorithm of this name, or the one that is given with hyper-parameters of its own.

    Raises:
        ValueError: There is none.
    """
    if isinstance(algorithm, str) and algorithm in ALGORITHMS:
        return ALGORITHMS[algorithm]()
    if isinstance(algorithm, str) or not isinstance(algorithm, tuple(ALGORITHMS.values())):
        known = ", ".join(map(repr, ALGORITHMS))
        raise ValueError(f"algorithm={algorithm!r} is not known. Accepted are {known}, and their classes' instances.")
    return algorithm
