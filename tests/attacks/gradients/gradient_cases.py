import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.gradients.victim import GradientOf, Gradients, of_module
from attacks.images import ImageSpace

SPACE = ImageSpace(shape_CHW=(1, 6, 6), low=(-1.0,), high=(1.0,))


def unit_images(count: int, seed: int = 0, space: ImageSpace = SPACE) -> Tensor:
    """Noise, from other seeds than an attack's starts: else a start would be the truth."""
    return space.random(count, torch.Generator().manual_seed(1000 + seed))


def small_net(classes: int = 5, seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two convolutions and a classifier, with weights of its own seed."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), activation(), nn.Conv2d(8, 8, 3, padding=1), activation(), nn.Flatten(),
        nn.Linear(288, classes),
    )  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_((2 * torch.rand(parameter.shape, generator=draw) - 1) * spread)
    return net.eval()


def victim_of(net: nn.Module) -> GradientOf:
    return of_module(net, cross_entropy)


def seen_from(net: nn.Module, unit_BCHW: Tensor, labels: Tensor, space: ImageSpace = SPACE) -> Gradients:
    """The gradient that crossed, by plain backward."""
    cross_entropy(net(space.to_input(unit_BCHW)), labels).backward()
    found = tuple(parameter.grad.clone() for parameter in net.parameters())
    net.zero_grad()
    return found
