"""Numbers of any bit width without gaps: N numbers of b bits take exactly ⌈N·b/8⌉ bytes.

Eight bits at a time of every number lie in a plane of their own, lowest first; the bits that are left are packed, eight
numbers at a time, into a word whose lowest bits are the first number's. Bits behind the last number are 0.
"""

import torch
from torch import Tensor


def packed_byte(count: int, bits: int) -> int:
    """Bytes of so many numbers: ⌈count · bits / 8⌉."""
    return -(-count * bits // 8)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Pack a flat tensor of integers from 0 to 2^bits - 1 into bytes; uint8, on the same device."""
    if bits == 8:
        return numbers.to(torch.uint8)
    planes = [((numbers >> shift) & 0xFF).to(torch.uint8) for shift in range(0, bits - 7, 8)]
    if rest := bits % 8:
        planes.append(_pack_few((numbers >> (bits - rest)).to(torch.uint8), rest))
    return torch.cat(planes) if planes else numbers.new_zeros(0, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The numbers that were packed: uint8 up to 8 bits, int32 up to 31, else int64.

    Raises:
        ValueError: These are not the bytes of so many numbers.
    """
    if packed.dtype != torch.uint8 or packed.shape != (packed_byte(count, bits),):
        raise ValueError(f"{count} numbers of {bits} bits are {packed_byte(count, bits)} bytes, not {packed.numel()}.")
    if bits == 8:
        return packed
    wide = torch.uint8 if bits < 8 else torch.int32 if bits < 32 else torch.int64
    numbers = torch.zeros(count, dtype=wide, device=packed.device)
    for plane, shift in enumerate(range(0, bits - 7, 8)):
        numbers |= packed[plane * count : (plane + 1) * count].to(wide) << shift
    if rest := bits % 8:
        few = _unpack_few(packed[(bits // 8) * count :], rest, count)
        numbers = few if bits < 8 else numbers | few.to(wide) << (bits - rest)
    return numbers


def _pack_few(numbers: Tensor, bits: int) -> Tensor:
    """Fewer than 8 bits each."""
    count = numbers.numel()
    groups = torch.nn.functional.pad(numbers, (0, -count % 8)).view(-1, 8)
    words = torch.zeros(len(groups), dtype=torch.int64, device=groups.device)
    for place in range(8):
        words |= groups[:, place].to(torch.int64) << (bits * place)
    return words.view(torch.uint8).view(-1, 8)[:, :bits].reshape(-1)[: packed_byte(count, bits)]


def _unpack_few(packed: Tensor, bits: int, count: int) -> Tensor:
    used = count * bits % 8
    if used and int(packed[-1]) >> used:
        raise ValueError("bits behind the last number are not 0.")
    padded = torch.nn.functional.pad(packed, (0, -packed.numel() % bits)).view(-1, bits)
    words = torch.nn.functional.pad(padded, (0, 8 - bits)).view(torch.int64)
    groups = torch.empty(len(words), 8, dtype=torch.uint8, device=packed.device)
    for place in range(8):
        groups[:, place] = ((words[:, 0] >> (bits * place)) & ((1 << bits) - 1)).to(torch.uint8)
    return groups.view(-1)[:count]
