"""What a client of SFLAM holds that only embeds patches."""

import numpy as np
import pytest
from latency_energy import make_profile


@pytest.mark.slow
def test_below_100_megabytes_of_vit_b_32():
    """Live tensors of a step of SGD with momentum at 224 x 224, in float32.

    The embedding has 3 · 32² · 768 + 768 = 2,360,064 parameters: 28.3 MB with gradient and momentum. A sample is
    3 · 224² numbers and a label, 602,120 bytes, and 49 · 768 numbers of smashed data and as many of cut gradient,
    301,056 bytes. So 86.1 MB with a batch of 64; with 128, 66.9 MB without the batch and 143.9 MB with it. The whole
    model's 87 M parameters take a gigabyte before the first activation.
    """
    profile = make_profile()
    sizes = np.array([32, 64, 128])
    batch = profile.batch_byte[0] + profile.batch_byte[1] * sizes
    held = profile.training_memory_byte(np.zeros(3, dtype=int), sizes)
    assert batch.tolist() == (602_120 * sizes).tolist()
    assert held - batch == pytest.approx(3 * 4 * 2_360_064 + 301_056 * sizes, abs=100)
    assert (held < 100e6).tolist() == [True, True, False]
    assert (held - batch < 100e6).all()
    whole = profile.whole
    assert whole.training_memory_byte(np.zeros(1, dtype=int), np.array([32]))[0] > 1.05e9
