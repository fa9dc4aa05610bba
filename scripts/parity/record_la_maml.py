"""Record runs of the authors' La-MAML, which tests/golden/test_la_maml_parity.py replays.

    git clone https://github.com/montrealrobotics/La-MAML && git -C La-MAML checkout cff3524
    pip install torch==2.13.0 numpy
    python scripts/parity/record_la_maml.py La-MAML

Writes tests/golden/memory/la_maml.npz, from fixed seeds, in float64. Run as it is (model/lamaml.py) but for

- the order of samples and the drawn items, which are given;
- the mode: rates stay above 0, where its maximum with 0 in the inner steps makes no difference.

Its limit of single entries of the inner gradients has no effect: the result of torch.clamp is not used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILE = Path(__file__).resolve().parents[2] / "tests" / "golden" / "memory" / "la_maml.npz"
INPUTS, HIDDEN, CLASSES, BATCH, DRAWN, STEPS = 5, 7, 3, 6, 4, 6
SETTINGS = {"alpha_init": 0.125, "opt_lr": 0.02}
RUNS = {"first": (False, 1e9), "second": (True, 1e9), "limited": (True, 0.1)}  # (second order, limit of norms)


def flat(tensors: Any) -> Tensor:
    """All tensors in one vector."""
    return torch.cat([each.detach().flatten() for each in tensors]).clone()


def run(second_order: bool, limit: float) -> dict[str, Tensor]:
    """Train the authors' network."""
    from model.lamaml import Net  # type: ignore[import-not-found]

    args = SimpleNamespace(
        n_layers=2,
        n_hiddens=HIDDEN,
        arch="linear",
        dataset="mnist",
        xav_init=False,
        cuda=False,
        opt_wt=0.1,
        glances=1,
        memories=1,
        replay_batch_size=1,
        use_old_task_memory=False,
        **{"learn_lr": True, "sync_update": False, "second_order": second_order, "grad_clip_norm": limit, **SETTINGS},
    )
    torch.manual_seed(0)
    net = Net(INPUTS, CLASSES, 1, args)
    net.net.double()
    found: dict[str, list[Tensor]] = {name: [] for name in ("x", "y", "drawn_x", "drawn_y", "weights", "rates")}
    found["weights"].append(flat(net.net.vars))
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(BATCH + DRAWN, INPUTS, dtype=torch.float64, generator=generator)
        y = torch.randint(CLASSES, (BATCH + DRAWN,), generator=generator)
        net.getBatch = lambda *_, batch=(x, y, None): batch
        drawing, torch.randperm = torch.randperm, torch.arange  # type: ignore[assignment]
        net.observe(x[:BATCH], y[:BATCH], 0)
        torch.randperm = drawing
        for name, value in zip(found, (x[:BATCH], y[:BATCH], x[BATCH:], y[BATCH:]), strict=False):
            found[name].append(value)
        found["weights"].append(flat(net.net.vars))
        found["rates"].append(flat(net.net.alpha_lr))
    assert min(rates.min() for rates in found["rates"]) > 0
    return {name: torch.stack(values) for name, values in found.items()}


def main() -> None:
    """Record all runs."""
    sys.path.insert(0, sys.argv[1])
    for name in ("ipdb", "scipy", "scipy.stats"):  # imported there and not used
        sys.modules[name] = ModuleType(name)
    sys.modules["scipy.stats"].pearsonr = None  # type: ignore[attr-defined]
    arrays = {f"{name}/{key}": value.numpy() for name, each in RUNS.items() for key, value in run(*each).items()}
    meta = {**SETTINGS, "hidden": HIDDEN, "torch": torch.__version__, "commit": "cff3524", "runs": RUNS}
    np.savez_compressed(FILE, meta=np.array(json.dumps(meta)), **arrays)


if __name__ == "__main__":
    main()
