import sys
from pathlib import Path

import pytest
import torch
from cli_cases import QUICKSTART, quick, refusal, write

from lightning_sfl.cli import main
from recipes.cnn.digits import Digits
from recipes.cnn.small_resnet import SmallResNet

# Lightning says so of a checkpoint that is used from anywhere but the folder it was written in.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")

COMMANDS = ("fit", "validate", "test", "predict", "plan", "audit", "tradeoff", "recipes")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    base = tmp_path_factory.mktemp("commands")
    settings = {
        "trainer.enable_checkpointing": True,
        "trainer.default_root_dir": str(base / "run"),
        "trainer.limit_test_batches": 1,
        "trainer.logger": False,
    }
    return write(base, quick(**settings))


@pytest.fixture(scope="module")
def checkpoint(recipe: str) -> str:
    """What `fit` leaves behind after one short epoch."""
    main(["fit", "--config", recipe])
    (found,) = (Path(recipe).parent / "run").rglob("*.ckpt")
    return str(found)


def by_hand(checkpoint: str) -> tuple[SmallResNet, torch.Tensor, torch.Tensor]:
    """The model of a checkpoint and the first batch of the held-out digits."""
    data = Digits(batch_size=4)
    data.setup("validate")
    images, labels = next(iter(data.val_dataloader()))
    return SmallResNet.load_from_checkpoint(checkpoint).eval(), images, labels


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exited:
        main(["--help"])

    said = capsys.readouterr().out
    assert exited.value.code == 0
    assert all(command in said for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as exited:
        main([command, "--help"])

    assert exited.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("args", [[], ["traidoff"]])
def test_no_command_or_a_wrong_one_is_refused_with_those_there_are(args, capsys):
    said = refusal(args, capsys)

    assert "tradeoff" in said


def test_arguments_of_the_process_are_taken_if_none_are_given(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-sfl", "recipes"])

    main()

    assert "quickstart" in capsys.readouterr().out


def test_fit_trains_and_leaves_a_checkpoint_a_plain_script_can_load(checkpoint):
    trained = SmallResNet.load_from_checkpoint(checkpoint).eval()

    assert trained.hparams.width == 2
    assert trained(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert int(trained.stem[1].num_batches_tracked) == 2  # steps of training


def test_validate_and_test_measure_the_checkpoint(recipe, checkpoint, capsys):
    """The figure is that of the loaded model on the very batch, computed here by hand."""
    model, images, labels = by_hand(checkpoint)
    accuracy = float((model(images).argmax(1) == labels).float().mean())

    main(["validate", "--config", recipe, "--ckpt_path", checkpoint, "--trainer.default_root_dir", "val"])
    validated = capsys.readouterr().out
    main(["test", "--config", recipe, "--ckpt_path", checkpoint, "--trainer.default_root_dir", "test"])
    tested = capsys.readouterr().out

    assert float(validated.split("val_acc")[1].split()[1]) == pytest.approx(accuracy)
    assert float(tested.split("test_acc")[1].split()[1]) == pytest.approx(accuracy)


def test_predict_runs_the_checkpoint(recipe, checkpoint, tmp_path, here, capsys):
    model, images, _ = by_hand(checkpoint)
    root = str(tmp_path / "predict")
    writer = ("--trainer.callbacks+=cli_models.WritePredictions", "--trainer.callbacks.folder", str(tmp_path))

    main(["predict", "--config", recipe, "--ckpt_path", checkpoint, "--trainer.default_root_dir", root, *writer])

    predicted = torch.cat(torch.load(tmp_path / "predictions.pt", weights_only=True))
    assert torch.equal(predicted[: len(images)], model(images).argmax(1))
    assert len(predicted) == 297
    assert list(here.iterdir()) == []


def test_fit_goes_on_from_the_checkpoint(recipe, checkpoint, tmp_path, capsys):
    main(
        [
            *("fit", "--config", recipe, "--ckpt_path", checkpoint, "--trainer.max_epochs", "2"),
            *("--trainer.default_root_dir", str(tmp_path / "more")),
        ]
    )

    (resumed,) = (tmp_path / "more").rglob("*.ckpt")
    before, after = (torch.load(path, weights_only=True) for path in (checkpoint, resumed))
    assert (before["global_step"], after["global_step"]) == (2, 4)


def test_a_flag_changes_one_value_of_a_recipe(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(QUICKSTART), "--trainer.max_epochs", "3", "--print_config"])

    printed = capsys.readouterr().out
    assert "max_epochs: 3" in printed
    assert "cut: block2" in printed


def test_an_unknown_key_in_a_recipe_for_fit_is_named(tmp_path, here, capsys):
    recipe = write(tmp_path, quick(**{"trainer.max_epoch": 3}))

    said = refusal(["fit", "--config", recipe], capsys)

    assert "max_epoch" in said
    assert list(here.iterdir()) == []
