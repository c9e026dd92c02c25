"""What comes back from smashed data (workload W-AI), beside what others' code was measured to bring back.

    python benchmarks/attacks_on_smashed.py [--only white_box decoder unsplit shadow sdar]

The victim is the CIFAR network of He et al. 2019 and of UnSplit (64-64-pool-128-128-pool-128-128-pool, 3x3, ReLU, 512
sigmoid, 10), weights drawn with seed 0, in evaluation mode; "trained" is 5 epochs on digits. It is cut behind its
second, fourth and sixth ReLU. The targets are the four scored crops of ``attack_images.py``, sent as they are.
Auxiliary images are 1000 crops of the same photographs that overlap no target (optimistic: the same scene). One thread;
CPU seconds of the process for all four images. The others' figures were measured with the same images and network on
another machine; no-leak guesses: grey 9.64 dB, the mean of the auxiliary images 10.56 dB.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from functools import cache

import torch
from attack_images import SCORED, SIZE, TRAINING_DIGITS, digits, disjoint_crops, normalised, score, sk8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.images import ImageSpace
from attacks.smashed.decoder import Decoder
from attacks.smashed.networks import drawn_weights
from attacks.smashed.sdar import Sdar, Seen
from attacks.smashed.shadow import Shadow
from attacks.smashed.unsplit import UnSplit
from attacks.smashed.victim import ServerLoss, forward_of, program_of, server_loss_of
from attacks.smashed.white_box import WhiteBox

SPACE = ImageSpace(shape_CHW=(3, SIZE, SIZE), low=(-1.0,), high=(1.0,))
CUTS = {"ReLU11": 2, "ReLU22": 9, "ReLU32": 14}
"""How many layers of the features are the client's."""
Row = tuple[Tensor, float, str]
"""Rebuilt unit images, CPU seconds, a remark."""

PEERS: dict[str, dict[tuple[bool, str], str]] = {
    "white_box": {
        (False, "ReLU11"): "80.73 / 1.000, .9 s",
        (False, "ReLU22"): "55.91 / .980, 4.7 s",
        (False, "ReLU32"): "12.87 / .210, 5.6 s",
        (True, "ReLU11"): "74.70 / 1.000, .9 s",
        (True, "ReLU22"): "18.20 / .613, 4.5 s",
        (True, "ReLU32"): "17.27 / .454, 5.8 s",
    },
    "decoder": {
        (False, "ReLU11"): "30.37 / .956, 10 s",
        (False, "ReLU22"): "20.27 / .619, 21 s",
        (False, "ReLU32"): "15.33 / .263, 23 s",
    },
    "unsplit": {
        (False, "ReLU11"): "10.74 / .298, 1.2 s (image 5 only)",
        (False, "ReLU22"): "9.95 / .251, 9.3 s (image 5 only)",
        (False, "ReLU32"): "9.95 / .251, 14.4 s (image 5 only)",
    },
}
"""PSNR in dB / SSIM and CPU seconds of others' code, by attack, victim and cut."""


class Network(nn.Module):
    """The victim, from normalised images (B, 3, 32, 32) to 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (64, 128, 128):
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(2048, 512), nn.Sigmoid(), nn.Linear(512, 10))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of normalised images."""
        return self.head(self.features(images_BCHW))


def fresh() -> Network:
    """The victim's weights at the start; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().eval().requires_grad_(False)


@cache
def victim(trained: bool) -> Network:
    """The victim, untrained or trained on digits for 5 epochs."""
    network = fresh()
    if trained:
        fit(network, 5)
    return network


def fit(network: Network, epochs: int) -> None:
    """Train on digits: Adam 1e-3, batches of 64."""
    network.requires_grad_(True)
    images, labels = digits()
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(epochs):
        for places in torch.randperm(TRAINING_DIGITS, generator=draw).split(64):
            optimizer.zero_grad()
            cross_entropy(network(normalised(images[places])), labels[places]).backward()
            optimizer.step()
    network.requires_grad_(False)


def accuracy(network: Network) -> float:
    """On held-out digits."""
    images, labels = digits()
    with torch.no_grad():
        found = network(normalised(images[TRAINING_DIGITS:])).argmax(1)
    return float((found == labels[TRAINING_DIGITS:]).float().mean())


@cache
def targets() -> Tensor:
    """T4, unit images."""
    return sk8()[list(SCORED)]


@cache
def auxiliary() -> Tensor:
    """1000 crops of the same photographs."""
    return disjoint_crops(1000)


def client_half(trained: bool, cut: str) -> nn.Sequential:
    """The victim up to the cut."""
    return victim(trained).features[: CUTS[cut]]


def white_box(trained: bool, cut: str) -> Row:
    """Inversion; its candidate is chosen on four auxiliary images, whose time is stated apart."""
    forward = forward_of(client_half(trained, cut))
    target = forward(normalised(targets()))
    begun = time.process_time()
    attack = WhiteBox().tuned(auxiliary()[::250], forward, SPACE, len(targets()))
    tuned = time.process_time()
    found = attack.reconstruct(target, forward, SPACE, len(targets()))
    (chosen,) = attack.candidates
    remark = f"prior {chosen.prior_weight:g}, chosen in {tuned - begun:.1f} s; {found.iterations} iterations"
    return found.unit_BCHW, time.process_time() - tuned, remark


def decoder(trained: bool, cut: str) -> Row:
    """An inverse network, 120 steps of 50 auxiliary images; its training is in the time."""
    forward = forward_of(client_half(trained, cut))
    target = forward(normalised(targets()))
    begun = time.process_time()
    attack = Decoder(steps=120)
    found = attack.trained(auxiliary(), forward, SPACE).reconstruct(target, len(targets()))
    return found.unit_BCHW, time.process_time() - begun, attack.budget


def unsplit(trained: bool, cut: str) -> Row:
    """The program alone, for the budget that the others' was measured at: 15 rounds of 50 + 50 steps."""
    half = client_half(trained, cut)
    target = forward_of(half)(normalised(targets()))
    begun = time.process_time()
    attack = UnSplit(rounds=15, image_steps=50, weight_steps=50)
    found = attack.reconstruct(target, program_of(half), drawn_weights(half, 1), SPACE, len(targets()))
    return found.unit_BCHW, time.process_time() - begun, attack.budget


