"""The attacks by name."""

from attacks.attack import Attack
from attacks.gradients.batch_norm import InvertingWithBatchStatistics
from attacks.gradients.dlg import DeepLeakage
from attacks.gradients.first_layer import FirstLayerInputs
from attacks.gradients.half import InvertingHalfGradients
from attacks.gradients.inverting import InvertingGradients
from attacks.gradients.last_layer import LabelCounts
from attacks.gradients.learned import LearningToInvert
from attacks.joint.linked_views import LinkedViews
from attacks.joint.one_step import OneStep
from attacks.labels.clustering import GradientClusters, SmashedClusters
from attacks.labels.direction import GradientDirection
from attacks.labels.every_class import EveryClass
from attacks.labels.logits import LogitGradients
from attacks.labels.norm import GradientNorm
from attacks.malicious.hijack import FeatureSpaceHijack
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
    "inverting_with_batch_statistics": InvertingWithBatchStatistics,
    "inverting_half_gradients": InvertingHalfGradients,
    "deep_leakage": DeepLeakage,
    "learning_to_invert": LearningToInvert,
    "one_step": OneStep,
    "linked_views": LinkedViews,
    "feature_space_hijack": FeatureSpaceHijack,
    "gradient_norm": GradientNorm,
    "gradient_direction": GradientDirection,
    "gradient_clusters": GradientClusters,
    "smashed_clusters": SmashedClusters,
    "every_class": EveryClass,
    "logit_gradients": LogitGradients,
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
    "one_step",
    "linked_views",
    "gradient_norm",
    "gradient_direction",
    "gradient_clusters",
    "every_class",
    "logit_gradients",
    "inverting_scalars",
    "scalar_likelihood",
)
"""Those that run where none are named."""


def make_attack(name: str) -> Attack:
    """An attack with its own settings, by name."""
    return ATTACKS[name]()
