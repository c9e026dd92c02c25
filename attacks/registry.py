"""The attacks by name."""

from attacks.attack import Attack
from attacks.gradients.dlg import DeepLeakage
from attacks.gradients.first_layer import FirstLayerInputs
from attacks.gradients.half import InvertingHalfGradients
from attacks.gradients.inverting import InvertingGradients
from attacks.gradients.last_layer import LabelCounts
from attacks.gradients.learned import LearningToInvert
from attacks.scalars.inverting import InvertingScalars
from attacks.scalars.likelihood import ScalarLikelihood
from attacks.smashed.decoder import Decoder
from attacks.smashed.linear import LeastSquares
from attacks.smashed.sdar import Sdar
from attacks.smashed.shadow import Shadow
from attacks.smashed.unsplit import UnSplit
from attacks.smashed.white_box import WhiteBox

ATTACKS: dict[str, type[Attack]] = {
    "white_box": WhiteBox,
    "least_squares": LeastSquares,
    "decoder": Decoder,
    "unsplit": UnSplit,
    "shadow": Shadow,
    "sdar": Sdar,
    "first_layer_inputs": FirstLayerInputs,
    "label_counts": LabelCounts,
    "inverting_gradients": InvertingGradients,
    "inverting_half_gradients": InvertingHalfGradients,
    "deep_leakage": DeepLeakage,
    "learning_to_invert": LearningToInvert,
    "inverting_scalars": InvertingScalars,
    "scalar_likelihood": ScalarLikelihood,
}
"""All attacks that can be named."""

DEFAULT = (
    "white_box",
    "least_squares",
    "decoder",
    "first_layer_inputs",
    "label_counts",
    "inverting_gradients",
    "inverting_half_gradients",
    "deep_leakage",
    "inverting_scalars",
    "scalar_likelihood",
)
"""Those that run where none are named."""


def make_attack(name: str) -> Attack:
    """An attack with its own settings, by name."""
    return ATTACKS[name]()
