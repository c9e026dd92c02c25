"""The audit of a message log: run an attack on what was sent and score it against the truth."""

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attacks.activation_inversion import ActivationInversion, Reconstruction, part_of
from attacks.baselines import no_leak_guesses
from attacks.client_half import ClientHalf
from attacks.interval import bootstrap_mean
from attacks.metrics import psnr_db, ssim
from attacks.observation import Observation, last_observations
from attacks.threat import AttackerView
from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.report import Leakage, Picture, Verdict

Originals = Callable[[tuple[int, ...]], Tensor]
"""Gives the private input of records by their places in the training set, shape (records, channels, height, width)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """How an audit is run.

    Args:
        attack: The attack.
        records: Attack whole batches, one client after the other, until at least so many records were attacked.
        pictures: How many pairs of original and reconstruction to keep for the report.
    """

    attack: ActivationInversion = dataclasses.field(default_factory=ActivationInversion)
    records: int = 32
    pictures: int = 8

    def __post_init__(self) -> None:
        if self.records < 2:
            raise ValueError(f"records={self.records} is not accepted: an interval needs at least 2.")
        if self.pictures < 0:
            raise ValueError(f"pictures={self.pictures} is not accepted: give an integer of at least 0.")


def audit(
    log: MessageLog,
    client: ClientHalf,
    originals: Originals,
    auxiliary: Tensor | None,
    settings: AuditSettings,
    progress: Callable[[float], None] = lambda share: None,
) -> Leakage:
    """Attack the newest messages of a log and score what came back.

    The attack is handed the messages its threat model names and the program of the client's half, nothing else; the
    truth beside the log is read only afterwards, to score.

    Args:
        log: The message log of a run.
        client: The client's half as an attacker runs it.
        originals: Gives the true records, for scoring.
        auxiliary: Images of the same kind that no client trains on, for the no-leak guess; None if there are none.
        settings: How to run it.
        progress: Told the share of the work done, from 0 to 1.

    Raises:
        ValueError: The log holds no batch to attack, or the private input is no image.
    """
    chosen = _choose(last_observations(AttackerView(log, settings.attack.threat)), settings.records)
    tuning = len(settings.attack.total_variation_weights)  # batches' worth of work
    parts = tuning + len(chosen)
    attack = settings.attack.tuned(chosen[0], client, auxiliary, partial(part_of, progress, 0, parts / tuning))
    found = [
        attack.reconstruct(observation, client, partial(part_of, progress, tuning + place, parts))
        for place, observation in enumerate(chosen)
    ]
    truth = log.truth()
    true_BCHW = torch.cat([originals(truth[observation.number].indices) for observation in chosen])
    rebuilt_BCHW = torch.cat([reconstruction.records for reconstruction in found])
    return _score(rebuilt_BCHW, true_BCHW, auxiliary, found, dataclasses.replace(settings, attack=attack))


def _choose(observations: list[Observation], records: int) -> list[Observation]:
    if not observations:
        raise ValueError(
            "The message log holds no smashed data that follow a broadcast, so there is nothing to attack."
        )
    chosen: list[Observation] = []
    for observation in observations:
        if sum(other.records for other in chosen) >= records:
            break
        chosen.append(observation)
    return chosen


def _score(
    rebuilt_BCHW: Tensor,
    true_BCHW: Tensor,
    auxiliary: Tensor | None,
    found: list[Reconstruction],
    settings: AuditSettings,
) -> Leakage:
    attack = settings.attack
    low, high = attack.input_min, attack.input_max
    psnr_B = psnr_db(rebuilt_BCHW, true_BCHW, high - low)
    ssim_B = ssim(rebuilt_BCHW, true_BCHW, high - low)
    guesses = no_leak_guesses(auxiliary, tuple(true_BCHW.shape), low, high)
    blind = {name: psnr_db(guess, true_BCHW, high - low) for name, guess in guesses.items()}
    best = max(blind, key=lambda name: float(blind[name].mean()))
    gain = bootstrap_mean(psnr_B - blind[best])
    shown = range(0, len(true_BCHW), max(1, len(true_BCHW) // max(1, settings.pictures)))  # of every client
    return Leakage(
        attack=attack.name,
        threat=attack.threat.description,
        psnr_db=bootstrap_mean(psnr_B),
        ssim=bootstrap_mean(ssim_B),
        baseline=best,
        baseline_psnr_db=bootstrap_mean(blind[best]),
        baseline_ssim=bootstrap_mean(ssim(guesses[best], true_BCHW, high - low)),
        psnr_gain_db=gain,
        worst_record_psnr_db=float(psnr_B.max()),
        fit=sum(reconstruction.fit for reconstruction in found) / len(found),
        verdict=Verdict.LEAKS if gain.low > 0 else Verdict.INCONCLUSIVE,
        budget=_budget(attack, len(found)),
        pictures=tuple(
            Picture(
                original=_pixels(true_BCHW[place], low, high),
                reconstruction=_pixels(rebuilt_BCHW[place], low, high),
                psnr_db=float(psnr_B[place]),
            )
            for place in list(shown)[: settings.pictures]
        ),
    )


def _budget(attack: ActivationInversion, batches: int) -> str:
    weight = attack.total_variation_weights[0]
    return f"{attack.iterations} iterations, {attack.restarts} start(s), total variation {weight:g}, {batches} batches"


def _pixels(image_CHW: Tensor, low: float, high: float) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Rows of pixels, each a value from 0 to 255 per channel."""
    image_HWC = ((image_CHW - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    return tuple(tuple(tuple(int(value) for value in pixel) for pixel in row) for row in image_HWC.tolist())
