import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.images import ImageSpace

FINITE = st.floats(-5, 5, width=32)


@st.composite
def spaces(draw):
    channels = draw(st.integers(1, 3))
    low = draw(st.lists(FINITE, min_size=channels, max_size=channels))
    if draw(st.booleans()):
        low = low[:1]
    width = draw(st.lists(st.floats(0.125, 5, width=32), min_size=len(low), max_size=len(low)))
    high = tuple(float(start) + float(size) for start, size in zip(low, width, strict=True))
    return ImageSpace(shape_CHW=(channels, 2, 3), low=tuple(low), high=high)


@given(space=spaces(), seed=st.integers(0, 99))
def test_images_come_back_from_unit_images(space, seed):
    unit = space.random(4, torch.Generator().manual_seed(seed), dtype=torch.float64)

    assert torch.allclose(space.to_unit(space.to_input(unit)), unit, atol=1e-12)


@given(space=spaces())
def test_zero_is_the_smallest_and_one_the_largest_value_of_every_channel(space):
    channels = space.shape_CHW[0]
    low, high = (values if len(values) == channels else values * channels for values in (space.low, space.high))
    unit = torch.zeros(2, *space.shape_CHW, dtype=torch.float64)

    assert space.to_input(unit)[1, :, 1, 2].tolist() == pytest.approx(low)
    assert space.to_input(unit + 1)[1, :, 1, 2].tolist() == pytest.approx(high)
    assert space.to_input(unit + 0.5)[1, :, 0, 0].tolist() == pytest.approx(
        [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    )


def test_channels_have_their_own_range():
    """0.25 of the way from −1 to 3 is 0; from 0 to 8 it is 2."""
    space = ImageSpace(shape_CHW=(2, 1, 1), low=(-1.0, 0.0), high=(3.0, 8.0))

    assert space.to_input(torch.full((1, 2, 1, 1), 0.25)).flatten().tolist() == [0, 2]
    assert space.to_unit(torch.tensor([0.0, 2.0])[None, :, None, None]).flatten().tolist() == [0.25, 0.25]


def test_one_end_may_be_the_same_for_all_channels():
    space = ImageSpace(shape_CHW=(2, 1, 1), low=(0.0,), high=(1.0, 2.0))

    assert space.to_input(torch.ones(1, 2, 1, 1)).flatten().tolist() == [1, 2]


def test_gradients_go_through():
    """An input moves by high − low with its unit."""
    unit = torch.full((1, 1, 1, 1), 0.5, requires_grad=True)

    ImageSpace(shape_CHW=(1, 1, 1), low=(-2.0,), high=(2.0,)).to_input(unit).sum().backward()

    assert unit.grad is not None
    assert unit.grad.item() == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grey_is_the_middle(dtype):
    space = ImageSpace(shape_CHW=(3, 2, 4), low=(-1.0,), high=(3.0,))

    grey = space.grey(5, dtype)

    assert grey.shape == (5, 3, 2, 4)
    assert grey.dtype == dtype
    assert space.to_input(grey).unique().tolist() == [1]


def test_random_images_come_from_the_generator_alone():
    space = ImageSpace(shape_CHW=(1, 16, 16))
    state = torch.get_rng_state()

    one, again, other = (space.random(8, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (8, 1, 16, 16)
    assert 0 <= float(one.min()) < 0.01 < 0.99 < float(one.max()) <= 1
    assert float(one.mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["low", "high"])
@pytest.mark.parametrize("values", [(), (2.0, 2.0), (2.0,) * 4])
def test_a_wrong_number_of_values_is_refused(name, values):
    with pytest.raises(ValueError, match=rf"{name}=\(.*\) is not accepted: give 1 number, or one for each of the 3"):
        ImageSpace(shape_CHW=(3, 2, 2), **{name: values})


@pytest.mark.parametrize(
    ("low", "high"),
    [((0.0,), (0.0,)), ((1.0,), (0.0,)), ((0.0, 0.0), (1.0, 0.0)), ((0.0, 2.0), (1.0,)), ((0.0,), (float("nan"),))],
)
def test_a_range_without_width_is_refused(low, high):
    with pytest.raises(ValueError, match=r"high=\(.*\) is not accepted: it must be above low=\(.*\) in every channel"):
        ImageSpace(shape_CHW=(2, 1, 1), low=low, high=high)
