"""From what an attack brings back to figures."""

import dataclasses

from attacks.attack import Attack, Findings, GuessedLabels, RankedCandidates, RebuiltBatch, ScoredLabels
from attacks.attacker import Attacker, Background, KnownLabels
from attacks.audit.score import Score, score_images
from attacks.audit.score_candidates import score_candidates
from attacks.audit.score_labels import score_labels
from attacks.audit.score_order import score_order
from attacks.audit.settings import AuditSettings
from attacks.audit.truth import Truth
from attacks.reconstruction import Progress

_LABELS_RIGHT = 0.9
"""From which share of right labels, or area under the ROC curve, on they count as recovered."""


def findings_of(attack: Attack, attacker: Attacker, progress: Progress) -> Findings:
    """What an attack brings back, and what it was told."""
    findings = attack.run(attacker, progress)
    return dataclasses.replace(findings, told=tuple((*at, label) for at, label in attacker.told.items()))


def scored(findings: Findings, truth: Truth, background: Background, settings: AuditSettings) -> Score:
    """The figures, by the kind of what came back."""
    images = tuple(batch for batch in findings.batches if isinstance(batch, RebuiltBatch))
    if images:
        return score_images(
            images,
            truth,
            background.space,
            background.auxiliary,
            threshold_db=settings.recovered_db,
            pictures=settings.pictures,
        )
    ranked = tuple(batch for batch in findings.batches if isinstance(batch, RankedCandidates))
    if ranked:
        assert background.candidates is not None
        return score_candidates(ranked, truth, background.candidates)
    known: KnownLabels = {(number, place): label for number, place, label in findings.told}
    ordered = tuple(batch for batch in findings.batches if isinstance(batch, ScoredLabels))
    if ordered:
        return score_order(ordered, truth, known, threshold=_LABELS_RIGHT)
    labels = tuple(batch for batch in findings.batches if isinstance(batch, GuessedLabels))
    return score_labels(labels, truth, background.auxiliary, known, threshold=_LABELS_RIGHT)
