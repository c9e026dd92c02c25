"""The model's side of a plan: its valid cuts, and their profile."""

import dataclasses

from lightning_sfl.cli.job import SEARCHED_RECORDS, Run, configured_optimizer
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.find import Cut, default_cut, valid_cuts_text
from lightning_sfl.cut.weightless import has_values
from lightning_sfl.world.cost.load import whole_of
from lightning_sfl.world.model.profile import Profile, at

WHOLE_MODEL = "(whole model)"

_MOST_FLOP = 1e11
"""Halves are run apart only where that is a matter of seconds on one core."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """What is known of the model.

    Attributes:
        cuts: Its valid cuts, in order of execution; none for an algorithm without a cut.
        profile: Their profile; the whole model's for an algorithm without a cut.
        ran_apart: Whether every cut's halves were run apart, and not only followed on shapes.
        counted_state: Whether the optimizer's state is in the profile.
    """

    cuts: tuple[Cut, ...]
    profile: Profile
    ran_apart: bool
    counted_state: bool

    @property
    def names(self) -> tuple[str, ...]:
        """What the rows of a plan are called."""
        return tuple(cut.name for cut in self.cuts) or (WHOLE_MODEL,)

    @property
    def second_cut(self) -> str | None:
        """The second cut of a U-shape."""
        back = self.cuts[0].split.back if self.cuts else None
        return None if back is None else back.cut

    @property
    def default(self) -> Cut | None:
        """The cut taken when the user names none."""
        return default_cut(self.cuts) if self.cuts else None

    def place(self, name: str | None) -> int:
        """The row of the cut that is called so, or ends at the same tensor; of the default cut for None.

        Raises:
            ValueError: It is not valid.
        """
        if self.default is None:
            return 0
        wanted = self.default.name if name is None else name
        for place, cut in enumerate(self.cuts):
            if wanted in (cut.name, *cut.aliases):
                return place
        raise ValueError(f"cut={wanted!r} is not valid. {valid_cuts_text(self.cuts, self.second_cut)}")


def plan_model(run: Run) -> PlannedModel:
    """Find the model's cuts and profile them.

    Cuts are found on shapes alone, which takes no longer for a large model than for a small one of as many layers.
    Where it is a matter of seconds, every cut's halves are run apart as well, as ``find_cuts`` does.

    Raises:
        CutError: The model has no valid cut.
    """
    optimizer = configured_optimizer(run.model)
    state = optimizer is not None
    if not run.strategy.algorithm.uses_cut:
        whole = whole_of(run.profile([], optimizer))
        return PlannedModel(cuts=(), profile=whole, ran_apart=False, counted_state=state)
    cuts, ran_apart = _on_shapes(run), False
    if cuts is None:
        cuts, ran_apart = run.search().cuts(), True
    profile = run.profile(cuts, optimizer)
    if not ran_apart and has_values(run.model) and _flop_of_running(cuts, profile) <= _MOST_FLOP:
        confirmed, ran_apart = run.search().cuts(), True
        if [cut.name for cut in confirmed] != [cut.name for cut in cuts]:
            profile = run.profile(confirmed, optimizer)
        cuts = confirmed
    return PlannedModel(cuts=tuple(cuts), profile=profile, ran_apart=ran_apart, counted_state=state)


def _on_shapes(run: Run) -> list[Cut] | None:
    """The cuts, found without values; None where the step looks at some, or there are no cuts to be seen."""
    try:
        return run.search(weightless=True).cuts()
    except CutError:
        if not has_values(run.model):
            raise
        return None


def _flop_of_running(cuts: list[Cut], profile: Profile) -> float:
    """What running the halves of every cut apart takes: together they are a forward pass."""
    whole = at(whole_of(profile).client_forward_flop[0], SEARCHED_RECORDS)
    return float(whole) * sum(1 + len(cut.aliases) for cut in cuts)
