"""The callback beside a real wandb run, offline."""

import json

import lightning.pytorch as pl
import pytest
from audited import ONE_ITERATION, TinyNet, digits
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader, TensorDataset

from attacks import PrivacyAudit
from lightning_sfl import SplitFederatedStrategy

wandb = pytest.importorskip("wandb")


@pytest.mark.slow
def test_an_offline_run_receives_tables_scatter_pictures_and_figures(tmp_path, monkeypatch):
    """Two rounds, attacked after each: two tables of cells, and two pictures of eight records each in 16 files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    images, labels = digits()
    callback = PrivacyAudit(ONE_ITERATION.attacks, every_n_rounds=1, records=8)
    logger = WandbLogger(project="lightning-sfl-tests", offline=True, save_dir=tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[callback],
        strategy=SplitFederatedStrategy(cut="stem", num_clients=2, batch_size=8),
    )
    try:
        trainer.fit(TinyNet(), DataLoader(TensorDataset(images[:64], labels[:64]), batch_size=8))
        summary = dict(logger.experiment.summary)
    finally:
        wandb.finish()

    def tables(name: str) -> list[dict[str, object]]:
        found = sorted(path for path in tmp_path.rglob(f"*{name}*.table.json") if path.is_file())
        contents = [json.loads(path.read_text()) for path in found]
        return [dict(zip(one["columns"], row, strict=True)) for one in contents for row in one["data"]]

    cells = {at_cut.cells[0].value.mean for (at_cut,) in callback.leakage.values()}
    assert list(callback.leakage) == [1, 2]
    assert {row["value"] for row in tables("leakage")} == cells
    assert {row["cut"] for row in tables("cuts")} == {"stem"}
    assert {row["psnr_db"] for row in tables("tradeoff")} == cells
    assert len([path for path in tmp_path.rglob("*.png") if path.is_file()]) == 16
    assert summary["leakage/stem/psnr_db"] == callback.leakage[2][0].cells[0].value.mean
    assert len(list(tmp_path.rglob("*.wandb"))) == 1
