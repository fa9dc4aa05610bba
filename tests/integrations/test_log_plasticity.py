"""The callbacks that log plasticity: the figures are those of the check, and training goes on as without them."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import gnt
from gnt.integrations._interval import Interval
from gnt.integrations.huggingface import LogPlasticity as TrainerLog
from gnt.integrations.lightning import LogPlasticity
from tests.helpers.small_runs import assert_same, mlp

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]
SHORT = {"steps": 4, "seeds": 2}


class Regression(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(x)

    def training_step(self, pair, index):
        return F.mse_loss(self(F.dropout(pair[0])), pair[1])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def fit(root: Path, *callbacks: LogPlasticity) -> tuple[Regression, list[object]]:
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    data = DataLoader(TensorDataset(x, x[:, :2]), batch_size=8, shuffle=True)
    module, logger = Regression(), CSVLogger(root)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    run = lightning.Trainer(
        max_epochs=2, callbacks=list(callbacks), accelerator="cpu", devices=1, logger=logger, **quiet
    )
    run.fit(module, data)
    logger.save()
    return module, [module.state_dict(), run.optimizers[0].state_dict(), torch.rand(2)]


def test_lightning_logs_the_figures_and_trains_as_without_them(tmp_path):
    log = LogPlasticity(every=3, loss="mse", net=lambda module: module.net, **SHORT)
    whole = LogPlasticity(every=8, loss="mse", fresh="data", **SHORT)
    _, plain = fit(tmp_path / "plain")
    _, logged = fit(tmp_path / "logged", log, whole)
    assert_same(logged, plain)
    assert list(log.history) == [3, 6]
    assert list(whole.history) == [8]
    assert (log.latest.task, whole.latest.task) == ("labels", "data")
    assert log.latest.to_dict() == log.history[6]
    (file,) = (tmp_path / "logged").rglob("metrics.csv")
    rows = {int(row["step"]): row for row in csv.DictReader(file.read_text().splitlines()) if row["plasticity/lost"]}
    assert list(rows) == [3, 6, 8]
    assert float(rows[6]["plasticity/lost"]) == pytest.approx(log.history[6]["plasticity/lost"])


def test_a_trainers_own_entry_is_written_where_a_check_is_logged(tmp_path):
    trainer, _, _ = train(tmp_path, every=4)
    both = {key for entry in trainer.state.log_history if entry["step"] == 4 for key in entry}
    assert {"plasticity/lost", "loss", "learning_rate"} <= both


def test_intervals_continue_over_fits(tmp_path):
    log = LogPlasticity(every=3, loss="mse", net=lambda module: module.net, **SHORT)
    for number in range(3):  # of eight steps each
        fit(tmp_path / str(number), log)
    assert list(log.history) == [3, 6, 9, 12, 15, 18, 21, 24]


def test_intervals_with_several_optimizers_gradient_accumulation_and_checkpoints():
    """A trainer's step rises by the number of optimizers, stays while gradients accumulate, and may begin anywhere."""
    interval = Interval()
    interval.begin(0)
    assert [step for step in range(0, 22, 2) if interval.is_due(step, 5)] == [6, 10, 16, 20]
    assert not interval.is_due(20, 5)
    interval.begin(7)  # from an earlier checkpoint of this run, or a further fit
    assert interval.total == 20
    assert [step for step in range(7, 20) if interval.is_due(step, 5)] == [12, 17]
    resumed = Interval()
    resumed.begin(10)
    assert [step for step in range(10, 16) if resumed.is_due(step, 5)] == [15]


def train(root: Path, *, every: int | None) -> tuple[Trainer, list[object], TrainerLog | None]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 12}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=3, max_position_embeddings=8, **sizes))
    words = torch.randint(20, (24, 6))
    data = [{"input_ids": each, "labels": int(each[0]) % 3} for each in words]
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 4}
    arguments = TrainingArguments(root, max_steps=6, per_device_train_batch_size=4, **quiet)
    trainer = Trainer(model, arguments, train_dataset=data)
    log = None
    if every is not None:
        log = TrainerLog(trainer, every=every, **SHORT)
        trainer.add_callback(log)
    trainer.train()
    return trainer, [model.state_dict(), trainer.optimizer.state_dict(), torch.rand(2)], log


