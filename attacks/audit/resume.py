"""Attacks are run once: what an earlier, interrupted run of the same audit found is taken from there."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence

from attacks.attack import Attack, Findings
from attacks.audit.circumstances import CircumstancesOf, of_control
from attacks.audit.kept import Circumstances, Kept, KeptFindings
from attacks.images import ImageSpace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What an attack found.

    Attributes:
        findings: What it brought back.
        cpu_s: CPU seconds it took when it ran.
        earlier_s: Wall time it took in an earlier run; 0 where it ran now.
    """

    findings: Findings
    cpu_s: float
    earlier_s: float


class Once:
    """Runs attacks that were not run yet under the circumstances.

    Args:
        kept: Where findings are kept; None keeps none.
        circumstances: Makes what tells them at a cut; asked only where something is kept.
        controls: Where those on controls are kept; None: with the others.
    """

    def __init__(
        self, kept: Kept | None, circumstances: Callable[[], CircumstancesOf], controls: Kept | None = None
    ) -> None:
        self._kept = kept
        self._controls = controls or kept
        self._at_cut = None if kept is None else circumstances()

    def refuse_others(
        self,
        wanted: Sequence[tuple[Attack, str | None]],
        where: Callable[[Attack, str | None], str | None],
        space: ImageSpace,
    ) -> None:
        """Warn of all that is kept and that these attacks at these cuts, with their controls, cannot use."""
        if self._kept is None or self._at_cut is None:
            return
        asked = [self._at_cut(attack, cut) for attack, cut in wanted]
        asked += [of_control(attack, where(attack, cut), space) for attack, cut in wanted]
        for kept in dict.fromkeys((self._kept, self._controls)):
            if kept is not None and (unfit := kept.unfit(asked)):
                warnings.warn(
                    f"Findings of an earlier run in {str(kept.folder)!r} are not used: {'; '.join(unfit)}.",
                    stacklevel=3,
                )

    def run(self, attack: Attack, cut: str | None, run: Callable[[], Findings]) -> Found:
        """Run an attack at a cut, or take what it found there."""
        return _run(run, self._kept, None if self._at_cut is None else self._at_cut(attack, cut))

    def run_control(self, attack: Attack, where: str | None, space: ImageSpace, run: Callable[[], Findings]) -> Found:
        """Run an attack's control, or take what it found there."""
        return _run(run, self._controls, None if self._controls is None else of_control(attack, where, space))


def _run(run: Callable[[], Findings], kept: Kept | None, wanted: Circumstances | None) -> Found:
    if kept is not None and wanted is not None and (earlier := kept.find(wanted)) is not None:
        return Found(findings=earlier.findings, cpu_s=earlier.cpu_s, earlier_s=earlier.wall_s)
    cpu, wall = time.process_time(), time.perf_counter()
    findings = run()
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    if kept is not None and wanted is not None:
        kept.keep(wanted, KeptFindings(findings=findings, cpu_s=cpu_s, wall_s=wall_s))
    return Found(findings=findings, cpu_s=cpu_s, earlier_s=0.0)
