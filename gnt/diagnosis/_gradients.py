"""The gradients of a model, which the training of copies must not change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


class Gradients:
    """The gradients that the parameters of a model have now.

    A loss may depend on the model itself, as with a penalty on its weights: then a backward of a copy's loss reaches
    it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept: list[tuple[Tensor, Tensor | None]] = [(each, each.grad) for each in model.parameters()]

    def set_aside(self) -> None:
        """Take them off, so that nothing is added to them."""
        for parameter, _ in self._kept:
            parameter.grad = None

    def of_model(self) -> bool:
        """True if a backward has given parameters of the model gradients since they were set aside."""
        return any(parameter.grad is not None for parameter, _ in self._kept)

    def put_back(self) -> None:
        """Give the parameters the gradients that they had."""
        for parameter, grad in self._kept:
            parameter.grad = grad


@contextlib.contextmanager
def gradients_kept(model: nn.Module) -> Iterator[Gradients]:
    """Set gradients aside, and put them back on exit."""
    gradients = Gradients(model)
    gradients.set_aside()
    try:
        yield gradients
    finally:
        gradients.put_back()
