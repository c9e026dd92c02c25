"""Every attack where it must succeed."""

import dataclasses

from attacks.attack import Attack
from attacks.attacker import Attacker, Background, UnavailableError
from attacks.audit.clients import client_sessions
from attacks.audit.control import FIRST, MIX, PROBED, PROBES, control_run
from attacks.audit.label_control import LABEL_CUT, LABELLED_RECORDS, label_control_run
from attacks.audit.pool import CandidatePool
from attacks.audit.resume import Once
from attacks.audit.scored import findings_of, scored
from attacks.audit.settings import AuditSettings
from attacks.audit.truth import RecordsAt, Truth
from attacks.images import ImageSpace
from attacks.labels.label_attack import LabelAttack
from attacks.reconstruction import unwatched
from attacks.threat import Knowledge
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.leakage import Control

_RECORDS = 2
_VICTIMS = {
    MIX: "an orthogonal mixing of channels",
    FIRST: "a fully connected layer",
    PROBED: f"a fully connected layer, probed along {PROBES} directions",
    None: "a network of two layers, whole",
}


class Controls:
    """Every attack's control, made once for each kind of place."""

    def __init__(self, space: ImageSpace, settings: AuditSettings, once: Once) -> None:
        self._space = space
        self._settings = settings
        self._once = once
        self._made: dict[tuple[Attack, str | None], Control | None] = {}
        self._earlier_s = 0.0

    def make(self, attack: Attack, cut: str | None) -> float:
        """Run it, unless that is done.

        Returns:
            The wall time that it took in an earlier run.
        """
        key = attack, self.where(attack, cut)
        self._earlier_s = 0.0
        if key not in self._made:
            self._made[key] = self._run(*key)
        return self._earlier_s

    def of(self, attack: Attack, cut: str | None) -> Control | None:
        """How it went; None where the attack cannot be tried on it."""
        return self._made[attack, self.where(attack, cut)]

    def where(self, attack: Attack, cut: str | None) -> str | None:
        """Where its victim is cut, so that this attack must succeed."""
        if isinstance(attack, LabelAttack):
            return LABEL_CUT
        if cut is None:
            return None
        if MessageKind.SCALARS in attack.needs.sees:
            return PROBED
        return FIRST if MessageKind.CLIENT_UPDATE in attack.needs.sees else MIX

    def _run(self, attack: Attack, where: str | None) -> Control | None:
        log, background, records, victim = self._victim(attack, where)
        background = dataclasses.replace(
            background,
            sessions=client_sessions(log, records, background),
            candidates=CandidatePool(log, records, background.auxiliary),
        )
        count = LABELLED_RECORDS if isinstance(attack, LabelAttack) else _RECORDS
        cut = FIRST if where == PROBED else where
        attacker = Attacker(log, attack.needs, background, cut=cut, records=count)
        try:
            found = self._once.run_control(attack, where, self._space, lambda: findings_of(attack, attacker, unwatched))
        except UnavailableError:
            return None
        self._earlier_s = found.earlier_s
        score = scored(found.findings, Truth(log, records), background, self._settings)
        return Control(victim=victim, value=score.value.mean, needed=score.threshold)

    def _victim(self, attack: Attack, where: str | None) -> tuple[MessageLog, Background, RecordsAt, str]:
        if isinstance(attack, LabelAttack):
            return *label_control_run(self._space, attack.victim), attack.victim.value
        normalised = Knowledge.BATCH_STATISTICS in attack.needs.knows
        return *control_run(self._space, where, normalised=normalised), _VICTIMS[where]
