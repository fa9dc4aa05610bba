"""Lightning's DDP with the callbacks of gnt, on several processes."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import gnt
from gnt.integrations.lightning import TaskBoundaries
from tests.integrations.test_lightning_callbacks import Regression, cbp, loader, trainer


def fit(folder: Path) -> list[Any]:
    """Train on one task; each process gets its part of the batches from Lightning's sampler."""
    module, callback = Regression(), cbp()
    si = gnt.SI(module.net, 1.0)
    callbacks = [callback, TaskBoundaries(si)]
    run = trainer(folder, callbacks, 4, devices=int(os.environ["WORLD_SIZE"]), strategy="ddp")
    run.fit(module, loader())
    return [module.net.state_dict(), callback.engine.state_dict(), si.state_dict()]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # those of Lightning
    torch.set_num_threads(1)
    name, to = sys.argv[1], Path(sys.argv[2])
    torch.save({"fit": fit}[name](to), to / f"{name}-{os.environ['RANK']}.pt")
    os._exit(0)
