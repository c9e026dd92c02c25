"""Codecs: what changes what is sent over the link, each with the exact bits and the error it stands for."""

from lightning_sfl.link.codecs.chain import Chain
from lightning_sfl.link.codecs.codec import Codec, Draw, Form, NotFiniteError
from lightning_sfl.link.codecs.half import BFloat16, Float16
from lightning_sfl.link.codecs.random_k import RandomK
from lightning_sfl.link.codecs.random_projection import RandomProjection
from lightning_sfl.link.codecs.sign import Sign
from lightning_sfl.link.codecs.top_k import TopK
from lightning_sfl.link.codecs.uniform import NearestUniform, StochasticUniform

__all__ = [
    "BFloat16",
    "Chain",
    "Codec",
    "Draw",
    "Float16",
    "Form",
    "NearestUniform",
    "NotFiniteError",
    "RandomK",
    "RandomProjection",
    "Sign",
    "StochasticUniform",
    "TopK",
]
