import pytest
import yaml
from cli_cases import QUICKSTART, refusal

from lightning_sfl.cli import main


def test_every_recipe_is_listed_with_its_purpose(capsys):
    main(["recipes"])

    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    expected = {
        str(path.relative_to(QUICKSTART.parent).with_suffix("")): path.read_text().splitlines()[0].removeprefix("# ")
        for path in QUICKSTART.parent.rglob("*.yaml")
    }
    assert found == expected
    assert found["quickstart"].startswith("Handwritten digits")


def test_a_recipe_is_copied_into_the_working_directory(here, capsys):
    main(["recipes", "quickstart"])

    assert [path.name for path in here.iterdir()] == ["quickstart.yaml"]
    assert (here / "quickstart.yaml").read_bytes() == QUICKSTART.read_bytes()
    assert "lightning-sfl tradeoff --config quickstart.yaml" in capsys.readouterr().out


def test_a_recipe_is_copied_to_the_file_named(here, tmp_path, capsys):
    target = tmp_path / "mine.yaml"

    main(["recipes", "quickstart", "--output", str(target)])

    assert target.read_bytes() == QUICKSTART.read_bytes()
    assert f"--config {target} " in capsys.readouterr().out
    assert list(here.iterdir()) == []


def test_an_existing_file_is_refused_and_kept(here, capsys):
    (here / "quickstart.yaml").write_text("mine")

    said = refusal(["recipes", "quickstart"], capsys)

    assert "quickstart.yaml" in said
    assert "exists already" in said
    assert (here / "quickstart.yaml").read_text() == "mine"


def test_an_unknown_recipe_is_refused_with_those_there_are(here, capsys):
    said = refusal(["recipes", "quickstrat"], capsys)

    assert "'quickstrat'" in said
    assert "'quickstart'" in said
    assert list(here.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused_clearly(tmp_path, capsys):
    said = refusal(["recipes", "quickstart", "--output", str(tmp_path / "missing" / "mine.yaml")], capsys)

    assert "missing" in said
    assert "Errno" not in said


@pytest.mark.slow
def test_a_copy_can_be_run_after_a_change(here, tmp_path, capsys):
    main(["recipes", "quickstart"])
    copied = yaml.safe_load((here / "quickstart.yaml").read_text())
    copied["model"]["init_args"]["width"] = 2
    (here / "quickstart.yaml").write_text(yaml.safe_dump(copied))
    capsys.readouterr()

    main(["plan", "--config", "quickstart.yaml"])

    assert "2x32x32" in capsys.readouterr().out
