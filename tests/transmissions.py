"""Who sends when, in short."""

import numpy as np

from lightning_sfl.world.channel.channel import Transmission


def sent(*clients, round=0, start_s=0.0, **allocated):
    return Transmission(
        clients=np.array(clients, dtype=np.int64),
        round=round,
        start_s=np.broadcast_to(np.asarray(start_s, dtype=np.float64), (len(clients),)),
        **{name: np.asarray(values, dtype=np.float64) for name, values in allocated.items()},
    )
