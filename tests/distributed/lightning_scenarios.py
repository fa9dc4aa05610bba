"""Lightning's DDP with the callbacks of gnt: one process that forks the others, so that Lightning is imported once."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import lightning
import torch

import gnt
from gnt.integrations.lightning import TaskBoundaries
from tests.integrations.lightning_helpers import Regression, cbp, loader, trainer


def fit(folder: Path) -> None:
    """Train on one task; each process gets its part of the batches from Lightning's sampler."""
    module, callback = Regression(), cbp(protect="top:0.3")
    si = gnt.SI(module.net, 1.0)

    class Save(lightning.Callback):
        def on_train_end(self, run: lightning.Trainer, module: lightning.LightningModule) -> None:
            states = [module.net.state_dict(), callback.engine.state_dict(), si.state_dict()]
            torch.save(states, folder / f"rank-{run.global_rank}.pt")

    callbacks = [callback, TaskBoundaries(si), Save()]
    trainer(folder, callbacks, 4, devices=2, strategy="ddp_fork").fit(module, loader())


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # those of Lightning
    torch.set_num_threads(1)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        del os.environ[name]
    to = Path(sys.argv[2])
    torch.save({"fit": fit}[sys.argv[1]](to), to / f"{sys.argv[1]}-0.pt")
    os._exit(0)
