"""Concatenated ReLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CReLU(nn.Module):
    """Concatenated ReLU: (relu(x), relu(-x)) concatenated along ``dim``, which doubles the number of features.

    Wherever x is not 0 one of the two outputs is active, so x always receives a gradient. The next layer must read
    twice as many inputs.

    Args:
        dim: dimension of the features: 1 for (batch, features) and (batch, channels, *pixels), -1 for (..., features).

    Shape:
        Input (..., n, ...), output (..., 2n, ...), with n along ``dim``.

    Raises:
        TypeError: ``dim`` is not an integer.

    Sources: Shang et al., ICML 2016 (arXiv 1603.05201); against loss of plasticity: Abbas et al., CoLLAs 2023 (arXiv
    2303.07507).

    >>> import torch, gnt
    >>> gnt.CReLU()(torch.tensor([[1.0, -2.0]]))
    tensor([[1., 0., 0., 2.]])
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), gnt.CReLU(), torch.nn.Linear(16, 1))
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        if not isinstance(dim, int) or isinstance(dim, bool):
            raise TypeError(f"dim must be an integer, got {dim!r}")
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return (relu(x), relu(-x)), concatenated along ``dim``."""
        return torch.cat((x, -x), self.dim).relu_()

    def extra_repr(self) -> str:
        """Return ``dim=...``."""
        return f"dim={self.dim}"
