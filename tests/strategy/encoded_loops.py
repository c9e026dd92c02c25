"""The straight loop with codecs at the cut."""

import torch
from torch.nn.functional import cross_entropy

from lightning_sfl.link.codecs import (
    Chain,
    Draw,
    Form,
    NearestUniform,
)

FOUR_BITS = NearestUniform(bits=4)


def through(chain: Chain, tensor: torch.Tensor) -> torch.Tensor:
    """What arrives of a tensor; for codecs that draw nothing."""
    return chain.decode(chain.encode(tensor.detach(), Draw(0, "")), Form.of(tensor))


def encoded_loop(up: Chain, down: Chain | None = None):
    """One step of the straight loop, in which smashed data and cut gradients go through codecs.

    Straight-through (SFLAM, arXiv 2504.09114): the gradient of what arrived is used for what was sent.
    """

    def train_on(job, parties, main, step, silent):
        shares = job.loss_shares(step)
        main.optimizer.zero_grad()
        for client, indices in step.items():
            images, labels = job.batch(indices)
            hidden = parties[client].network(images)
            received = through(up, hidden).requires_grad_()
            (cross_entropy(main.network(received), labels) * shares[client]).backward()
            parties[client].optimizer.zero_grad()
            hidden.backward(through(up if down is None else down, received.grad / shares[client]))
            parties[client].optimizer.step()
        main.optimizer.step()

    return train_on
