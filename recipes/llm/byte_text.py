"""Text that needs no download: the reference pages that come with Python, one token per byte."""

import pydoc_data.topics

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from typing_extensions import override

Records = dict[str, Tensor]


class Windows(Dataset[Records]):
    """Consecutive windows of a text, as a causal language model takes them: the labels are the input itself.

    Args:
        tokens: The text's tokens, of shape (T,).
        length: Tokens per window; what is left over at the end is dropped.
    """

    def __init__(self, tokens: Tensor, length: int) -> None:
        count = len(tokens) // length
        self.tokens_BT = tokens[: count * length].view(count, length)

    def __len__(self) -> int:
        return len(self.tokens_BT)

    def __getitem__(self, index: int) -> Records:
        return {"input_ids": self.tokens_BT[index], "labels": self.tokens_BT[index]}


class ByteText(pl.LightningDataModule):
    """Python's own reference pages as byte tokens 0 to 255, in windows; the last ones are held out for validation.

    Args:
        batch_size: Windows per batch; of a client where the training is split federated.
        length: Tokens per window.
        training_windows: How many windows are trained on, from the start of the text.
        validation_windows: How many windows are held out, from its end.
    """

    def __init__(
        self, batch_size: int = 8, length: int = 64, training_windows: int = 2048, validation_windows: int = 128
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.length = length
        self.training_windows = training_windows
        self.validation_windows = validation_windows

    @override
    def setup(self, stage: str) -> None:
        pages = pydoc_data.topics.topics
        text = "\n".join(pages[name] for name in sorted(pages)).encode()
        windows = Windows(torch.frombuffer(bytearray(text), dtype=torch.uint8).long(), self.length)
        wanted = self.training_windows + self.validation_windows
        if wanted > len(windows):
            raise ValueError(
                f"training_windows={self.training_windows} and validation_windows={self.validation_windows} are more"
                f" than the text has: {len(windows)} windows of length={self.length}."
            )
        self.training = Subset(windows, range(self.training_windows))
        self.validation = Subset(windows, range(len(windows) - self.validation_windows, len(windows)))

    @override
    def train_dataloader(self) -> DataLoader[Records]:
        return DataLoader(self.training, batch_size=self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Records]:
        return DataLoader(self.validation, batch_size=32)

    @override
    def test_dataloader(self) -> DataLoader[Records]:
        return self.val_dataloader()
