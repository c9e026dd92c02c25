"""What a client needs of memory: the profile's figure, against tensors counted in a real step and torch's allocator.

A client's half runs alone: with backpropagation and a step of its optimizer, forward only, and as HO-SFL has it (two
probes and a step of its optimizer). `counted` is the most
that tensors held while it ran, seen from outside; `allocated` is what torch's own CPU allocator handed out, which sees
what a kernel takes for a moment within one operation as well (a convolution lays out its input anew, for one).

    python benchmarks/client_memory.py
"""

import argparse
from collections.abc import Callable, Iterator

import lightning.pytorch as pl
import numpy as np
import torch
from allocations import allocated_byte, peak_tensor_byte
from real_halves import RealHalf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18, vgg11
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lightning_sfl.cut.find import search
from lightning_sfl.world.environments import make_environment
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World

MIB = 2**20


def probing_memory_byte(profile: Profile, place: int, size: int) -> float:
    """What the world says of a HO-SFL client."""
    environment = make_environment("wei_chen", 1, 0)
    world = World(
        profile=profile,
        fleet=environment.fleet,
        channel=environment.channel,
        server=environment.server,
        algorithm="ho_sfl",
        probes=2,
    )
    return float(world.memory_at(np.array([place]), np.array([size]))[0])


class Images(pl.LightningModule):
    """A classifier of images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return cross_entropy(self.model(batch[0]), batch[1])


class Texts(Images):
    """A language model."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        loss: Tensor = self.model(**batch).loss
        return loss


def models(batch_size: int) -> Iterator[tuple[str, pl.LightningModule, object, tuple[str, ...]]]:
    """Name, module, batch and cuts."""
    images = torch.rand(batch_size, 3, 32, 32), torch.arange(batch_size) % 10
    ids = {key: torch.randint(0, 1000, (batch_size, 128)) for key in ("input_ids", "labels")}
    resnet = resnet18(num_classes=10)
    resnet.conv1, resnet.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    yield "ResNet-18", Images(resnet), images, ("model.relu", "model.layer1", "model.layer2", "model.layer4")
    vgg_cuts = ("model.features.2", "model.features.10", "model.features")
    yield "VGG-11", Images(vgg11(num_classes=10)), images, vgg_cuts
    gpt2 = GPT2Config(n_layer=4, n_embd=256, n_head=8, vocab_size=1000, use_cache=False, tie_word_embeddings=False)
    blocks = ("model.transformer.wte", "model.transformer.h.0", "model.transformer.h.2")
    yield "GPT-2, 4 x 256", Texts(GPT2LMHeadModel(gpt2)), ids, blocks
    llama = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_attention_heads=8, num_hidden_layers=4, vocab_size=1000,
        use_cache=False,
    )  # fmt: skip
    layers = ("model.model.embed_tokens", "model.model.layers.0", "model.model.layers.2")
    yield "Llama, 4 x 256", Texts(LlamaForCausalLM(llama)), ids, layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    size: int = parser.parse_args().batch_size
    torch.set_num_threads(1)
    print(f"Peak of a client's half at a batch of {size}, MiB; AdamW. profile/counted, profile/allocated.\n")
    print(f"{'model':15} {'cut':26} {'':8} {'profile':>9} {'counted':>9} {'':>6} {'allocated':>9} {'':>6}")
    for name, module, batch, cuts in models(size):
        optimizer = torch.optim.AdamW(module.parameters())
        found = search(module, batch, server_inputs=("labels",) if isinstance(batch, dict) else ())
        profile = profile_cuts(module, batch, {cut: found.split(cut) for cut in cuts}, optimizer)
        for place, cut in enumerate(profile.cuts):
            half = RealHalf(module, found.split(cut), batch, optimizer)
            for what, run, said, with_state in (
                ("train", half.train, profile.training_memory_byte(place, size), True),
                ("forward", half.forward, profile.forward_memory_byte(place, size), False),
                ("probe", half.probe, probing_memory_byte(profile, place, size), True),
            ):
                measured = [
                    _peak_mib(half, run, count, with_state=with_state) for count in (peak_tensor_byte, allocated_byte)
                ]
                print(
                    f"{name:15} {cut:26} {what:8} {said / MIB:9.2f} {measured[0]:9.2f} {said / MIB / measured[0]:6.3f}"
                    f" {measured[1]:9.2f} {said / MIB / measured[1]:6.3f}"
                )


def _peak_mib(
    half: RealHalf, run: Callable[[], None], count: Callable[[Callable[[], object]], int], *, with_state: bool
) -> float:
    return half.peak_byte(run, count, with_state=with_state) / MIB


if __name__ == "__main__":
    main()
