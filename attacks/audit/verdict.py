"""From figures to words."""

from lightning_sfl.report.leakage import Control, Interval, Verdict

SIGNIFICANCE = 0.05


def verdict(
    *,
    gain: Interval,
    p_adjusted: float,
    baseline: str,
    worst_record: float,
    threshold: float,
    control: Control | None,
    bound: str,
    records_beyond: int = 0,
) -> tuple[Verdict, str]:
    """What a cell shows, and why.

    It leaks where the attack beats every guess beyond chance, wholly if a record passes the threshold: one record that
    comes back is a breach. So it does where a record comes back that no guess comes near, though the mean over few and
    unlike clients says nothing. It is bounded only by a reason that holds for every attack. Else nothing is shown.
    """
    if gain.low is None:
        return Verdict.INCONCLUSIVE, "Fewer than 2 records were attacked, so there is no interval and no test."
    if gain.low > 0 and p_adjusted < SIGNIFICANCE:
        if worst_record >= threshold:
            return Verdict.LEAKS, f"It beats {baseline}, and at least one record passes {threshold:g}."
        return Verdict.PARTLY, f"It beats {baseline}, but no record passes {threshold:g}."
    if records_beyond:
        many = "1 record comes" if records_beyond == 1 else f"{records_beyond} records come"
        return Verdict.LEAKS, (
            f"{many} back past {threshold:g} and far nearer than every guess for it, the nearest auxiliary image"
            " included; the mean over clients is too uncertain to say more."
        )
    if bound:
        return Verdict.BOUNDED, bound
    if control is None:
        return Verdict.INCONCLUSIVE, f"It does not beat {baseline} beyond chance; without a control it may be at fault."
    if not control.passed:
        return Verdict.INCONCLUSIVE, (
            f"It does not beat {baseline} beyond chance, and fails where it must succeed ({control.value:.1f} where"
            f" {control.needed:g} is needed): this attack says nothing."
        )
    return Verdict.INCONCLUSIVE, (
        f"It does not beat {baseline} beyond chance, though it works where it must succeed ({control.value:.1f} where"
        f" {control.needed:g} is needed): a stronger attack may."
    )
