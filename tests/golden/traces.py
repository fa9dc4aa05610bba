"""Golden traces: recorded runs of the published implementation (see tests/golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))


class Trace:
    """One recorded run: arrays by name, `trace["loss"]`, and settings by attribute, `trace.maturity`."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            self._arrays = {key: file[key] for key in file.files}
        self.meta: dict[str, Any] = json.loads(str(self._arrays.pop("meta")))
        self.checkpoints: dict[int, int] = {int(t): row for row, t in enumerate(self["ckpt/step"])}

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["meta"][key]
        except KeyError:
            raise AttributeError(f"the trace has no setting {key!r}") from None

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays named ``prefix/...``, by the rest of their names."""
        return {k[len(prefix) + 1 :]: v for k, v in self._arrays.items() if k.startswith(prefix + "/")}

    def batch(self, t: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Inputs and targets of step t."""
        y = torch.from_numpy(self["y"][t])
        return torch.from_numpy(self["x"][t]).to(dtype), y.long() if self.loss == "nll" else y.to(dtype)

    def replaced(self, t: int, layer: int) -> dict[int, np.ndarray]:
        """The units replaced in step t with their new incoming weights, in the order of the draws."""
        rows = np.flatnonzero((self["rep/step"] == t) & (self["rep/layer"] == layer))
        return {int(self["rep/unit"][i]): self[f"rep/w/L{layer}"][self["rep/row"][i]] for i in rows}

    def draw(self, t: int, layer: int) -> float | None:
        """The uniform number drawn in step t for a layer, or None if none was drawn."""
        if "rand/step" not in self._arrays:
            return None
        rows = np.flatnonzero((self["rand/step"] == t) & (self["rand/layer"] == layer))
        return float(self["rand/value"][rows[0]]) if len(rows) else None
