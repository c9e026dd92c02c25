"""From the log of a run whose clients run forward only to what attacks on scalars take."""

import pytest
import torch
from attack_cases import HandMadeLog, attacker_of, background_of, noise_images, two_halves, weights_of
from torch import nn

from attacks.attacker import UnavailableError
from attacks.scalars.likelihood import ScalarLikelihood
from attacks.scalars.messages import OF_SCALARS, last_measurements
from lightning_sfl.algorithms import HERONSFL, HOSFL, ZOSFL
from lightning_sfl.link.message import MessageKind
from lightning_sfl.zeroth_order.directions import Directions, Distribution

PROBES = 4
ALGORITHM = HOSFL(probes=PROBES, mu=1e-2)
IMAGES = noise_images(6, 1, 6)


@pytest.fixture
def module():
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(1, 2, 3).requires_grad_(requires_grad=False), nn.Tanh(), nn.Conv2d(2, 3, 3))
    return two_halves(front, IMAGES)


def send(log, module, client, step, images, *, seed=0, leaves_out=()):
    """What one client's step puts into a log, computed on the module itself; returns the scalars."""
    seeds = torch.arange(PROBES) + seed
    directions = Directions(module, seeds, Distribution.GAUSSIAN)
    trained = [name for name, own in module.front.named_parameters(prefix="front") if own.requires_grad]
    with torch.no_grad():
        here = module.front(images)
    back = torch.randn(here.shape, generator=torch.Generator().manual_seed(client))
    scalars = []
    for probe in range(PROBES):
        with torch.no_grad(), directions.moved(trained, probe, ALGORITHM.mu):
            scalars.append(((module.front(images) - here) * back).sum())
    where = {"client": client, "round": step, "step": step}
    sent = {
        MessageKind.SEEDS: ({"seeds": seeds}, True),
        MessageKind.CUT_GRADIENT: ({"0": back}, True),
        MessageKind.SCALARS: ({"scalars": torch.stack(scalars)}, False),
    }
    for kind, (tensors, down) in sent.items():
        if kind not in leaves_out:
            log.add(kind, tensors, down=down, **where)
    log.add(MessageKind.SCALARS, {"scalars": torch.full((1, PROBES), 9.0)}, down=True, **where)  # everybody's mean
    return torch.stack(scalars)


def attacker(log, module, threat=OF_SCALARS, **known):
    known = {"client_weights": weights_of(module, ""), "probing": ALGORITHM, **known}
    return attacker_of(log, threat, background_of(module, IMAGES, **known), records=known.pop("records", 1000))


def test_the_attacker_probes_as_the_client_did(module):
    """Frozen layers are not moved: on the true images it finds the very scalars, but for the last bit of their sum."""
    log = HandMadeLog()
    sent = [send(log, module, client, 0, IMAGES[2 * client : 2 * client + 2], seed=client) for client in (0, 1)]

    found = last_measurements(attacker(log, module))

    assert [one.records for one in found] == [2, 2]
    for client, one in enumerate(found):
        images = IMAGES[2 * client : 2 * client + 2]
        assert torch.equal(one.scalars_P.float(), sent[client])
        torch.testing.assert_close(one.probed.scalars(images), sent[client].double(), rtol=1e-5, atol=1e-7)
        assert float((one.probed.scalars(images.flip(0)) - sent[client]).norm()) > 0.1 * float(sent[client].norm())


def test_contributions_of_a_batch_in_its_places_are_its_scalars(module):
    log = HandMadeLog()
    send(log, module, 0, 0, IMAGES[:3])
    (one,) = last_measurements(attacker(log, module))

    by_place = one.probed.contributions(IMAGES)

    assert by_place.shape == (6, 3, PROBES)
    in_place = by_place[torch.arange(3), torch.arange(3)].sum(0)
    torch.testing.assert_close(in_place, one.probed.scalars(IMAGES[:3]), rtol=1e-5, atol=1e-7)


