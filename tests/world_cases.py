"""Small hand-made parts of a world, with round numbers. 1 MAC = 2 FLOP."""

import dataclasses

import numpy as np

from lightning_sfl.world.cost.load import StepLoad
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.rules import rule_of
from lightning_sfl.world.cost.step_cost import Machines
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World


def lines(*rows):
    return np.array(rows, dtype=np.float64)


def numbers(*values):
    return np.array(values, dtype=np.float64)


def whole(*values):
    return np.array(values, dtype=np.int64)


def hand_profile(**given):
    """Three cuts of a model of 100 FLOP forward and 200 backward per sample, 1000 parameters of 32 bit.

    =======  ===============  ===============  ========  ========  ==========  =======
    cut      client fwd, bwd  server fwd, bwd  elements  bits up   parameters  update
    =======  ===============  ===============  ========  ========  ==========  =======
    a        10, 10           90, 190          8         256       100         3200
    b        40, 70           60, 130          4         128       400         12800
    c        80, 150          20, 50           2         64        900         28800
    =======  ===============  ===============  ========  ========  ==========  =======

    Per sample. Labels take 64 bit per sample and 16 per batch. The optimizer keeps one number per parameter. A client
    takes 8 byte per parameter and 10, 30, 100 byte per sample to train (120 of the whole model), 4 byte per parameter
    and 5 per sample to run forward.
    """
    whole_model = _profile(
        cuts=("",),
        flop=(lines((0, 100)), lines((0, 200)), lines((0, 0)), lines((0, 0))),
        element=lines((0, 0)),
        parameters=whole(1000),
        sample_byte=numbers(120),
        whole=None,
    )
    profile = _profile(
        cuts=("a", "b", "c"),
        flop=(
            lines((0, 10), (0, 40), (0, 80)),
            lines((0, 10), (0, 70), (0, 150)),
            lines((0, 90), (0, 60), (0, 20)),
            lines((0, 190), (0, 130), (0, 50)),
        ),
        element=lines((0, 8), (0, 4), (0, 2)),
        parameters=whole(100, 400, 900),
        sample_byte=numbers(10, 30, 100),
        whole=whole_model,
    )
    return dataclasses.replace(profile, **given)


