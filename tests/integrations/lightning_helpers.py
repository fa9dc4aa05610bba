"""What the tests of the callbacks for Lightning have in common: small modules, their data, and quiet trainers."""

from __future__ import annotations

from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from gnt.integrations.lightning import ContinualBackprop
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch, mlp

USUAL_WARNINGS = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]
BATCHES = 6


def loader(task: int = 0) -> DataLoader:
    """The same six batches each time, for each task others."""
    x, y = (torch.cat(part) for part in zip(*(batch(t + 100 * task) for t in range(BATCHES)), strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=8)


class Regression(lightning.LightningModule):
    example_input_array = torch.zeros(2, 4)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = mlp(seed=seed)

    def forward(self, x):
        return self.net(x)

    def training_step(self, pair, index):
        return F.mse_loss(self(pair[0]), pair[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def trainer(root: Any, callbacks: list[Any], epochs: int, **more: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    device = {"accelerator": "cpu", "devices": 1, "default_root_dir": root, "enable_checkpointing": False}
    return lightning.Trainer(max_epochs=epochs, callbacks=callbacks, **{**device, **quiet, **more})


def cbp(**settings: Any) -> ContinualBackprop:
    return ContinualBackprop(generator=torch.Generator().manual_seed(5), **{**FREQUENT_REPLACEMENT, **settings})
