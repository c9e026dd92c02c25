"""The arrays that the world is made of: one entry per client, read-only once they are checked."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def read_only(values: object) -> FloatArray:
    """A read-only copy in double precision; a ValueError says what is no number."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def per_client(owner: str, field: str, values: object, num_clients: int) -> FloatArray:
    """A read-only array with one entry per client; a single number is every client's."""
    try:
        array = read_only(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{owner}({field}={values!r}) is not accepted: give one number per client.") from error
    if array.ndim == 0:
        array = read_only(np.full(num_clients, array))
    if array.shape != (num_clients,):
        raise ValueError(
            f"{owner}({field}=...) has the shape {array.shape} for {num_clients} clients; give one number per client."
        )
    return array


def count(owner: str, field: str, values: object) -> int:
    """How many clients an array is for: the length of the one field that says so."""
    shape = np.asarray(values).shape
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"{owner}({field}=...) has the shape {shape}; give one number per client, at least one.")
    return int(shape[0])


def between(ends: tuple[float, float], u: FloatArray) -> FloatArray:
    """Numbers of [0, 1) stretched to a range; by hand, since a library's way may change."""
    low, high = ends
    if low == high:  # also where both are infinite
        return np.full(u.shape, low)
    return np.minimum(low + (high - low) * u, high)
