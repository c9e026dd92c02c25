"""Reports made by hand."""

from typing import Any

from lightning_sfl.report.report import CutRow, Interval, Leakage, Picture, Pixels, Report, Verdict

GREY: Pixels = tuple(tuple((10 * row + column,) for column in range(6)) for row in range(4))
COLOUR: Pixels = tuple(tuple((40 * row, 30 * column, 200) for column in range(5)) for row in range(3))


def leakage(**changes: Any) -> Leakage:
    values: dict[str, Any] = {
        "attack": "an attack",
        "threat": "a threat model",
        "psnr_db": Interval(mean=31.25, low=30.5, high=32.0, records=16),
        "ssim": Interval(mean=0.91, low=0.88, high=0.93, records=16),
        "baseline": "mid-grey",
        "baseline_psnr_db": Interval(mean=9.75, low=9.0, high=10.5, records=16),
        "baseline_ssim": Interval(mean=0.21, low=0.2, high=0.22, records=16),
        "psnr_gain_db": Interval(mean=21.5, low=20.0, high=23.0, records=16),
        "worst_record_psnr_db": 41.5,
        "fit": 0.00125,
        "verdict": Verdict.LEAKS,
        "budget": "400 iterations",
        "pictures": (
            Picture(original=GREY, reconstruction=GREY[::-1], psnr_db=28.5),
            Picture(original=COLOUR, reconstruction=COLOUR[::-1], psnr_db=27.5),
        ),
    }
    return Leakage(**{**values, **changes})


def row(cut: str = "block1", **changes: Any) -> CutRow:
    values: dict[str, Any] = {
        "cut": cut,
        "accuracy": 0.875,
        "client_forward_flop_per_sample": 2_500_000.0,
        "client_backward_flop_per_sample": 4_900_000.0,
        "client_parameters": 1272,
        "client_parameter_byte": 5088,
        "client_training_memory_byte": 1_572_864,
        "smashed_byte_per_sample": 32768.0,
        "uplink_byte_per_round": 2_629_840.0,
        "downlink_byte_per_round": 2_628_026.5,
        "simulated_s_per_round": 0.25,
        "client_joule_per_round": None,
        "train_wall_s": 12.5,
        "attack_wall_s": 3.25,
        "leakage": leakage(),
    }
    return CutRow(**{**values, **changes})


def weak_row(cut: str = "block4", **changes: Any) -> CutRow:
    """A cut where nothing was trained and the attack came to nothing."""
    weak = leakage(
        psnr_gain_db=Interval(mean=-1.0, low=-2.0, high=0.5, records=16), verdict=Verdict.INCONCLUSIVE, pictures=()
    )
    untrained: dict[str, Any] = {
        "accuracy": None,
        "uplink_byte_per_round": None,
        "downlink_byte_per_round": None,
        "simulated_s_per_round": None,
        "train_wall_s": None,
        "smashed_byte_per_sample": 4096.0,
        "leakage": weak,
    }
    return row(cut, **{**untrained, **changes})


def report(*rows: CutRow, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "title": "Digits",
        "created": "2030-01-02T03:04:05+00:00",
        "metric": "val_acc",
        "settings": {"seed": "0", "clients": "10, dirichlet:0.5"},
        "versions": {"torch": "9.9"},
        "rows": rows,
        "notes": ("1 multiply-accumulate counts as 2 FLOP.",),
    }
    return Report(**{**values, **changes})