def test_slopes_are_how_scalars_follow_pixels(module):
    """Central differences over 2ε = 0.02 of one pixel, of a half that is curved: 1 % of the largest slope."""
    log = HandMadeLog()
    send(log, module, 0, 0, IMAGES[:2])
    (one,) = last_measurements(attacker(log, module))
    nudge = torch.zeros(2, 1, 6, 6)
    nudge[1, 0, 3, 2] = 0.01

    scalars, slopes = one.probed.with_slopes(IMAGES[:2])

    differences = (one.probed.scalars(IMAGES[:2] + nudge) - one.probed.scalars(IMAGES[:2] - nudge)) / 0.02
    assert slopes.shape == (PROBES, 2, 36)
    torch.testing.assert_close(scalars, one.probed.scalars(IMAGES[:2]))
    assert float((slopes[:, 1, 3 * 6 + 2] - differences).abs().max()) < 0.01 * float(slopes.abs().max())


def test_rounding_is_that_of_the_smashed_data(module):
    """2^-23·‖λ∘z‖: of this batch, the scalars in single precision are off by about as much from double ones."""
    log = HandMadeLog()
    sent = send(log, module, 0, 0, IMAGES[:2])
    (one,) = last_measurements(attacker(log, module))
    module.double()
    exact = send(HandMadeLog(), module, 0, 0, IMAGES[:2].double())

    rounding = one.probed.rounding(IMAGES[:2])

    error = float((sent - exact).norm()) / PROBES**0.5
    assert rounding / 10 < error < 3 * rounding


def test_the_step_is_that_whose_weights_are_known(module):
    log = HandMadeLog()
    for step in (0, 1, 2):
        send(log, module, 0, step, IMAGES[step : step + 1])

    newest = last_measurements(attacker(log, module))
    second = last_measurements(attacker(log, module, client_weights_step=1))

    assert [one.round for one in newest] == [2]
    assert [one.round for one in second] == [1]


def test_whole_batches_are_taken_until_there_are_enough_records(module):
    log = HandMadeLog()
    for client in (0, 1, 2):
        send(log, module, client, 0, IMAGES[2 * client : 2 * client + 2])
    background = background_of(module, IMAGES, client_weights=weights_of(module, ""), probing=ALGORITHM)

    assert len(last_measurements(attacker_of(log, OF_SCALARS, background, records=3))) == 2


@pytest.mark.parametrize("missing", [MessageKind.SEEDS, MessageKind.CUT_GRADIENT])
def test_scalars_without_what_they_were_made_with_are_passed_over(module, missing):
    log = HandMadeLog()
    send(log, module, 0, 0, IMAGES[:1], leaves_out=(missing,))
    with pytest.raises(UnavailableError, match="whose seeds and cut gradient crossed as well"):
        last_measurements(attacker(log, module))

    send(log, module, 1, 0, IMAGES[1:2])

    assert len(last_measurements(attacker(log, module))) == 1


def test_means_of_all_clients_are_nobodys_scalars(module):
    """What comes down is the mean, and where only that crossed nothing is known of one client."""
    log = HandMadeLog()
    send(log, module, 0, 0, IMAGES[:1], leaves_out=(MessageKind.SCALARS,))

    with pytest.raises(UnavailableError, match="no client sent scalars"):
        last_measurements(attacker(log, module))


@pytest.mark.parametrize("algorithm", [HERONSFL(), ZOSFL()])
def test_scalars_that_are_no_slopes_along_a_cut_gradient_are_left_alone(module, algorithm):
    log = HandMadeLog()
    send(log, module, 0, 0, IMAGES[:1])

    with pytest.raises(UnavailableError, match=f"scalars of '{algorithm.name}' are differences of a loss"):
        last_measurements(attacker(log, module, probing=algorithm))


def test_weights_of_another_model_are_refused(module):
    log = HandMadeLog()
    send(log, module, 0, 0, IMAGES[:1])
    weights = weights_of(module, "")
    weights["front.2.weight"] = torch.zeros(5, 2, 3, 3)

    with pytest.raises(ValueError, match="those of another model"):
        last_measurements(attacker(log, module, client_weights=weights))


def test_smashed_data_are_not_asked_for():
    """What is found of scalars is of scalars, and not of the smashed data that cross beside them."""
    for threat in (OF_SCALARS, ScalarLikelihood.needs):
        assert not threat.sees & {MessageKind.SMASHED, MessageKind.LABEL, MessageKind.BROADCAST}
