"""The policy that the documents show runs as it stands there."""

import re
import sys
import textwrap
from pathlib import Path

from sfl_models import MLP, fit, sgd

import lightning_sfl
from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.callbacks import AdaptiveSplit, EfficiencyMonitor

DOCUMENT = Path(lightning_sfl.__file__).parents[1] / "docs" / "policies.md"


def test_the_documented_policy_is_a_policy(tmp_path, monkeypatch):
    """Memory is unlimited in this world, so everybody cuts at the deepest; batches are in proportion to speeds."""
    text = DOCUMENT.read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"(?:\n {4}.*|\n(?=\n {4}))+", text) if "class DeepAndEven" in block)
    (tmp_path / "my_module.py").write_text(textwrap.dedent(code), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    from my_module import DeepAndEven

    assert len(code.strip().splitlines()) < 30
    adaptive = AdaptiveSplit(DeepAndEven(mean_batch=4))
    strategy = SplitFederatedStrategy(cut="model.1", num_clients=4, aggregate_every=2)
    fit(MLP.module(sgd), MLP.loader(32, 4), strategy, max_epochs=2, callbacks=[EfficiencyMonitor(), adaptive])

    round, clients, cuts, sizes, *_, reason = adaptive.decisions[0]
    assert (round, clients, cuts, reason) == (1, 4, "4 × model.4", "deep and even")
    assert len(sizes.split(", ")) > 1
