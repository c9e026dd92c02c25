"""How far a whole model's gradient determines a record, at the weights that clients were sent last."""

from attacks.attacker import UnavailableError
from attacks.indicators.evidence import Evidence
from attacks.indicators.rank import indicators_of_whole_model
from attacks.update import last_updates


def gradient_rank(evidence: Evidence) -> dict[str, float]:
    """R-GAP's ranks of an auxiliary image; of clients that hold the whole model alone.

    Raises:
        UnavailableError: No update follows a broadcast, or there are no auxiliary images with labels.
    """
    attacker = evidence.attacker
    if attacker.cut is not None:
        return {}
    auxiliary = attacker.auxiliary
    if auxiliary.labels_B is None:
        raise UnavailableError("it needs auxiliary records with class labels, and these have none.")
    before = last_updates(attacker, clients=1)[0].before
    return indicators_of_whole_model(attacker.program, before, auxiliary.images_BCHW[:1], int(auxiliary.labels_B[0]))
