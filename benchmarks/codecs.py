"""What codecs cost: encoding and decoding a tensor of 1 MiB on one core, next to a plain copy.

    python benchmarks/codecs.py [--repeats 200]

262144 normal float32 numbers, one thread. CPU milliseconds, medians of interleaved runs in one process; payload in bits
per element; and the squared error relative to the tensor's own square.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from lightning_sfl.link.codecs import (
    BFloat16,
    Chain,
    Codec,
    Draw,
    Float16,
    Form,
    NearestUniform,
    RandomK,
    RandomProjection,
    Sign,
    StochasticUniform,
    TopK,
)

SHAPE = (64, 64, 64)
CHAINS: tuple[tuple[Codec, ...], ...] = (
    (StochasticUniform(bits=8),),
    (StochasticUniform(bits=8, channel_dim=1),),
    (StochasticUniform(bits=4),),
    (StochasticUniform(bits=16),),
    (NearestUniform(bits=8),),
    (Float16(),),
    (BFloat16(),),
    (TopK(fraction=0.1),),
    (TopK(fraction=0.1), StochasticUniform(bits=8)),
    (RandomK(fraction=0.1),),
    (RandomProjection(fraction=0.1),),
    (Sign(),),
)


def cpu_ms(function: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    begin = time.process_time_ns()
    function()
    return (time.process_time_ns() - begin) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    tensor = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    form, draw = Form.of(tensor), Draw(0, "benchmark")

    chains = [Chain(codecs) for codecs in CHAINS]
    encoded = [chain.encode(tensor, draw) for chain in chains]
    copies: list[float] = []
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in chains]
    for place in range(repeats):
        copies.append(cpu_ms(tensor.clone))
        for chain, parts, (encoding, decoding) in zip(chains, encoded, times, strict=True):
            encoding.append(cpu_ms(lambda chain=chain, place=place: chain.encode(tensor, draw.at(place))))
            decoding.append(cpu_ms(lambda chain=chain, parts=parts: chain.decode(parts, form)))

    print(f"{form}, one thread, medians of {repeats}, CPU ms")
    print(f"{'codecs':52} {'encode':>7} {'decode':>7} {'both':>7} {'bit/element':>12} {'error':>9}")
    copy = statistics.median(copies)
    print(f"{'plain copy':52} {copy:7.3f} {'':7} {copy:7.3f} {32:12.3f} {0:9.2g}")
    for chain, parts, (encoding, decoding) in zip(chains, encoded, times, strict=True):
        ms = statistics.median(encoding), statistics.median(decoding)
        both = statistics.median(map(sum, zip(encoding, decoding, strict=True)))
        error = float((chain.decode(parts, form) - tensor).square().sum() / tensor.square().sum())
        bit = chain.payload_bit(form) / form.count
        print(f"{chain!s:52} {ms[0]:7.3f} {ms[1]:7.3f} {both:7.3f} {bit:12.3f} {error:9.2g}")


if __name__ == "__main__":
    main()