def _profile(*, cuts, flop, element, parameters, sample_byte, whole):
    return Profile(
        cuts=cuts,
        client_forward_flop=flop[0],
        client_backward_flop=flop[1],
        server_forward_flop=flop[2],
        server_backward_flop=flop[3],
        smashed_element=element[:, None],
        smashed_bit=32 * element,
        cut_gradient_element=element[:, None],
        cut_gradient_bit=32 * element,
        turn_flop=0 * element,
        returned_element=0 * element[:, None],
        returned_bit=0 * element,
        returned_gradient_element=0 * element[:, None],
        returned_gradient_bit=0 * element,
        beside_bit=np.tile(numbers(16, 64), (len(cuts), 1)),
        client_parameters=parameters,
        client_parameter_byte=4.0 * parameters,
        client_buffer_byte=0.0 * parameters,
        update_parameters=parameters,
        update_bit=32.0 * parameters,
        optimizer_state_bit=32.0 * parameters,
        client_training_memory_line=np.stack([8.0 * parameters, sample_byte], axis=1)[:, None],
        client_forward_memory_line=np.stack([4.0 * parameters, np.full(len(cuts), 5.0)], axis=1)[:, None],
        batch_byte=numbers(0, 1),
        whole=whole,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HandFleet:
    """By default four devices of 100, 200, 400 and 50 FLOP/s, one FLOP per cycle, G = 1e-6 W/Hz³, 2 W of radio."""

    clock_hz: np.ndarray = dataclasses.field(default_factory=lambda: numbers(100, 200, 400, 50))
    watt_per_cubic_hz: np.ndarray = dataclasses.field(default_factory=lambda: np.full(4, 1e-6))
    transmit_power_watt: np.ndarray = dataclasses.field(default_factory=lambda: np.full(4, 2.0))
    memory_byte: np.ndarray = dataclasses.field(default_factory=lambda: np.full(4, np.inf))

    def flop_per_s(self, clients, clock_hz=None, round=0):
        return self.clock_hz[clients] if clock_hz is None else clock_hz

    def compute_watt(self, clients, clock_hz=None):
        return self.watt_per_cubic_hz[clients] * self.flop_per_s(clients, clock_hz) ** 3

    def check(self, num_clients):
        if len(self.clock_hz) < num_clients:
            raise ValueError(f"a fleet of {len(self.clock_hz)} for {num_clients} clients")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HandServer:
    """1000 FLOP/s at 10 W of computing and 5 W of radio."""

    speed_flop_per_s: float = 1000.0
    watt: float = 10.0
    transmit_power_watt: float = 5.0
    works: str = "serial"
    inter_server_bit_per_s: float | None = None

    def flop_per_s(self):
        return self.speed_flop_per_s

    def compute_watt(self):
        return self.watt


@dataclasses.dataclass(frozen=True, kw_only=True)
class HandChannel:
    """Fixed rates: 64 bit/s up and 128 bit/s down for everybody, more with more power or bandwidth than 1.

    Attributes:
        up: Uplink rate at 1 W and 1 Hz.
        down: Downlink rate.
        gain: Factor on both rates, by client.
    """

    up: float = 64.0
    down: float = 128.0
    gain: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(4))
    varies_within_round: bool = False

    def uplink_bit_per_s(self, seen):
        power = 1.0 if seen.power_watt is None else np.log2(1 + seen.power_watt)
        return self.up * self.gain[seen.clients] * power * (1.0 if seen.bandwidth_hz is None else seen.bandwidth_hz)

    def downlink_bit_per_s(self, seen):
        return self.down * self.gain[seen.clients]

    def uplink_s(self, bit, sent):
        return self._seconds(bit, self.uplink_bit_per_s(sent))

    def downlink_s(self, bit, sent):
        return self._seconds(bit, self.downlink_bit_per_s(sent))

    def check(self, num_clients):
        if len(self.gain) < num_clients:
            raise ValueError(f"a channel of {len(self.gain)} for {num_clients} clients")

    def _seconds(self, bit, rate):
        with np.errstate(divide="ignore", invalid="ignore"):
            return bit / rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowingChannel(HandChannel):
    """Whatever is sent is sent at the rate of its beginning, which is 1 / (1 + t/10 s) of the rate at 0 s."""

    varies_within_round: bool = True

    def uplink_s(self, bit, sent):
        return self._seconds(bit, self.uplink_bit_per_s(sent)) * (1 + sent.start_s / 10)

    def downlink_s(self, bit, sent):
        return self._seconds(bit, self.downlink_bit_per_s(sent)) * (1 + sent.start_s / 10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedChannel(HandChannel):
    """Those who send at once share the rates."""

    def uplink_bit_per_s(self, seen):
        return super().uplink_bit_per_s(seen) / len(seen.clients)

    def downlink_bit_per_s(self, seen):
        return super().downlink_bit_per_s(seen) / len(seen.clients)


def machines(fleet=None, channel=None, server=None):
    return Machines(fleet=fleet or HandFleet(), channel=channel or HandChannel(), server=server or HandServer())


def world(algorithm="splitfed_shared", **given):
    parts = {"profile": hand_profile(), "fleet": HandFleet(), "channel": HandChannel(), "server": HandServer()}
    probes = 5 if rule_of(algorithm).probing else None
    return World(**{**parts, "algorithm": algorithm, "probes": probes, **given})


def who(clients=(0, 1), cut=(0, 1), batch_size=(2, 1), **given):
    return Participation(clients=whole(*clients), cut=whole(*cut), batch_size=whole(*batch_size), **given)


def hand_load(**given):
    """Clients 0 (100 FLOP/s) and 2 (400 FLOP/s); forward 1 s and 2 s, up 2 s and 0.5 s, server 0.3 s and 0.2 s, down
    1 s and 3 s, backward 2 s and 1 s."""
    fields = {
        "clients": whole(0, 2),
        "client_forward_flop": numbers(100, 800),
        "client_backward_flop": numbers(200, 400),
        "server_flop": numbers(300, 200),
        "uplink_bit": numbers(128, 32),
        "downlink_bit": numbers(128, 384),
    }
    turn = dict.fromkeys(("turn_down_bit", "turn_flop", "turn_up_bit", "return_flop"), numbers(0, 0))
    return StepLoad(**{**fields, **turn, **given})
