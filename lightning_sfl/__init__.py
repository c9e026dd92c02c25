"""Split federated learning as a PyTorch Lightning strategy, with a privacy audit of every split point.

Importing this package registers ``Trainer(strategy="split_federated")``.
"""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_sfl.allocation import Allocation as Allocation
from lightning_sfl.cut.errors import CutError as CutError
from lightning_sfl.cut.find import Cut as Cut
from lightning_sfl.cut.find import find_cuts as find_cuts
from lightning_sfl.link.log import MessageLog as MessageLog
from lightning_sfl.strategy.split_federated import SplitFederatedStrategy as SplitFederatedStrategy

if SplitFederatedStrategy.strategy_name not in StrategyRegistry:
    SplitFederatedStrategy.register_strategies(StrategyRegistry)

__all__ = ["Allocation", "Cut", "CutError", "MessageLog", "SplitFederatedStrategy", "find_cuts"]
