"""An attack that can be made to kill the process that runs it."""

import dataclasses
import os
import signal
from typing import ClassVar

from attacks.attack import Findings
from attacks.attacker import Attacker
from attacks.reconstruction import Progress
from attacks.smashed.white_box import WhiteBox

KILLS_AT = "LIGHTNING_SFL_TESTS_KILL_AT"
"""Names the cut where it does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Killing(WhiteBox):
    """The white-box attack; it notes the cuts where it ran."""

    ran: ClassVar[list[str | None]] = []

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        Killing.ran.append(attacker.cut)
        if attacker.cut == os.environ.get(KILLS_AT, ""):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(attacker, progress)
