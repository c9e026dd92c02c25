"""The audit of a message log: every attack at every cut, scored, against guesses, with a control."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from attacks.attack import Attack, Findings
from attacks.attacker import AT_SECOND_CUT, Attacker, Background, UnavailableError
from attacks.audit.circumstances import of_log
from attacks.audit.clients import client_sessions
from attacks.audit.controls import Controls
from attacks.audit.kept import Kept
from attacks.audit.plain import plain_notes
from attacks.audit.pool import CandidatePool
from attacks.audit.resume import Once
from attacks.audit.scored import findings_of, scored
from attacks.audit.settings import AuditSettings
from attacks.audit.truth import RecordsAt, Truth
from attacks.audit.verdict import verdict
from attacks.audit.victim import victim_of
from attacks.indicators.evidence import Evidence
from attacks.indicators.registry import indicators
from attacks.reconstruction import Progress, unwatched
from attacks.statistics.holm import holm
from attacks.threat import who_could
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.leakage import CutLeakage, Leakage, NotRun, Verdict

WHOLE_MODEL = "whole model"
"""What the cut is called of clients that hold all of the model."""


def cuts_of(log: MessageLog) -> list[str | None]:
    """The cuts of a log's messages, in the order in which they came; of a U-shape the first ones."""
    told = [message for message in log.messages() if message.client is not None and message.kind not in AT_SECOND_CUT]
    return list({message.cut: None for message in told})


def second_cut_of(log: MessageLog) -> str | None:
    """The second cut of a U-shape, which is one for all clients; None where the server computes the loss."""
    return next((message.cut for message in log.messages(kinds=list(AT_SECOND_CUT))), None)


def audit(
    log: MessageLog,
    background: Background,
    records: RecordsAt,
    settings: AuditSettings,
    *,
    cuts: Sequence[str | None] | None = None,
    progress: Progress = unwatched,
    kept: Kept | None = None,
    kept_controls: Kept | None = None,
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
        kept: Where findings are kept while it runs: an audit that was interrupted goes on from there. Scores are made
            anew. What was found under other circumstances is not used, and a warning names it.
        kept_controls: Where those on controls are kept, which audits of several logs can have in common; None: with
            the others.

    Returns:
        Per cut, in the order in which they were used.

    Raises:
        ValueError: The log has no message, none at a cut that was asked for, or those of another model; or weights that
            clients were sent are not finite.
    """
    held = cuts_of(log)
    if not held:
        raise ValueError("The message log holds no message, so there is nothing to attack.")
    if missing := [cut for cut in cuts or () if cut not in held]:
        raise ValueError(f"cuts={missing[0]!r} is not accepted: the log has messages of {_listed(held)} only.")
    chosen = held if cuts is None else list(cuts)
    for cut in chosen:
        _check_weights(log, background, cut)
    attacks = settings.chosen
    once = Once(kept, lambda: of_log(log, background, settings, chosen), kept_controls)
    controls = Controls(background.space, settings, once)
    once.refuse_others([(attack, cut) for attack in attacks for cut in chosen], controls.where, background.space)
    granted = dataclasses.replace(
        background,
        sessions=client_sessions(log, records, background),
        candidates=CandidatePool(log, records, background.auxiliary),
    )
    tried: list[_AtCut] = []
    for place, cut in enumerate(chosen):
        start = time.perf_counter()
        at_cut = _AtCut(cut)
        for turn, attack in enumerate(attacks):

            def done(share: float, before: float = place + turn / len(attacks)) -> None:
                progress((before + share / len(attacks)) / len(chosen))

            try:
                at_cut.ran.append(_try(attack, log, granted, settings, cut, done, once))
                at_cut.wall_s += at_cut.ran[-1].earlier_s + controls.make(attack, cut)
            except UnavailableError as error:
                reason = _sentence(str(error))
                at_cut.not_run.append(NotRun(cut=cut or WHOLE_MODEL, attack=attack.name, reason=reason))
            done(1.0)
        at_cut.wall_s += time.perf_counter() - start
        tried.append(at_cut)
    truth, last = Truth(log, records), second_cut_of(log)  # read when all attacks are done
    for at_cut in tried:
        at_cut.leave_out_unknown(truth)
    return adjusted(
        [
            CutLeakage(
                cut=at_cut.cut or WHOLE_MODEL,
                cells=tuple(_cell(one, at_cut.cut, log, granted, truth, settings, controls) for one in at_cut.ran),
                not_run=tuple(at_cut.not_run),
                notes=plain_notes(log, at_cut.cut, truth, last),
                wall_s=at_cut.wall_s,
                indicators=indicators(Evidence.of(log, background, truth, cut=at_cut.cut, records=settings.records)),
            )
            for at_cut in tried
        ]
    )


def _check_weights(log: MessageLog, background: Background, cut: str | None) -> None:
    """Raise a ValueError if the newest weights that clients were sent at a cut are not this model's, or not finite."""
    newest = {message.client: message for message in log.messages(kinds=[MessageKind.BROADCAST]) if message.cut == cut}
    for message in newest.values():
        background.program(cut).check(message.decoded())


@dataclasses.dataclass(frozen=True)
class _Tried:
    attack: Attack
    findings: Findings
    cpu_s: float
    earlier_s: float
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _AtCut:
    cut: str | None
    ran: list[_Tried] = dataclasses.field(default_factory=list)
    not_run: list[NotRun] = dataclasses.field(default_factory=list)
    wall_s: float = 0.0

    def leave_out_unknown(self, truth: Truth) -> None:
        """Take away, by name, what came of messages whose records nobody knows: a log may be cut off."""
        scored: list[_Tried] = []
        for one in self.ran:
            unknown = [batch.number for batch in one.findings.batches if not truth.says(batch.number)]
            left_out = {f"message {number}": "the truth beside the log does not say its records" for number in unknown}
            if len(unknown) < len(one.findings.batches):
                known: Any = tuple(batch for batch in one.findings.batches if batch.number not in unknown)
                findings = dataclasses.replace(one.findings, batches=known)
                scored.append(dataclasses.replace(one, findings=findings, left_out=left_out))
            else:
                reason = f"Not scored: the truth beside the log does not say the records of {', '.join(left_out)}."
                self.not_run.append(NotRun(cut=self.cut or WHOLE_MODEL, attack=one.attack.name, reason=reason))
        self.ran = scored


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
        records_beyond=cell.records_beyond,
    )
    return dataclasses.replace(cell, p_adjusted=p_adjusted, verdict=said, reason=reason)


