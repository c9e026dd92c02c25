"""The indicators."""

from collections.abc import Callable

from attacks.attacker import UnavailableError
from attacks.indicators.dependence import dependence
from attacks.indicators.evidence import Evidence
from attacks.indicators.fisher import fisher_leakage
from attacks.indicators.gradient_rank import gradient_rank

Indicator = Callable[[Evidence], dict[str, float]]
"""Gives finite figures by name, each of which says what it is and supposes; none where there is nothing to measure."""

INDICATORS: tuple[Indicator, ...] = (fisher_leakage, dependence, gradient_rank)
"""All of them: they are cheap, and all run."""


def indicators(evidence: Evidence) -> dict[str, float]:
    """The figures of every indicator that can be made of this evidence."""
    found: dict[str, float] = {}
    for indicator in INDICATORS:
        try:
            found |= indicator(evidence)
        except UnavailableError:
            continue
    return found
