"""How well an attack rebuilt images, against the best guess without the messages."""

import dataclasses

import torch
from torch import Tensor

from attacks.attack import RebuiltBatch
from attacks.attacker import Records
from attacks.audit.truth import Truth
from attacks.baselines import Guess, no_leak_guesses
from attacks.images import ImageSpace
from attacks.metrics import identified, psnr_db, squared_error, ssim
from attacks.perceptual import perceptual_distance
from attacks.statistics.interval import Gain, bootstrap_mean, paired_gain
from attacks.statistics.matching import matched
from lightning_sfl.report.leakage import IMAGES_IN, Baseline, Interval, Picture, Pixels

_LEAST_SSIM_SIDE = 7
_BEYOND_DB = 10.0
"""A tenth of the squared error of the best of all guesses: what no guess comes near."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """The figures of one cell; see :class:`lightning_sfl.report.leakage.Leakage`."""

    recovers: str
    measure: str
    value: Interval
    baseline: str
    baselines: tuple[Baseline, ...]
    gain: Gain
    worst_record: float
    threshold: float
    share_recovered: float
    others: dict[str, Interval]
    fit: float | None
    pictures: tuple[Picture, ...]
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    records_beyond: int = 0


def score_images(
    batches: tuple[RebuiltBatch, ...],
    truth: Truth,
    space: ImageSpace,
    auxiliary: Records | None,
    *,
    threshold_db: float,
    pictures: int,
) -> Score:
    """Score rebuilt images by PSNR, in unit images."""
    true, rebuilt = [], []
    for batch in batches:
        own_BCHW = space.to_unit(truth.of(batch.number).images_BCHW.float())
        # A descent that diverged has found nothing: grey.
        found_BCHW = space.to_unit(batch.images_BCHW.float()).nan_to_num(nan=0.5).clamp(0, 1)
        true.append(own_BCHW)
        rebuilt.append(found_BCHW if batch.in_order else matched(found_BCHW, own_BCHW))
    true_NCHW, rebuilt_NCHW = torch.cat(true), torch.cat(rebuilt)
    sizes = [len(part) for part in true]
    clients_N = torch.cat([torch.full((size,), truth.client(b.number)) for b, size in zip(batches, sizes, strict=True)])
    psnr_N = psnr_db(rebuilt_NCHW, true_NCHW, 1.0)
    guesses = no_leak_guesses(
        true_NCHW, rebuilt_NCHW, clients_N, None if auxiliary is None else auxiliary.images_BCHW, space
    )
    in_order = [batch.in_order for batch in batches]
    blind = {guess.name: psnr_db(_placed(guess, true, sizes, in_order), true_NCHW, 1.0) for guess in guesses}
    best = max((guess.name for guess in guesses if not guess.uses_truth), key=lambda name: float(blind[name].mean()))
    others = {
        "mean squared error": bootstrap_mean(squared_error(rebuilt_NCHW, true_NCHW), clients_N),
        "identified among the attacked and the auxiliary images": bootstrap_mean(
            identified(rebuilt_NCHW, true_NCHW, None if auxiliary is None else space.to_unit(auxiliary.images_BCHW)),
            clients_N,
        ),
    }
    if min(true_NCHW.shape[2:]) >= _LEAST_SSIM_SIDE:
        others = {"SSIM": bootstrap_mean(ssim(rebuilt_NCHW, true_NCHW, 1.0), clients_N), **others}
    looks = perceptual_distance(rebuilt_NCHW, true_NCHW)
    if not isinstance(looks, str):
        others[looks.name] = bootstrap_mean(looks.distance_N, clients_N)
    best_guess_N = torch.stack(list(blind.values())).amax(0)
    fits = [batch.fit for batch in batches if batch.fit is not None]
    return Score(
        recovers="images",
        measure=IMAGES_IN,
        value=bootstrap_mean(psnr_N, clients_N),
        baseline=best,
        baselines=tuple(
            Baseline(name=g.name, value=bootstrap_mean(blind[g.name], clients_N), uses_truth=g.uses_truth)
            for g in guesses
        ),
        gain=paired_gain(psnr_N, blind[best], clients_N),
        worst_record=float(psnr_N.max()),
        threshold=threshold_db,
        share_recovered=float((psnr_N >= threshold_db).double().mean()),
        others=others,
        fit=sum(fits) / len(fits) if fits else None,
        pictures=_pictures(true_NCHW, rebuilt_NCHW, psnr_N, pictures),
        left_out={"LPIPS": looks} if isinstance(looks, str) else {},
        records_beyond=int(((psnr_N >= threshold_db) & (psnr_N >= best_guess_N + _BEYOND_DB)).sum()),
    )


def _placed(guess: Guess, true: list[Tensor], sizes: list[int], in_order: list[bool]) -> Tensor:
    """A guess in the order that favours it as much as the attack: matched to batches that come back in no order."""
    parts = guess.unit_NCHW.split(sizes)
    return torch.cat(
        [part if kept else matched(part, own) for part, own, kept in zip(parts, true, in_order, strict=True)]
    )


def _pictures(true_NCHW: Tensor, rebuilt_NCHW: Tensor, psnr_N: Tensor, count: int) -> tuple[Picture, ...]:
    """The record that was rebuilt best, the median one, and others from end to end of all that were attacked."""
    order = psnr_N.argsort(descending=True).tolist()
    named = {order[0]: "worst", **({order[len(order) // 2]: "median"} if len(order) > 1 else {})}
    spread = [place for place in range(0, len(order), max(1, len(order) // max(1, count))) if place not in named]
    shown = [*named, *spread][:count]
    return tuple(
        Picture(
            which=named.get(place, ""),
            original=_pixels(true_NCHW[place]),
            reconstruction=_pixels(rebuilt_NCHW[place]),
            psnr_db=float(psnr_N[place]),
        )
        for place in shown
    )


def _pixels(unit_CHW: Tensor) -> Pixels:
    """Rows of pixels, each a value from 0 to 255 per channel."""
    image_HWC = unit_CHW.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    return tuple(tuple(tuple(int(value) for value in pixel) for pixel in row) for row in image_HWC.tolist())
