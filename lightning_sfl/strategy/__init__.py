"""The Lightning strategy."""

from lightning_sfl.strategy.split_federated import SplitFederatedStrategy

__all__ = ["SplitFederatedStrategy"]
