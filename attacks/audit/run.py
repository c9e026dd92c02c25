"""The audit of a message log: every attack at every cut, scored, against guesses, with a control."""

import dataclasses
import time
from collections.abc import Sequence

from attacks.attack import Attack, Findings, GuessedLabels, RankedCandidates, RebuiltBatch
from attacks.attacker import Attacker, Background, UnavailableError
from attacks.audit.control import FIRST, MIX, PROBED, PROBES, control_run
from attacks.audit.pool import CandidatePool
from attacks.audit.score import Score, score_images
from attacks.audit.score_candidates import score_candidates
from attacks.audit.score_labels import score_labels
from attacks.audit.settings import AuditSettings
from attacks.audit.truth import RecordsAt, Truth
from attacks.audit.verdict import verdict
from attacks.audit.victim import victim_of
from attacks.images import ImageSpace
from attacks.reconstruction import Progress, unwatched
from attacks.statistics.holm import holm
from attacks.threat import who_could
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.leakage import Control, CutLeakage, Leakage, NotRun, Verdict

WHOLE_MODEL = "whole model"
"""What the cut is called of clients that hold all of the model."""
_LABELS_RIGHT = 0.9
"""From which share of right labels on they count as recovered."""
_RECORDS_OF_A_CONTROL = 2


def cuts_of(log: MessageLog) -> list[str | None]:
    """The cuts of a log's messages, in the order in which they came."""
    told = {message.cut: None for message in log.messages() if message.client is not None}
    return list(told)


def audit(
    log: MessageLog,
    background: Background,
    records: RecordsAt,
    settings: AuditSettings,
    *,
    cuts: Sequence[str | None] | None = None,
    progress: Progress = unwatched,
) -> list[CutLeakage]:
    """Attack a log's newest messages at each of its cuts, and score what came back.

    Every attack is handed the messages and the knowledge that it declares, nothing else; the truth beside the log is
    read only afterwards, to score.

    Args:
        log: The message log of a run.
        background: What there is to know besides.
        records: Gives true records by their places in the training set, to score with.
        settings: How to run it.
        cuts: The cuts to attack; None: all that the log has messages of.
        progress: Told the share of the work done, from 0 to 1.

    Returns:
        Per cut, in the order in which they were used.

    Raises:
        ValueError: The log has no message, none at a cut that was asked for, or those of another model.
    """
    held = cuts_of(log)
    if not held:
        raise ValueError("The message log holds no message, so there is nothing to attack.")
    if missing := [cut for cut in cuts or () if cut not in held]:
        raise ValueError(f"cuts={missing[0]!r} is not accepted: the log has messages of {_listed(held)} only.")
    chosen = held if cuts is None else list(cuts)
    attacks = settings.chosen
    background = with_candidates(background, log, records)
    controls = _Controls(background.space, settings)
    tried: list[_AtCut] = []
    for place, cut in enumerate(chosen):
        start = time.perf_counter()
        at_cut = _AtCut(cut)
        for turn, attack in enumerate(attacks):

            def done(share: float, before: float = place + turn / len(attacks)) -> None:
                progress((before + share / len(attacks)) / len(chosen))

            try:
                at_cut.ran.append(_try(attack, log, background, settings, cut, done))
                controls.make(attack, cut)
            except UnavailableError as error:
                reason = _sentence(str(error))
                at_cut.not_run.append(NotRun(cut=cut or WHOLE_MODEL, attack=attack.name, reason=reason))
            done(1.0)
        at_cut.wall_s = time.perf_counter() - start
        tried.append(at_cut)
    truth = Truth(log, records)  # read when all attacks are done
    return adjusted(
        [
            CutLeakage(
                cut=at_cut.cut or WHOLE_MODEL,
                cells=tuple(_cell(one, at_cut.cut, log, background, truth, settings, controls) for one in at_cut.ran),
                not_run=tuple(at_cut.not_run),
                wall_s=at_cut.wall_s,
            )
            for at_cut in tried
        ]
    )


def with_candidates(background: Background, log: MessageLog, records: RecordsAt) -> Background:
    """The same, with a pool of candidates for attacks that are granted one."""
    return dataclasses.replace(background, candidates=CandidatePool(log, records, background.auxiliary))


@dataclasses.dataclass(frozen=True)
class _Tried:
    attack: Attack
    findings: Findings
    cpu_s: float


@dataclasses.dataclass
class _AtCut:
    cut: str | None
    ran: list[_Tried] = dataclasses.field(default_factory=list)
    not_run: list[NotRun] = dataclasses.field(default_factory=list)
    wall_s: float = 0.0


