"""What SFLAM's cut leaks: least squares on quantised patch embeddings of 32x32 pictures enlarged to 224x224.

    python benchmarks/quantised_linear_cut.py

The client of SFLAM (arXiv 2504.09114) holds the patch embedding of a ViT-B/32, a linear map of 3·32·32 numbers to 768
of each of 49 patches, and sends them quantised. The server knows the embedding, here with random weights in the place
of pretrained ones. Pictures of CIFAR-10's size, here crops of photographs, have 3,072 unknowns against 37,632 numbers
sent. Prints the PSNR of the enlarged pictures, a mean over four, by width and bits.
"""

import torch
from attack_images import SCORED, sk8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from attacks.images import ImageSpace
from attacks.smashed.linear import LeastSquares
from attacks.smashed.victim import forward_of
from lightning_sfl.link.codecs import Chain, Draw, Form, StochasticUniform

BITS = (32, 8, 6, 4, 3, 2, 1)
WIDTHS = (768, 384)
SPACE = ImageSpace(shape_CHW=(3, 224, 224), low=(0.0,), high=(1.0,))


def main() -> None:
    """Print the table."""
    pictures_BCHW = sk8()[list(SCORED)]
    print("bits      " + "".join(f"{bits:>8}" for bits in BITS))
    for width in WIDTHS:
        torch.manual_seed(0)
        embedding = nn.Conv2d(3, width, 32, stride=32).requires_grad_(False)
        print(f"d = {width:<6}" + "".join(f"{psnr(embedding, pictures_BCHW, bits):8.1f}" for bits in BITS), flush=True)


def psnr(embedding: nn.Conv2d, pictures_BCHW: Tensor, bits: int) -> float:
    """How well least squares bring the pictures back, in dB."""
    large_BCHW = interpolate(pictures_BCHW, size=(224, 224), mode="bilinear", align_corners=False)
    sent = embedding(large_BCHW)
    if bits < 32:
        chain = Chain.of((StochasticUniform(bits=bits),))
        sent = chain.decode(chain.encode(sent, Draw(0, "benchmark")), Form.of(sent))
    attack = LeastSquares(enlarged_from=(32, 32))
    found = attack.reconstruct((sent,), forward_of(embedding), SPACE, len(pictures_BCHW))
    error_B = (found.unit_BCHW - large_BCHW).square().flatten(1).mean(1).clamp_min(1e-10)
    return float((-10 * error_B.log10()).mean())


if __name__ == "__main__":
    main()
