"""An audit of two attacks, of which the second can be made to kill the process that runs it."""

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import torch
from attack_cases import HandMadeLog, background_of, noise_images, two_halves, weights_of
from torch import nn

from attacks.attacker import Records
from attacks.audit.kept import Kept
from attacks.audit.run import audit
from attacks.audit.settings import AuditSettings
from attacks.smashed.white_box import FAITHFUL, WhiteBox
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.leakage import CutLeakage

KILLS = "LIGHTNING_SFL_TESTS_KILL"
FIRST = WhiteBox(iterations=20, candidates=(FAITHFUL,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Second(WhiteBox):
    """Notes that it ran; where the environment says so, it takes the process with it."""

    name: ClassVar[str] = "second"
    ran: ClassVar[list[int]] = []

    def run(self, attacker, progress):
        if KILLS in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        Second.ran.append(1)
        return super().run(attacker, progress)


SECOND = Second(iterations=5, candidates=(FAITHFUL,))


def audited(kept: Kept | None, *, offset: int = 0, attacks=(FIRST, SECOND), **known) -> list[CutLeakage]:
    """The audit; with an offset, of records that are not those that were sent."""
    draw = torch.Generator().manual_seed(0)
    images = noise_images(8, channels=1)
    front = nn.Conv2d(1, 2, 3, bias=False)
    front.weight.data = torch.randn(front.weight.shape, generator=draw)
    module = two_halves(front, images)
    module.head[1].requires_grad_(requires_grad=False).weight.data.zero_()
    module.head[1].bias.data.zero_()
    log = HandMadeLog()
    for client in range(2):
        own = images[4 * client : 4 * client + 4]
        log.add(MessageKind.BROADCAST, weights_of(module), client=client, round=0, step=0)
        log.add(
            MessageKind.SMASHED,
            {"0": front(own).detach()},
            client=client,
            round=0,
            step=0,
            indices=range(4 * client, 4 * client + 4),
        )
    background = background_of(
        module, images, **{"auxiliary": Records(images_BCHW=noise_images(6, 1, seed=9)), **known}
    )

    def records(indices: tuple[int, ...]) -> Records:
        return Records(images_BCHW=images[[(index + offset) % 8 for index in indices]])

    return audit(log, background, records, AuditSettings(attacks=attacks, records=8, pictures=1), kept=kept)


def main() -> None:
    torch.set_num_threads(1)
    audited(Kept(Path(sys.argv[1])))