def _try(
    attack: Attack,
    log: MessageLog,
    background: Background,
    settings: AuditSettings,
    cut: str | None,
    progress: Progress,
    once: Once,
) -> _Tried:
    if lacking := settings.threat_model.lacks(attack.needs):
        raise UnavailableError(
            f"the threat model {settings.threat_model.name!r} does not grant what it needs: {', '.join(lacking)}."
        )
    attacker = Attacker(log, attack.needs, background, cut=cut, records=settings.records)
    found = once.run(attack, cut, lambda: findings_of(attack, attacker, progress))
    return _Tried(attack, found.findings, found.cpu_s, found.earlier_s)


def _cell(
    tried: _Tried,
    cut: str | None,
    log: MessageLog,
    background: Background,
    truth: Truth,
    settings: AuditSettings,
    controls: Controls,
) -> Leakage:
    attack, findings = tried.attack, tried.findings
    score = scored(findings, truth, background, settings)
    return Leakage(
        cut=cut or WHOLE_MODEL,
        attack=attack.name,
        recovers=score.recovers,
        parties=who_could(attack.needs),
        sees=tuple(sorted(kind.value for kind in attack.needs.sees)),
        knows=tuple(sorted(fact.value for fact in attack.needs.knows)),
        victim=victim_of(findings, log, truth, background.program(cut), from_checkpoint=background.from_checkpoint),
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
        records_beyond=score.records_beyond,
        others=score.others,
        control=controls.of(attack, cut),
        fit=score.fit,
        verdict=Verdict.INCONCLUSIVE,
        reason="",
        bound=findings.bound,
        budget=findings.budget,
        cpu_s=tried.cpu_s,
        pictures=score.pictures,
        left_out={**score.left_out, **tried.left_out},
    )


def _listed(cuts: Sequence[str | None]) -> str:
    return ", ".join(repr(cut or WHOLE_MODEL) for cut in cuts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
