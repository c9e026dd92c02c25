"""The counter of the benchmarks and of the memory test, on steps whose tensors are known."""

import torch
from allocations import peak_tensor_byte

MIB = 2**20


def test_the_peak_is_the_most_that_lives_at_one_time():
    """4 MiB and 4 MiB, of which one is freed before 2 MiB come; views and writes in place take nothing."""
    before = torch.ones(MIB)

    def run():
        one, other = torch.zeros(MIB), torch.zeros(MIB)
        other.view(2, -1)[0].add_(1)
        before.mul_(2)
        del one
        return other, torch.zeros(MIB // 2)

    assert peak_tensor_byte(run) == 8 * MIB
    assert peak_tensor_byte(lambda: before[: MIB // 2].view(-1)) == 0


def test_backward_passes_count():
    """exp keeps its result of 4 MiB for the backward pass, which makes a gradient of 4 MiB; sum and its own are 8 B."""
    w = torch.ones(MIB, requires_grad=True)
    assert peak_tensor_byte(lambda: w.exp().sum().backward()) == 8 * MIB + 8
