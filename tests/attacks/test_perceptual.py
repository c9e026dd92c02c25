"""LPIPS, with weights made by hand in a folder that stands for torch hub's."""

import dataclasses
import json
import urllib.request
from pathlib import Path

import pytest
import torch
from attack_cases import noise_images
from audited import ONE_ITERATION, train
from torchvision.models import alexnet, squeezenet1_1

from attacks.attack import RebuiltBatch
from attacks.attacker import Records
from attacks.audit.score import score_images
from attacks.audit.truth import Truth
from attacks.images import ImageSpace
from attacks.perceptual import BACKBONES, perceptual_distance
from lightning_sfl.link.log import MessageLog, Origin
from lightning_sfl.link.message import SERVER, Message, MessageKind, client_name


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """A hub of the test's own; whoever fetches something fails."""

    def refused(*args, **kwargs):
        raise AssertionError("something was fetched")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refused)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def put_alexnet(hub: Path, scale: float = 1.0) -> None:
    """Weights of the features alone are looked at; those of the rest are there since all must be."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = alexnet().state_dict()
    state = {name: tensor * scale if name.startswith("features.0") else tensor for name, tensor in state.items()}
    # A classifier of zeros takes no room in the compressed file, and is never run.
    state |= {name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items() if "classifier" in name}
    torch.save(state, hub / "alexnet-owt-7be5be79.pth")


def put_squeezenet(hub: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(squeezenet1_1().state_dict(), hub / "squeezenet1_1-b8a52dc0.pth")


def test_without_weights_it_is_left_out_in_a_clear_word():
    said = perceptual_distance(noise_images(2, 3, 32), noise_images(2, 3, 32))

    assert said == (
        "weights of its networks are not in torch hub's folder of checkpoints (alexnet-owt-7be5be79.pth,"
        " vgg16-397923af.pth, squeezenet1_1-b8a52dc0.pth), and none are fetched"
    )


def test_with_weights_equal_images_are_at_no_distance_and_others_at_some(hub):
    put_alexnet(hub)
    images = noise_images(3, 3, 32)
    state = torch.get_rng_state()

    found = perceptual_distance(torch.stack([images[0], images[0], images[2]]), images)

    assert found.name == "LPIPS (alex)"
    assert found.distance_N.shape == (3,)
    assert found.distance_N[[0, 2]].tolist() == [0, 0]
    assert found.distance_N[1] > 1e-4
    assert torch.equal(torch.get_rng_state(), state)


def test_grey_images_are_given_three_times(hub):
    put_alexnet(hub)
    one, other = noise_images(2, 1, 32).split(1)

    grey = perceptual_distance(one, other)

    assert torch.equal(
        grey.distance_N, perceptual_distance(one.repeat(1, 3, 1, 1), other.repeat(1, 3, 1, 1)).distance_N
    )
    assert grey.distance_N > 0


def test_the_first_network_that_is_there_and_takes_the_images_is_named(hub):
    put_squeezenet(hub)

    assert perceptual_distance(noise_images(1, 3, 32), noise_images(1, 3, 32)).name == "LPIPS (squeeze)"


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_a_network_takes_images_of_its_least_side_and_none_smaller(backbone):
    """Below it, a pooling would have no output. The weights do not matter."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    with torch.device("meta"):
        net = _NoTrainLpips(net=backbone.name, pnet_rand=True, pretrained=False)
        images = torch.zeros(1, 3, backbone.least_side, backbone.least_side)
    net = net.to("meta")

    assert net(images, images).shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError):
        net(images[..., 1:, 1:], images[..., 1:, 1:])


@pytest.mark.parametrize(
    ("shape", "said"),
    [((1, 3, 8, 8), "images of 8 x 8 pixels are too small"), ((1, 2, 32, 32), "1 or 3 channels, and these have 2")],
)
def test_images_that_it_does_not_take_are_named(hub, shape, said):
    assert said in perceptual_distance(torch.zeros(shape), torch.zeros(shape))


def test_weights_that_are_none_are_named(hub):
    (hub / "alexnet-owt-7be5be79.pth").write_bytes(b"not weights")

    said = perceptual_distance(noise_images(1, 3, 32), noise_images(1, 3, 32))

    assert said.startswith("the weights in alexnet-owt-7be5be79.pth cannot be used")


def test_it_stands_among_the_further_measures_of_a_cell(hub):
    put_alexnet(hub)
    images, log = noise_images(2, 3, 32), MessageLog()
    for client in range(2):
        sent = {"0": torch.zeros(1)}
        ends = {"sender": client_name(client), "receiver": SERVER}
        message = Message(number=client, kind=MessageKind.SMASHED, round=0, step=0, cut="front", tensors=sent, **ends)
        log.append(message, Origin(client, (client,)))
    truth = Truth(log, lambda indices: Records(images_BCHW=images[list(indices)]))
    batches = tuple(RebuiltBatch(number=client, images_BCHW=images[:1], in_order=True, fit=None) for client in range(2))

    score = score_images(batches, truth, ImageSpace(shape_CHW=(3, 32, 32)), None, threshold_db=20, pictures=0)

    expected = perceptual_distance(images[[0, 0]], images)
    assert score.others["LPIPS (alex)"].mean == pytest.approx(float(expected.distance_N.mean()))
    assert score.left_out == {}


def test_a_cell_without_it_says_why():
    run = train(log=MessageLog(), steps=1)

    cell = run.cell(dataclasses.replace(ONE_ITERATION, records=8))

    assert cell.left_out == {"LPIPS": "images of 8 x 8 pixels are too small for its networks"}
    assert not [name for name in cell.others if "LPIPS" in name]
    assert json.dumps(cell.left_out)
