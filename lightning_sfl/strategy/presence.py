"""Which participants count: those that are not lost, and whose losses and updates are numbers."""

import math
from collections.abc import Sequence
from enum import StrEnum

from torch import Tensor

from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.attendance import Attendance, Stage
from lightning_sfl.cut.find import loss_of
from lightning_sfl.data.batches import ClientBatches


class Nonfinite(StrEnum):
    """What happens at a loss or update of a client that is not a number."""

    ERROR = "error"
    SKIP = "skip"


class Presence:
    """Asks who is lost, and keeps what is not finite out.

    Args:
        attendance: Says which participants are lost, and when.
        skips_nonfinite: Whether a client with a loss or update that is not finite is left out; else that is an error.
    """

    def __init__(self, attendance: Attendance, *, skips_nonfinite: bool) -> None:
        self._attendance = attendance
        self.skips_nonfinite = skips_nonfinite

    def is_lost(self, batches: ClientBatches, client: int, stage: Stage) -> bool:
        """Whether a client is lost at this stage of the step."""
        return self._attendance.is_lost(client=client, stage=stage, round=batches.round, step=batches.step)

    def counts(self, output: object, clients: Sequence[int]) -> bool:
        """Whether these clients have a loss to train on: not None, which skips the step, and a number.

        Raises:
            ValueError: It is not a number, and that is to stop the run.
        """
        if output is None:
            return False
        loss = loss_of(output).detach()
        if math.isfinite(loss):
            return True
        if self.skips_nonfinite:
            return False
        if len(clients) == 1:
            raise ValueError(
                f"Client {clients[0]} has a loss of {loss.item()}. nonfinite='skip' leaves such a client out of the"
                " step."
            )
        raise ValueError(
            f"Clients {list(clients)} together have a loss of {loss.item()}. nonfinite='skip' leaves such a step out;"
            " server_batching='per_client' tells which client it is."
        )

    def counts_smashed(self, smashed: Sequence[Tensor], client: int, step: int) -> bool:
        """Whether a client's smashed data are numbers, before they meet those of others.

        Raises:
            ValueError: They are not, and that is to stop the run.
        """
        wrong = [place for place, tensor in enumerate(smashed) if not bool(tensor.detach().isfinite().all())]
        if not wrong:
            return True
        if self.skips_nonfinite:
            return False
        raise ValueError(
            f"Client {client} has smashed data that are NaN or infinite (tensor '{wrong[0]}', step {step})."
            " nonfinite='skip' leaves such a client out of the step."
        )

    def counts_scalars(self, scalars: Sequence[float], client: int, step: int) -> bool:
        """Whether a client's scalars of a step are numbers, before they meet those of others.

        Raises:
            ValueError: They are not, and that is to stop the run.
        """
        if all(math.isfinite(scalar) for scalar in scalars):
            return True
        if self.skips_nonfinite:
            return False
        raise ValueError(
            f"Client {client} has scalars of {list(scalars)} in step {step}: its half with weights moved by mu gives no"
            " numbers. nonfinite='skip' leaves such a client out of the clients' estimate."
        )

    def leave_out_server_step(self, batches: ClientBatches) -> None:
        """The server's gradients are no numbers, although all losses are: it makes no step on them.

        Raises:
            ValueError: That is to stop the run.
        """
        if not self.skips_nonfinite:
            raise ValueError(
                f"The server's gradients in step {batches.step} hold NaN or infinite values; the losses of clients"
                f" {list(batches)}, of which they are made, are finite. nonfinite='skip' leaves out the server's step."
            )

    def before_upload(self, federation: Federation, batches: ClientBatches) -> None:
        """Note whose update does not count at the end of a round.

        Raises:
            ValueError: An update is not finite, and that is to stop the run.
        """
        for client, participant in federation.participants.items():
            participant.lost |= self.is_lost(batches, client, Stage.BEFORE_UPLOAD)
            if participant.lost or participant.samples == 0 or participant.is_finite():
                continue
            if not self.skips_nonfinite:
                raise ValueError(
                    f"The update of client {client} holds NaN or infinite values. nonfinite='skip' leaves such a"
                    " client out of the averaging."
                )
            participant.lost = True
