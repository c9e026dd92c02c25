"""What indicators are made of."""

import dataclasses

import torch
from torch import Tensor

from attacks.attacker import Attacker, Background, UnavailableError
from attacks.audit.truth import Truth
from attacks.observation import Observation, last_observations
from attacks.threat import MALICIOUS_SERVER, Knowledge
from lightning_sfl.link.log import MessageLog


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """A cut as its auditor sees it, who may look at the truth: made when all attacks are done.

    Attributes:
        attacker: Who sees and knows everything.
        unknowing: Who does, but for the clients' weights.
        truth: The records behind messages.
    """

    attacker: Attacker
    unknowing: Attacker
    truth: Truth

    @classmethod
    def of(cls, log: MessageLog, background: Background, truth: Truth, *, cut: str | None, records: int) -> "Evidence":
        """The evidence of one cut of a log; of about so many records."""
        less = dataclasses.replace(MALICIOUS_SERVER, knows=MALICIOUS_SERVER.knows - {Knowledge.CLIENT_WEIGHTS})
        who, other = (
            Attacker(log, threat, background, cut=cut, records=records) for threat in (MALICIOUS_SERVER, less)
        )
        return cls(attacker=who, unknowing=other, truth=truth)

    def observations(self) -> list[Observation]:
        """The batches that attacks were on; without weights where nobody knows them.

        Raises:
            UnavailableError: No smashed data crossed, or nobody knows of which records.
        """
        try:
            seen = last_observations(self.attacker)
        except UnavailableError:
            seen = last_observations(self.unknowing)
        known = [observation for observation in seen if self.truth.says(observation.number)]
        if not known:
            raise UnavailableError("the truth beside the log does not say which records these are.")
        return known

    def unit_images(self, observation: Observation) -> Tensor:
        """The records behind a batch, as unit images in at least 32 bits."""
        images_BCHW = self.truth.of(observation.number).images_BCHW
        return self.attacker.space.to_unit(images_BCHW.to(torch.promote_types(images_BCHW.dtype, torch.float32)))
