"""The fixed batch of a probe: inputs, targets, and how well the model does on them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt.learners import Loss, find_loss
from gnt.metrics import _validation as checks
from gnt.metrics._isolated_forward import Inputs, gradients
from gnt.metrics.online import online_accuracy
from gnt.metrics.parameters import norm


class Batch(NamedTuple):
    """Inputs and, where they are known, targets with a loss."""

    x: Inputs
    y: Tensor | None
    loss: Loss | None

    @classmethod
    def of(cls, x: Any, y: Any, loss: Any, *, gradient: bool) -> Batch:
        """A copy of what was given, checked.

        Raises:
            TypeError: inputs or targets of the wrong kind.
            ValueError: no samples, not as many targets, an unknown loss, or a setting that needs targets.
        """
        if not isinstance(x, (Tensor, tuple, Mapping)):
            raise TypeError(f"x must be a tensor, a tuple of inputs or a dict of them, got {type(x).__name__}")
        tensors = [x] if isinstance(x, Tensor) else [v for v in _values(x) if isinstance(v, Tensor)]
        if not tensors or not all(tensor.numel() for tensor in tensors):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
            raise ValueError(f"x must hold at least one sample, got {shapes}")
        if y is None:
            for name, given in (("loss", loss), ("gradient", gradient or None)):
                if given is not None:
                    raise ValueError(f"{name}={given!r} would be ignored: there are no targets y")
            return cls(_copied(x), None, None)
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}")
        if isinstance(x, Tensor) and (not y.ndim or len(y) != len(x)):
            raise ValueError(f"y must hold a target for each of the {len(x)} samples of x, got shape {tuple(y.shape)}")
        by_dtype = "mse" if y.is_floating_point() else "cross_entropy"
        return cls(_copied(x), _copy(y), find_loss(by_dtype if loss is None else loss))

    def on(self, device: torch.device) -> Batch:
        """The same on a device."""
        return self._replace(x=_mapped(self.x, device), y=None if self.y is None else self.y.to(device))

    def quality(self, output: Any) -> dict[str, float]:
        """Loss and, where targets are classes, accuracy of the model's output; nothing without targets.

        Raises:
            TypeError: the output is no tensor.
            ValueError: a loss that is not one number, or a target that is no class.
            FloatingPointError: not finite.
        """
        if self.y is None:
            return {}
        if not isinstance(output, Tensor):
            raise TypeError(f"with y the model must return a tensor, got {type(output).__name__}")
        classes = not self.y.is_floating_point() and output.shape[:-1] == self.y.shape and output.shape[-1] > 1
        accuracy = (
            {"accuracy": online_accuracy(output, self.y)} if classes else {}
        )  # asked first: it checks the classes
        return {"loss": float(checks.finite("loss", self._value(output))), **accuracy}

    def gradient_norm(self, model: nn.Module) -> float:
        """Norm of the loss's gradient by the model's parameters."""
        return norm("gradients", gradients(model, self.x, partial(Batch._value, self)))

    def _value(self, output: Any) -> Tensor:
        assert self.loss is not None
        assert self.y is not None
        if self.loss is F.mse_loss and output.shape != self.y.shape:
            raise ValueError(  # torch would broadcast them
                f"y must have the shape of the output for mse, got {tuple(self.y.shape)} and {tuple(output.shape)}"
            )
        value: Any = self.loss(output, self.y)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must return one number for the batch, as a tensor, got {got}")
        return value.reshape(())


def _values(x: tuple[Any, ...] | Mapping[str, Any]) -> list[Any]:
    return list(x.values()) if isinstance(x, Mapping) else list(x)


def _copied(x: Inputs) -> Inputs:
    return _each(x, _copy)


@torch.inference_mode(mode=False)  # autograd refuses copies that are made in inference mode
def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _mapped(x: Inputs, device: torch.device) -> Inputs:
    return _each(x, lambda tensor: tensor.to(device))


def _each(x: Inputs, change: Any) -> Inputs:
    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) else value

    if isinstance(x, Mapping):
        return {name: changed(value) for name, value in x.items()}
    return tuple(changed(value) for value in x) if isinstance(x, tuple) else changed(x)