def server_loss(trained: bool, cut: str) -> ServerLoss:
    """The loss of the victim behind the cut."""
    network = victim(trained)
    return server_loss_of(nn.Sequential(*network.features[CUTS[cut] :], network.head), cross_entropy)


def shadow(trained: bool, cut: str) -> Row:
    """A shadow trained on held-out digits, with which the server half deals, and inversion of it."""
    half = client_half(trained, cut)
    target = forward_of(half)(normalised(targets()))
    images, labels = (kind[TRAINING_DIGITS:] for kind in digits())
    begun = time.process_time()
    attack = Shadow(steps=100)
    made = attack.trained(images, labels, program_of(half), drawn_weights(half, 1), server_loss(trained, cut), SPACE)
    found = made.tuned(len(targets())).reconstruct(target, len(targets()))
    return found.unit_BCHW, time.process_time() - begun, f"digits as auxiliary images; fit {found.fit:.2g}"


def sdar(trained: bool, cut: str) -> Row:
    """Every training digit sent once was seen with its label, and the targets; auxiliary images are held-out digits."""
    half = client_half(trained, cut)
    forward = forward_of(half)
    target = forward(normalised(targets()))
    images, labels = digits()
    seen: list[Seen] = [
        (forward(normalised(images[places])), labels[places]) for places in torch.arange(TRAINING_DIGITS).split(32)
    ]
    begun = time.process_time()
    attack = Sdar(steps=150)
    made = attack.trained(
        seen,
        images[TRAINING_DIGITS:],
        labels[TRAINING_DIGITS:],
        program_of(half),
        drawn_weights(half, 1),
        server_loss(trained, cut),
        SPACE,
    )
    found = made.reconstruct(target, len(targets()))
    spent = time.process_time() - begun
    own = made.reconstruct(seen[0][0], 32).unit_BCHW
    grey = score(torch.full_like(own, 0.5), images[:32])
    remark = f"the clients' own digits {score(own, images[:32]).psnr_db:.2f} dB (grey {grey.psnr_db:.2f})"
    return found.unit_BCHW, spent, remark


ATTACKS: dict[str, tuple[Callable[[bool, str], Row], tuple[bool, ...]]] = {
    "white_box": (white_box, (False, True)),
    "decoder": (decoder, (False, True)),
    "unsplit": (unsplit, (False,)),
    "shadow": (shadow, (True,)),
    "sdar": (sdar, (True,)),
}
"""By name: the attack, and the victims it is measured on (untrained, trained)."""


def rows(only: Iterable[str]) -> Iterable[str]:
    """One line for each attack, victim and cut."""
    for name in only:
        attack, victims = ATTACKS[name]
        for trained in victims:
            for cut in CUTS:
                rebuilt, cpu_s, remark = attack(trained, cut)
                found = score(rebuilt, targets())
                each = " ".join(f"{db:.1f}" for db in found.each_db)
                peer = PEERS.get(name, {}).get((trained, cut), "-")
                state = "trained" if trained else "untrained"
                yield (
                    f"{name:10} {state:9} {cut:7} {found.psnr_db:6.2f} / {found.ssim:.3f} ({each}) {cpu_s:6.1f} s"
                    f"   others {peer}   {remark}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(ATTACKS), default=list(ATTACKS))
    only = parser.parse_args().only
    torch.set_num_threads(1)
    print(f"held-out accuracy of the trained victim {accuracy(victim(True)):.3f} (others' .906)")
    print("attack     victim    cut     PSNR dB / SSIM (each image), CPU s", flush=True)
    for line in rows(only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
