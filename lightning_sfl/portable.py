"""Elementary functions that give the same bits on every machine.

NumPy's own ``log`` and ``exp`` differ in the last bit from processor to processor. These here are made of additions,
subtractions, multiplications, divisions and square roots, which IEEE 754 rounds correctly, and of exact scaling by
powers of two. They take positive or finite arguments, as a simulation has them; they are within 1 ulp or so.
"""

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_BLOCK = 4096

# ln 2 in two parts, of which the first has so few bits that its product with an exponent is exact.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_LN2 = 6.931471805599453094e-01
_SQRT_HALF = 7.071067811865475244e-01

# Remez coefficients of (log(1+f) - f + f²/2) / s with s = f / (2 + f), from fdlibm's e_log.c (Sun Microsystems 1993).
_LOG = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)

# Taylor coefficients 1/k! of exp; for |x| ≤ ln 2 / 2 what follows 1/14! is below 1e-18.
_EXP = tuple(1.0 / math.factorial(k) for k in range(2, 15))

# Wichura 1988, algorithm AS 241 (PPND16): numerator and denominator in the centre, in the tail, far out.
_CENTRE = (
    (
        3.387132872796366608e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.871870074920579083e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.930789580009271061e4,
        2.8729085735721942674e4,
        5.226495278852854561e3,
    ),
)
_TAIL = (
    (
        1.42343711074968357734e0,
        4.6303378461565452959e0,
        5.7694972214606914055e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.4178072517745061177e-1,
        2.27238449892691845833e-2,
        7.7454501427834140764e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.6763848301838038494e0,
        6.8976733498510000455e-1,
        1.4810397642748007459e-1,
        1.51986665636164571966e-2,
        5.475938084995344946e-4,
        1.05075007164441684324e-9,
    ),
)
_FAR = (
    (
        6.6579046435011037772e0,
        5.4637849111641143699e0,
        1.7848265399172913358e0,
        2.9656057182850489123e-1,
        2.6532189526576123093e-2,
        1.2426609473880784386e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.9983220655588793769e-1,
        1.3692988092273580531e-1,
        1.48753612908506148525e-2,
        7.868691311456132591e-4,
        1.8463183175100546818e-5,
        1.4215117583164458887e-7,
        2.04426310338993978564e-15,
    ),
)


def log(x: Numbers) -> Numbers:
    """The natural logarithm of positive, finite numbers."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    f = np.where(low, mantissa + mantissa, mantissa) - 1.0  # in [√½ - 1, √2 - 1)
    k = (exponent - low).astype(np.float64)
    s = f / (f + 2.0)
    z = s * s
    half_square = 0.5 * f * f
    rest = z * _polynomial(_LOG, z)
    result: Numbers = k * _LN2_HIGH - ((half_square - (s * (half_square + rest) + k * _LN2_LOW)) - f)
    return result


def log1p(x: Numbers) -> Numbers:
    """The natural logarithm of 1 + x for finite numbers of at least 0; exact to the last bits where x is small."""
    shifted = 1.0 + x
    # Kahan's correction of the rounding of 1 + x (HP-15C handbook, 1982).
    seen = shifted - 1.0
    lost = seen == 0.0
    correction = np.where(lost, 1.0, x) / np.where(lost, 1.0, seen)
    result: Numbers = np.where(lost, x, log(shifted) * correction)
    return result


def exp(x: Numbers) -> Numbers:
    """The exponential function of finite numbers."""
    k = np.rint(x / _LN2)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    result: Numbers = np.ldexp(1.0 + (r + r * r * _polynomial(_EXP, r)), k.astype(np.int64))
    return result


def normal_quantile(u: Numbers) -> Numbers:
    """The standard normal quantile of numbers above 0 and below 1 (Wichura 1988, algorithm AS 241, PPND16)."""
    result = np.empty_like(u)
    flat, flat_u = result.reshape(-1), u.reshape(-1)
    for begin in range(0, flat.size, _BLOCK):  # a block's intermediate values stay in the processor's cache
        flat[begin : begin + _BLOCK] = _normal_quantile(flat_u[begin : begin + _BLOCK])
    return result


def _normal_quantile(u: Numbers) -> Numbers:
    q = u - 0.5
    result: Numbers = q * _ratio(_CENTRE, 0.180625 - q * q)
    outside = np.flatnonzero(np.abs(q) > 0.425)
    if outside.size:
        far_u = u[outside]
        r = np.sqrt(-log(np.minimum(far_u, 1.0 - far_u)))
        outer = _ratio(_TAIL, r - 1.6)
        if (beyond := np.flatnonzero(r > 5.0)).size:
            outer[beyond] = _ratio(_FAR, r[beyond] - 5.0)
        result[outside] = np.where(q[outside] < 0.0, -outer, outer)
    return result


def _ratio(rational: tuple[tuple[float, ...], tuple[float, ...]], x: Numbers) -> Numbers:
    numerator, denominator = rational
    return _polynomial(numerator, x) / _polynomial(denominator, x)


def _polynomial(coefficients: tuple[float, ...], x: Numbers) -> Numbers:
    """Horner's rule, the constant first."""
    result = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result *= x
        result += coefficient
    return result