def test_the_trainer_of_transformers_logs_the_figures_and_trains_as_without_them(tmp_path):
    _, plain, _ = train(tmp_path / "plain", every=None)
    trainer, logged, log = train(tmp_path / "logged", every=3)
    assert_same(logged, plain)
    entries = [entry for entry in trainer.state.log_history if "plasticity/lost" in entry]
    assert [entry["step"] for entry in entries] == [3, 6]
    assert entries[1]["plasticity/lost"] == log.history[6]["plasticity/lost"]
    assert log.latest.measure == "error"
    assert log.latest.head == ("classifier",)
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [4]
    trainer.train()
    assert list(log.history) == [3, 6, 9, 12]
    assert [entry["step"] for entry in trainer.state.log_history if "plasticity/lost" in entry] == [3, 6]
    assert "bert.encoder.layer.0.intermediate.dense" in [layer.name for layer in log.latest.present if layer.units]


class Stream(IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


class Classifier(torch.nn.Module):
    """A network that cannot be called without labels, and returns a dict."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))

    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_data_without_an_order_and_a_model_that_returns_a_dict(tmp_path):
    samples = [{"x": torch.randn(4), "labels": number % 3} for number in range(24)]
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 4}
    arguments = TrainingArguments(tmp_path, max_steps=6, per_device_train_batch_size=4, **quiet)
    trainer = Trainer(Classifier(), arguments, train_dataset=Stream(samples))
    log = TrainerLog(trainer, every=3, **SHORT)
    trainer.add_callback(log)
    trainer.train()
    assert list(log.history) == [3, 6]
    assert (log.latest.measure, log.latest.head) == ("error", ("net.2",))


def test_a_trainer_without_a_data_set_needs_data_for_the_check(tmp_path):
    class OwnLoader(Trainer):
        def get_train_dataloader(self):
            return DataLoader([{"x": torch.randn(4), "labels": number % 3} for number in range(24)], 4)

    trainer = OwnLoader(Classifier(), TrainingArguments(tmp_path, max_steps=6, report_to=[], use_cpu=True))
    trainer.add_callback(TrainerLog(trainer, every=3))
    with pytest.raises(
        ValueError, match="LogPlasticity reads train_dataset, which the trainer does not have: pass data"
    ):
        trainer.train()


def test_settings_that_are_not_those_of_the_check_are_refused():
    with pytest.raises(TypeError, match="unknown setting step: LogPlasticity takes every, data, loss; the engine"):
        LogPlasticity(every=3, loss="mse", step=3)
    with pytest.raises(ValueError, match="every must be an integer >= 1, got 0"):
        LogPlasticity(every=0, loss="mse")
    for wrong, message in [
        ({"loss": "l3"}, "loss must be one of mse, cross_entropy, nll"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"seeds": 1}, "seeds must be at least two"),
        ({"fresh": "label"}, "fresh must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            LogPlasticity(**{"every": 3, "loss": "mse", **wrong})
    for wrong, error, message in [
        ({"data": 3}, TypeError, "data must be a DataLoader, a data set, tensors"),
        ({"net": mlp()}, TypeError, "net must be a function of the LightningModule, or None, got Sequential"),
        ({"optimizer": "first"}, ValueError, "optimizer must be an integer >= 0, got 'first'"),
    ]:
        with pytest.raises(error, match=message):
            LogPlasticity(**{"every": 3, "loss": "mse", **wrong})
    with pytest.raises(TypeError, match=r"trainer must be a transformers\.Trainer, got int"):
        TrainerLog(3, every=3)
    assert gnt.plasticity_check.__name__ == "plasticity_check"
