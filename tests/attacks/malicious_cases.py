"""A short run of digits, sessions with its clients, and a server that answers them honestly."""

import copy
import dataclasses

import torch
from audited import TinyNet, Trained, train
from torch import Tensor
from torch.nn.functional import cross_entropy

from attacks.attacker import Attacker
from attacks.audit.clients import client_sessions
from attacks.malicious.hijack import FeatureSpaceHijack
from attacks.session import Session
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind


def digits_run(**settings: object) -> Trained:
    return train(log=MessageLog(), **settings)


def malicious(run: Trained, **changes: object) -> Attacker:
    """Somebody who is handed what hijacking declares."""
    background = run.background()
    sessions = client_sessions(run.log, run.records, background)
    background = dataclasses.replace(background, **{"sessions": sessions, **changes})
    return Attacker(run.log, FeatureSpaceHijack.needs, background, cut="stem", records=24)


def newest_messages(run: Trained) -> dict[int, int]:
    """By client, the number of its newest message of smashed data."""
    return {message.client: message.number for message in run.log.messages(kinds=[MessageKind.SMASHED])}


def clients_of(run: Trained) -> Session:
    return malicious(run).session(list(newest_messages(run).values()))


class HonestServer:
    """The half behind the stem, trained as clients are promised."""

    def __init__(self, model: TinyNet) -> None:
        own = copy.deepcopy(model)
        self._layers = torch.nn.Sequential(own.body, own.head)
        self._optimizer = torch.optim.SGD(self._layers.parameters(), lr=0.05, momentum=0.9)

    def answer(self, smashed: Tensor, labels: Tensor) -> Tensor:
        received = smashed.detach().requires_grad_()
        self._optimizer.zero_grad()
        cross_entropy(self._layers(received), labels).backward()
        self._optimizer.step()
        assert received.grad is not None
        return received.grad
