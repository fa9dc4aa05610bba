"""Progressive networks: a new column for each task, which reads the hidden layers of earlier, frozen columns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from gnt._utils.validation import check_positive
from gnt.names import Adapter

ADAPTERS = get_args(Adapter)


class ProgressiveNet(nn.Module):
    """Multilayer perceptrons (columns), one for each task, whose layers also read the layers before in earlier columns.

        h_i^(k) = f(W_i^(k) h_{i-1}^(k) + b_i^(k) + sum over j < k of U_i^(k:j) h_{i-1}^(j))     Eq. 1, "linear"
        h_i^(k) = f(W_i^(k) h_{i-1}^(k) + b_i^(k) + U_i^(k) f(V_i^(k) (a * h_{i-1}^(<k))))     Eq. 2, "nonlinear"

    for i >= 2, the output layer (without f) included; the first layer reads the input only. W and U are columns of one
    weight, so that an engine can replace units of the newest column. The factors a, one for each
    earlier column, are learned and begin at 0.1. `add_column` freezes all columns before with their adapters:
    their outputs stay equal bit for bit, whatever is trained later.

    The network grows quadratically with the number of tasks. The task is needed in evaluation.

    Args:
        in_features: number of inputs.
        hidden: numbers of units of the hidden layers, at least one.
        activation: makes the module f of each layer.
        adapter: "linear" or "nonlinear", as above.

    Raises:
        ValueError: a number that is not an integer >= 1, no hidden layer, or an unknown adapter.

    Shape:
        ``net(x, task)``: (..., in_features) -> (..., outputs of the column).

    Source: Rusu et al., arXiv 1606.04671.

    >>> import torch, gnt
    >>> net, x = gnt.ProgressiveNet(4, [16, 16]), torch.randn(8, 4)
    >>> first = net.add_column(2)
    >>> before = net(x)
    >>> second = net.add_column(3)
    >>> net(x).shape, torch.equal(net(x, 0), before)
    (torch.Size([8, 3]), True)
    >>> optimizer = torch.optim.Adam(second.parameters())
    >>> engine = gnt.GnT(gnt.trace(net, x, include=net.newest), optimizer).attach()
    >>> [group.name for group in engine.groups]
    ['columns.1.layers.0', 'columns.1.layers.1']
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        adapter: Adapter = "linear",
    ) -> None:
        super().__init__()
        if isinstance(hidden, str) or not isinstance(hidden, Sequence) or not hidden:
            raise ValueError(f"hidden must be a list with the number of units of each hidden layer, got {hidden!r}")
        check_positive(in_features=in_features, **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        if adapter not in ADAPTERS:
            raise ValueError(f"adapter must be one of {', '.join(ADAPTERS)}, got {adapter!r}")
        if isinstance(activation, nn.Module) or not callable(activation):
            raise TypeError(
                f"activation must be a function that makes a module, such as torch.nn.ReLU, got {activation!r:.60}"
            )
        self.widths, self.activation, self.adapter = (in_features, *hidden), activation, adapter
        self.columns = nn.ModuleList()

    @property
    def newest(self) -> str:
        """The name of the newest column, for ``gnt.trace(net, x, include=net.newest)``."""
        return f"columns.{len(self.columns) - 1}"

    def add_column(self, outputs: int) -> nn.Module:
        """Freeze all columns, add one on their device, and return it; its parameters are those to train.

        Raises:
            ValueError: ``outputs`` is not an integer >= 1.
        """
        check_positive(outputs=outputs)
        new = _Column((*self.widths, outputs), len(self.columns), self.activation, self.adapter)
        like = next(self.parameters(), None)
        if like is not None:
            new.to(like.device, like.dtype)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self.columns.append(new)
        self.train(self.training)
        return new

    def train(self, mode: bool = True) -> ProgressiveNet:
        """Set the mode of the newest column; frozen columns stay in evaluation mode."""
        super().train(mode)
        for column in list(self.columns)[:-1]:
            column.eval()
        return self

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        """Return the outputs of a column; None: the newest one.

        Raises:
            ValueError: there is no such column.
            RuntimeError: there is no column yet.
        """
        if not len(self.columns):
            raise RuntimeError("there is no column yet: call add_column(outputs), one for each task")
        last = len(self.columns) - 1 if task is None else task
        if isinstance(last, bool) or not isinstance(last, int) or not 0 <= last < len(self.columns):
            raise ValueError(f"task must be the number of a column, 0..{len(self.columns) - 1}, or None, got {task!r}")
        hidden: list[list[Tensor]] = []
        for number, column in enumerate(self.columns):
            if number == last:
                break
            hidden.append(column.hidden(x, hidden))  # type: ignore[operator]
        output: Tensor = self.columns[last](x, hidden)
        return output


class _Column(nn.Module):
    """One column. ``widths`` are the numbers of inputs, of units, and of outputs.

    The weight of a layer holds W in its first columns, and U in those behind.
    """

    def __init__(self, widths: Sequence[int], earlier: int, activation: Callable[[], nn.Module], adapter: str) -> None:
        super().__init__()
        nonlinear = adapter == "nonlinear" and earlier > 0
        further = 1 if nonlinear else earlier
        pairs = list(itertools.pairwise(widths))
        self.layers = nn.ModuleList(nn.Linear(a * (1 + further) if i else a, b) for i, (a, b) in enumerate(pairs))
        self.activations = nn.ModuleList(activation() for _ in pairs[:-1])
        self.adapters = nn.ModuleList(_Adapter(a, earlier, activation) for a, _ in pairs[1:] if nonlinear)

    def hidden(self, x: Tensor, earlier: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The features of each hidden layer."""
        features: list[Tensor] = []
        for number, activation in enumerate(self.activations):
            x = activation(self._layer(number, x, earlier))
            features.append(x)
        return features

    def forward(self, x: Tensor, earlier: Sequence[Sequence[Tensor]]) -> Tensor:
        return self._layer(len(self.layers) - 1, self.hidden(x, earlier)[-1], earlier)

    def _layer(self, number: int, x: Tensor, earlier: Sequence[Sequence[Tensor]]) -> Tensor:
        if number and earlier:
            lateral = [features[number - 1] for features in earlier]
            read = [self.adapters[number - 1](lateral)] if len(self.adapters) else lateral
            x = torch.cat([x, *read], -1)
        total: Tensor = self.layers[number](x)
        return total


class _Adapter(nn.Module):
    """f(V (a * h)) of the features h of earlier columns."""

    def __init__(self, width: int, earlier: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.full((earlier,), 0.1))
        self.project = nn.Linear(width * earlier, width)
        self.activation = activation()

    def forward(self, earlier: Sequence[Tensor]) -> Tensor:
        scaled = torch.cat([self.factors[i] * each for i, each in enumerate(earlier)], -1)
        read: Tensor = self.activation(self.project(scaled))
        return read