def adjusted(found: Sequence[CutLeakage]) -> list[CutLeakage]:
    """The same cells, with p-values corrected for being so many (Holm), and verdicts that follow from those."""
    cells = [cell for cut in found for cell in cut.cells]
    corrected = iter(holm([cell.p_value for cell in cells]))
    return [
        dataclasses.replace(cut, cells=tuple(_judged(cell, next(corrected)) for cell in cut.cells)) for cut in found
    ]


def _judged(cell: Leakage, p_adjusted: float) -> Leakage:
    said, reason = verdict(
        gain=cell.gain,
        p_adjusted=p_adjusted,
        baseline=cell.baseline,
        worst_record=cell.worst_record,
        threshold=cell.threshold,
        control=cell.control,
        bound=cell.bound,
    )
    return dataclasses.replace(cell, p_adjusted=p_adjusted, verdict=said, reason=reason)


def _try(
    attack: Attack,
    log: MessageLog,
    background: Background,
    settings: AuditSettings,
    cut: str | None,
    progress: Progress,
) -> _Tried:
    if lacking := settings.threat_model.lacks(attack.needs):
        raise UnavailableError(
            f"the threat model {settings.threat_model.name!r} does not grant what it needs: {', '.join(lacking)}."
        )
    start = time.process_time()
    attacker = Attacker(log, attack.needs, background, cut=cut, records=settings.records)
    findings = attack.run(attacker, progress)
    return _Tried(attack, findings, time.process_time() - start)


def _cell(
    tried: _Tried,
    cut: str | None,
    log: MessageLog,
    background: Background,
    truth: Truth,
    settings: AuditSettings,
    controls: "_Controls",
) -> Leakage:
    attack, findings = tried.attack, tried.findings
    score = _score(findings, truth, background, settings)
    return Leakage(
        cut=cut or WHOLE_MODEL,
        attack=attack.name,
        recovers=score.recovers,
        parties=who_could(attack.needs),
        sees=tuple(sorted(kind.value for kind in attack.needs.sees)),
        knows=tuple(sorted(fact.value for fact in attack.needs.knows)),
        victim=victim_of(findings, log, truth, background.program(cut)),
        measure=score.measure,
        value=score.value,
        baseline=score.baseline,
        baselines=score.baselines,
        gain=score.gain.interval,
        p_value=score.gain.p_value,
        p_adjusted=score.gain.p_value,
        worst_record=score.worst_record,
        threshold=score.threshold,
        share_recovered=score.share_recovered,
        others=score.others,
        control=controls.of(attack, cut),
        fit=score.fit,
        verdict=Verdict.INCONCLUSIVE,
        reason="",
        bound=findings.bound,
        budget=findings.budget,
        cpu_s=tried.cpu_s,
        pictures=score.pictures,
    )


def _score(findings: Findings, truth: Truth, background: Background, settings: AuditSettings) -> Score:
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
    labels = tuple(batch for batch in findings.batches if isinstance(batch, GuessedLabels))
    return score_labels(labels, truth, background.auxiliary, threshold=_LABELS_RIGHT)


class _Controls:
    """Every attack's control, made once for each kind of place."""

    def __init__(self, space: ImageSpace, settings: AuditSettings) -> None:
        self._space = space
        self._settings = settings
        self._made: dict[tuple[Attack, str | None], Control | None] = {}

    def make(self, attack: Attack, cut: str | None) -> None:
        """Run it, unless that is done."""
        key = self._key(attack, cut)
        if key not in self._made:
            self._made[key] = self._run(attack, key[1])

    def of(self, attack: Attack, cut: str | None) -> Control | None:
        """How it went; None where the attack cannot be tried on it."""
        return self._made[self._key(attack, cut)]

    def _key(self, attack: Attack, cut: str | None) -> tuple[Attack, str | None]:
        """Where the control's victim is cut so that this attack must succeed."""
        if cut is None:
            return attack, None
        if MessageKind.SCALARS in attack.needs.sees:
            return attack, PROBED
        return attack, FIRST if MessageKind.CLIENT_UPDATE in attack.needs.sees else MIX

    def _run(self, attack: Attack, where: str | None) -> Control | None:
        log, background, records = control_run(self._space, where)
        background = with_candidates(background, log, records)
        (cut,) = cuts_of(log)
        attacker = Attacker(log, attack.needs, background, cut=cut, records=_RECORDS_OF_A_CONTROL)
        try:
            findings = attack.run(attacker, unwatched)
        except UnavailableError:
            return None
        score = _score(findings, Truth(log, records), background, self._settings)
        victims = {MIX: "an orthogonal mixing of channels", FIRST: "a fully connected layer"}
        victims[PROBED] = f"a fully connected layer, probed along {PROBES} directions"
        victim = victims.get(where or "", "a network of two layers, whole")
        return Control(victim=victim, value=score.value.mean, needed=score.threshold)


def _listed(cuts: Sequence[str | None]) -> str:
    return ", ".join(repr(cut or WHOLE_MODEL) for cut in cuts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
