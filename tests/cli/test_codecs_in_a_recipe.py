"""Codecs from a recipe: a sequence, by kind, by client."""

import pytest
from cli_cases import quick, refusal, write

from lightning_sfl.cli import main
from lightning_sfl.strategy.split_federated import SplitFederatedStrategy

EIGHT = {"class_path": "lightning_sfl.link.codecs.StochasticUniform", "init_args": {"bits": 8}}
TOP = {"class_path": "lightning_sfl.link.codecs.TopK", "init_args": {"fraction": 0.1, "error_feedback": True}}
HALF = {"class_path": "lightning_sfl.link.codecs.BFloat16"}


def recipe_with(folder, codecs):
    return write(folder, quick(**{"trainer.strategy.init_args.codecs": codecs}))


@pytest.mark.parametrize(
    ("codecs", "text"),
    [
        ([HALF, EIGHT], "BFloat16(), StochasticUniform(bits=8)"),
        ({"smashed": [EIGHT], "client_update": [TOP]}, "smashed: StochasticUniform(bits=8); client_update: TopK(frac"),
        (
            {0: [EIGHT], 2: {"cut_gradient": [HALF]}},
            "client 0: StochasticUniform(bits=8) | client 2: cut_gradient: BFl",
        ),
    ],
    ids=["sequence", "by kind", "by client"],
)
def test_a_recipe_names_codecs(codecs, text, tmp_path, monkeypatch):
    """They are trained with."""
    made = []
    whole = SplitFederatedStrategy.teardown

    def teardown(self):
        made.append((str(self.codecs), self.link.meter.total().messages))
        whole(self)

    monkeypatch.setattr(SplitFederatedStrategy, "teardown", teardown)
    main(["fit", "--config", recipe_with(tmp_path, codecs)])
    assert made[0][0].startswith(text)
    assert made[0][1] > 0


def test_a_flag_replaces_them(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(SplitFederatedStrategy, "teardown", lambda self: made.append(str(self.codecs)))
    flag = '[{"class_path": "lightning_sfl.link.codecs.NearestUniform", "init_args": {"bits": 4}}]'
    main(["fit", "--config", recipe_with(tmp_path, [EIGHT]), f"--trainer.strategy.init_args.codecs={flag}"])
    assert made == ["NearestUniform(bits=4)"]


@pytest.mark.parametrize(
    ("codecs", "said"),
    [
        ([{**EIGHT, "init_args": {"bits": 17}}], "bits=17 is not accepted"),
        ({"label": [EIGHT]}, "'label' is not accepted"),
        ([EIGHT, HALF], "ends in packed integers"),
    ],
)
def test_a_recipe_with_codecs_that_cannot_be_is_refused(codecs, said, tmp_path, capsys):
    assert said in refusal(["fit", "--config", recipe_with(tmp_path, codecs)], capsys)
