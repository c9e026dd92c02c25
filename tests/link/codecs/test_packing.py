"""Packed numbers: no gap, every width, every count."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.link.codecs.packing import pack, packed_byte, unpack


@pytest.mark.parametrize("bits", [*range(1, 18), 23, 24, 31, 33])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 63, 257])
def test_numbers_come_back_from_exactly_so_many_bytes(bits, count):
    numbers = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(bits))
    if count:
        numbers[-1] = 2**bits - 1
    packed = pack(numbers, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (-(-count * bits // 8),) == (packed_byte(count, bits),)
    assert unpack(packed, bits, count).tolist() == numbers.tolist()


def test_three_numbers_of_three_bits_by_hand():
    """1, 2, 5, lowest bits first: 1 + 2·8 + 5·64 = 337 = 81 + 1·256."""
    assert pack(torch.tensor([1, 2, 5]), 3).tolist() == [81, 1]


def test_numbers_of_ten_bits_by_hand():
    """513 = 1 + 2·256 and 258 = 2 + 1·256: the low bytes, then 2 and 1 in two bits each, 2 + 1·4."""
    assert pack(torch.tensor([513, 258]), 10).tolist() == [1, 2, 6]


@given(bits=st.sampled_from([1, 2, 3, 5, 7, 9, 15]), count=st.integers(1, 20), data=st.data())
def test_bits_behind_the_last_number_must_be_zero(bits, count, data):
    packed = pack(torch.zeros(count, dtype=torch.int64), bits)
    free = 8 * packed.numel() - count * bits
    if free == 0:
        return
    packed[-1] |= 1 << (8 - data.draw(st.integers(1, free)))
    with pytest.raises(ValueError, match="bits behind the last number are not 0"):
        unpack(packed, bits, count)


@pytest.mark.parametrize("byte", [2, 4])
def test_another_number_of_bytes_is_refused(byte):
    with pytest.raises(ValueError, match=f"8 numbers of 3 bits are 3 bytes, not {byte}"):
        unpack(torch.zeros(byte, dtype=torch.uint8), 3, 8)
