"""Fleets and rates from files: a table of devices, a list of benchmarked phones, Wi-Fi speeds of users."""

import csv
import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import IntArray
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.devices.fleet import Device, Fleet, Speed, Steady

# The Wi-Fi file's unit is called kb/s there; its authors' code divides bytes by 1024 to match it.
_WIFI_BIT_PER_S = 1024 * 8


def fleet_from_csv(path: Path, *, speed: Speed | None = None) -> Fleet:
    """Read a fleet from comma-separated values: one line per client, columns named like the fields of ``Device``.

    ``clock_hz`` and ``flop_per_cycle`` must be there; what is left out or empty is the field's default.

    Args:
        path: The file.
        speed: How speed changes over the rounds; steady by default.
    """
    fields = {field.name: field for field in dataclasses.fields(Device)}
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    reader = csv.DictReader(Path(path).read_text("utf-8-sig").splitlines())
    columns = reader.fieldnames or []
    unknown = [column for column in columns if column not in fields]
    missing = [name for name in required if name not in columns]
    if unknown or missing or len(set(columns)) < len(columns):
        raise ValueError(
            f"{path} has the columns {', '.join(columns) or 'none'}; it needs {', '.join(required)} and may have"
            f" {', '.join(name for name in fields if name not in required)}, each once."
        )
    devices = []
    for row in reader:
        if None in row:
            raise ValueError(f"{path}, line {reader.line_num} has more entries than columns; give one per column.")
        written = {name: value for name, value in row.items() if value or name in required}
        numbers = {name: _csv_number(path, reader.line_num, name, value) for name, value in written.items()}
        devices.append(Device(**numbers))
    if not devices:
        raise ValueError(f"{path} has no devices; give one line per client.")
    try:
        return Fleet.of(devices, speed=speed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phone:
    """One phone of the AI-Benchmark list.

    Attributes:
        name: Its model name, which several phones may have that differ in their processors.
        processor: Its processor.
        score: Its score in the column that was asked for.
        memory_byte: Its memory.
    """

    name: str
    processor: str
    score: float
    memory_byte: float


def read_ai_benchmark(path: Path, score: str = "CPU_F_AI_Score") -> tuple[Phone, ...]:
    """Read phones from the AI-Benchmark list: a JSON list of phones whose values are text.

    Args:
        path: The file.
        score: The column that stands for speed, higher being faster; by default floating point on the processor.
    """
    phones = json.loads(Path(path).read_text("utf-8"))
    if not isinstance(phones, list) or not phones:
        raise ValueError(f"{path} is not accepted: give a JSON list of at least one phone.")
    return tuple(_phone(path, place, entry, score) for place, entry in enumerate(phones))


def phone_fleet(
    phones: Sequence[Phone],
    num_clients: int,
    seed: int,
    *,
    reference: str,
    reference_flop_per_s: float,
    clock_hz: float,
    watt_per_cubic_hz: float = math.nan,
    transmit_power_watt: float = math.nan,
    speed: Speed | None = None,
) -> Fleet:
    """A fleet of phones that are drawn from a list, any number of times each.

    A phone computes as fast as the reference phone times the ratio of their scores. The list knows neither clocks nor
    power: the clock is an assumption, the same for all, and the speed is laid into the FLOP per cycle.

    Args:
        phones: The list, from :func:`read_ai_benchmark`.
        num_clients: How many devices to draw.
        seed: The seed.
        reference: Model name of the reference phone, one that occurs once.
        reference_flop_per_s: How fast the reference phone computes, in FLOP per second that are really reached.
        clock_hz: The clock of all phones.
        watt_per_cubic_hz: The chip coefficient of all phones.
        transmit_power_watt: The transmit power of all phones.
        speed: How speed changes over the rounds; steady by default.
    """
    named = [phone for phone in phones if phone.name == reference]
    if len(named) != 1:
        found = f"{len(named)} phones of the list" + "".join(f", {phone.processor}" for phone in named)
        raise ValueError(f"reference={reference!r} names {found}; give the model name of exactly one.")
    drawn = _drawn(len(phones), num_clients, seed, "phones")
    flop_per_s = np.array([phone.score for phone in phones])[drawn] / named[0].score * reference_flop_per_s
    return Fleet(
        clock_hz=np.full(num_clients, clock_hz),
        flop_per_cycle=flop_per_s / clock_hz,
        watt_per_cubic_hz=np.full(num_clients, watt_per_cubic_hz),
        transmit_power_watt=np.full(num_clients, transmit_power_watt),
        memory_byte=np.array([phone.memory_byte for phone in phones])[drawn],
        speed=Steady() if speed is None else speed,
    )


def wifi_channel(path: Path, num_clients: int, seed: int) -> RateChannel:
    """The rates of users of Wi-Fi, drawn from a file, any number of times each, with their spread from round to round.

    The file (of FLASH, Yang et al. 2021) has per user the mean and the deviation of down- and upload speed:
    ``down_u``, ``down_sigma``, ``up_u``, ``up_sigma``. They are taken as units of 1024 bytes per second, as the code
    that comes with it does.

    Args:
        path: The file.
        num_clients: How many clients there are.
        seed: The seed of the draw of users and of the spread.
    """
    users = json.loads(Path(path).read_text("utf-8"))
    if not isinstance(users, dict) or not users:
        raise ValueError(f"{path} is not accepted: give a JSON object with at least one user.")
    names = ("up_u", "down_u", "up_sigma", "down_sigma")
    table = np.array(
        [[_json_number(path, f"user {user}", entry, name) for name in names] for user, entry in users.items()]
    )
    up, down, up_sigma, down_sigma = table[_drawn(len(users), num_clients, seed, "wifi users")].T * _WIFI_BIT_PER_S
    return RateChannel(
        mean_uplink_bit_per_s=up,
        mean_downlink_bit_per_s=down,
        uplink_sigma_bit_per_s=up_sigma,
        downlink_sigma_bit_per_s=down_sigma,
        seed=seed,
    )


def _drawn(items: int, num_clients: int, seed: int, purpose: str) -> IntArray:
    """One of the items per client, each as likely as any other."""
    if num_clients < 1:
        raise ValueError(f"num_clients={num_clients} is not accepted: give at least 1.")
    return (uniforms(num_clients, seed, purpose) * items).astype(np.int64)


def _phone(path: Path, place: int, entry: Mapping[str, str], score: str) -> Phone:
    known = ("Model", "CPU", "RAM", score)
    if not isinstance(entry, dict) or any(key not in entry for key in known):
        raise ValueError(f"{path}, phone {place}: {entry!r} is not accepted; give one with {', '.join(known)}.")
    speed = _json_number(path, f"phone {place}", entry, score)
    if speed == 0.0:
        raise ValueError(f"{path}, phone {place}: {score}={entry[score]!r} is not accepted; give a score above 0.")
    memory = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*GB\s*", str(entry["RAM"]))
    if memory is None:
        raise ValueError(f"{path}, phone {place}: RAM={entry['RAM']!r} is not accepted; give gigabytes as in '8GB'.")
    return Phone(
        name=entry["Model"],
        processor=entry["CPU"],
        score=speed,
        memory_byte=float(memory[1]) * 2**30,
    )


def _json_number(path: Path, whose: str, entry: Mapping[str, object], name: str) -> float:
    try:
        value = float(str(entry[name]))
    except (KeyError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{path}, {whose}: {name}={entry.get(name)!r} is not accepted; give a number of at least 0.")
    return value


def _csv_number(path: Path, line: int, column: str, value: str | None) -> float:
    try:
        return float(value or "")
    except ValueError:
        raise ValueError(f"{path}, line {line}: {column}={value!r} is not accepted; give a number.") from None
