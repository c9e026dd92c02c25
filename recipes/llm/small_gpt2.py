"""A small GPT-2 from a bare configuration, as an ordinary LightningModule: nothing in it knows of a split."""

import lightning.pytorch as pl
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from typing_extensions import override


class SmallGPT2(pl.LightningModule):
    """Transformers' GPT-2 with random weights; input and output embeddings are tied, as in the real one.

    Args:
        layers: Number of blocks.
        heads: Attention heads per block.
        width: Width of the embedding.
        length: Longest sequence, in tokens.
        vocabulary: Number of tokens.
        dropout: Rate of every dropout.
        learning_rate: Of AdamW.
    """

    def __init__(
        self,
        layers: int = 4,
        heads: int = 4,
        width: int = 64,
        length: int = 64,
        vocabulary: int = 256,
        dropout: float = 0.0,
        learning_rate: float = 3e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        config = GPT2Config(
            n_layer=layers,
            n_head=heads,
            n_embd=width,
            n_positions=length,
            vocab_size=vocabulary,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.gpt2 = GPT2LMHeadModel(config)

    @override
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.gpt2(**batch).loss
        self.log("train_loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.gpt2(**batch).loss, prog_bar=True)

    @override
    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.gpt2(**batch).loss)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
