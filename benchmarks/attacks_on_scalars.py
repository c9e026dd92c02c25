"""What comes back of clients' records from seeds and scalars (HO-SFL), against how many scalars there are.

    python benchmarks/attacks_on_scalars.py [--probes 1 5 16 64 256] [--batches 1 4 16] [--trained 0]

Eight clients hold digits (8x8) and train by HO-SFL through the Trainer; the messages of one step are attacked by the
audit. Three halves: fully connected (64 to 32), two convolutions (1 to 8 to 8, the second with stride 2, ReLU), and
four of them. Auxiliary images are 256 other digits, which are also the candidates beside the clients' own. K/d is the
number of scalars over that of the pixels of a batch. One seed, one thread, CPU seconds of an attack over all clients.
"""

import argparse
import time

import lightning.pytorch as pl
import torch
from quiet import quiet
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from attacks import PrivacyAudit
from attacks.scalars.inverting import InvertingScalars
from attacks.scalars.likelihood import ScalarLikelihood
from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.algorithms import HOSFL
from lightning_sfl.report.leakage import Leakage

CLIENTS, AUXILIARY, PIXELS = 8, 256, 64


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits, (1797, 1, 8, 8), and their labels."""
    found = load_digits()
    return torch.from_numpy(found.images / 16).float()[:, None], torch.from_numpy(found.target)


def halves() -> dict[str, nn.Sequential]:
    """The clients' halves by name."""
    two = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()]
    more = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return {
        "fully connected": nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 32)),
        "2 convolutions": nn.Sequential(*two),
        "4 convolutions": nn.Sequential(*two, *more),
    }


class Net(pl.LightningModule):
    """A half and a linear head behind it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.front = halves()[name]
        features = self.front(torch.zeros(1, 1, 8, 8)).numel()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(features, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        images, labels = batch
        return cross_entropy(self.head(self.front(images)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Nothing: its loader holds the auxiliary images."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), lr=0.05)


def trained(name: str, steps: int, images: Tensor, labels: Tensor) -> Net:
    """The net after so many steps in one place, in batches of 32."""
    pl.seed_everything(0, verbose=False)
    net = Net(name)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        places = torch.randint(len(images), (32,), generator=draw)
        optimizer.zero_grad()
        net.training_step((images[places], labels[places]), 0).backward()
        optimizer.step()
    return net


def cells(name: str, batch: int, probes: int, steps: int) -> dict[str, Leakage]:
    """Run one step of HO-SFL, and attack it."""
    images, labels = digits()
    held = CLIENTS * 32
    net = trained(name, steps, images[held + AUXILIARY :], labels[held + AUXILIARY :])
    audit = PrivacyAudit((InvertingScalars(), ScalarLikelihood()), records=CLIENTS * batch)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[audit],
        strategy=SplitFederatedStrategy(
            cut="front", num_clients=CLIENTS, batch_size=batch, algorithm=HOSFL(probes=probes)
        ),
    )
    own = TensorDataset(images[:held], labels[:held])
    others = TensorDataset(images[held : held + AUXILIARY], labels[held : held + AUXILIARY])
    trainer.fit(net, DataLoader(own, batch_size=batch, shuffle=True), DataLoader(others, batch_size=64))
    ((found,),) = audit.leakage.values()
    return {cell.attack: cell for cell in found.cells}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", type=int, nargs="+", default=[1, 5, 16, 64, 256])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--trained", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    print(f"victims after {args.trained} steps")
    print(f"{'half':16} {'d_c':>6} {'B':>3} {'P':>4} {'K/d':>6} | PSNR (guess)    s | AUC   p      top-B (chance)    s")
    start = time.process_time()
    for name in halves():
        for batch in args.batches:
            for probes in args.probes:
                found = cells(name, batch, probes, args.trained)
                images, ranks = found[InvertingScalars.name], found[ScalarLikelihood.name]
                held = sum(own.numel() for own in halves()[name].parameters())
                among, chance = (value.mean for value in ranks.others.values())
                ratio = probes / (batch * PIXELS)
                print(
                    f"{name:16} {held:6} {batch:3} {probes:4} {ratio:6.3f} |"
                    f" {images.value.mean:5.1f} ({images.best_guess.value.mean:4.1f}) {images.cpu_s:5.1f} |"
                    f" {ranks.value.mean:.3f} {ranks.p_value:.4f} {among:.3f} ({chance:.3f}) {ranks.cpu_s:5.1f}",
                    flush=True,
                )
    print(f"{time.process_time() - start:.0f} CPU seconds in all, controls included")


if __name__ == "__main__":
    main()
