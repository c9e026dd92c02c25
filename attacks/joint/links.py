"""Which rows of other messages come from records that were rebuilt already."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def explained(smashed: Sequence[Tensor], sent: Sequence[Tensor]) -> Tensor:
    """How badly each of A rebuilt records explains each of B rows that were sent: ‖f(x̂ₐ) − z_b‖²/‖z_b‖², (A, B)."""
    ours = torch.cat([tensor.double().flatten(1) for tensor in smashed], 1)  # (A, F)
    theirs = torch.cat([tensor.double().flatten(1) for tensor in sent], 1)  # (B, F)
    size_B = theirs.square().sum(1)
    distance_AB = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist").square()
    # A row of zeros could be anybody's.
    return torch.where(size_B > 0, distance_AB / size_B.clamp_min(1e-300), math.inf)


def links(distance_AB: Tensor, others_B: Tensor, ratio: float) -> list[tuple[int, int]]:
    """Pairs (record, row) that belong together beyond doubt, ascending.

    The nearest row of a record whose nearest record that is, if every other candidate is farther by ``1 / ratio``: the
    other records, the other rows, and whatever else could be behind a row (Lowe 2004, section 7.1, in both directions).

    Args:
        distance_AB: How badly each rebuilt record explains each row.
        others_B: How badly the best of other images, which are known not to be behind it, explains each row; infinite
            where there are none.
        ratio: Of squared distances, above 0 and below 1.
    """
    found: list[tuple[int, int]] = []
    if not distance_AB.numel():
        return found
    for record, row in enumerate(distance_AB.argmin(1).tolist()):
        own = float(distance_AB[record, row])
        if int(distance_AB[:, row].argmin()) != record or not math.isfinite(own):
            continue
        rivals = torch.cat(
            [
                distance_AB[:record, row],
                distance_AB[record + 1 :, row],
                distance_AB[record, :row],
                distance_AB[record, row + 1 :],
                others_B[row : row + 1],
            ]
        )
        if float(rivals.min()) < math.inf and own <= ratio * float(rivals.min()):
            found.append((record, row))
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A message in which some of the records come again.

    Attributes:
        place: Which message it is.
        pairs: Pairs (record, row).
        elements: How many numbers a row has.
    """

    place: int
    pairs: tuple[tuple[int, int], ...]
    elements: int


def most_telling(views: Sequence[View], records: int, count: int) -> list[View]:
    """At most ``count`` views, such that as many numbers as possible are known of every record.

    One after the other the view is taken that adds most: a view adds to a record what its row has more than is known of
    it already, or, where it has no more, a hundredth of it: another round's weights say something, a wider cut more.
    """
    known = [0.0] * records
    left, chosen = list(views), list[View]()

    def adds(view: View, record: int) -> float:
        return max(view.elements - known[record], view.elements / 100)

    while left and len(chosen) < count:
        best = max(left, key=lambda view: (sum(adds(view, record) for record, _ in view.pairs), -view.place))
        if not best.pairs:
            break
        for record, _ in best.pairs:
            known[record] += adds(best, record)
        chosen.append(best)
        left.remove(best)
    return chosen
