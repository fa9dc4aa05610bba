"""The fixed batch of a probe, and the model's loss and accuracy on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt.learners import Loss, find_loss
from gnt.metrics._validation import check_finite
from gnt.metrics.online import online_accuracy
from gnt.metrics.parameters import euclidean_norm
from gnt.names import LossName
from gnt.units import ModelInputs, loss_gradients, map_tensors


class ProbeBatch(NamedTuple):
    """Inputs and, optionally, targets with a loss."""

    inputs: ModelInputs
    targets: Tensor | None
    loss: Loss | None

    @classmethod
    def from_arguments(cls, x: Any, y: Any, loss: Any, *, gradient: bool) -> ProbeBatch:
        """Check the arguments of `Probe` and copy the tensors.

        Raises:
            TypeError: inputs or targets of the wrong type.
            ValueError: no samples, a different number of targets, an unknown loss, or a setting that needs targets.
        """
        if not isinstance(x, (Tensor, tuple, Mapping)):
            raise TypeError(f"x must be a tensor, a tuple of inputs or a dict of them, got {type(x).__name__}")
        values = [x] if isinstance(x, Tensor) else x.values() if isinstance(x, Mapping) else x
        tensors = [value for value in values if isinstance(value, Tensor)]
        if any(not tensor.ndim for tensor in tensors[:1]):
            raise ValueError(f"x must have a dimension of samples, got shape {tuple(tensors[0].shape)}")
        if not tensors or not all(tensor.numel() for tensor in tensors):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
            raise ValueError(f"x must hold at least one sample, got {shapes}")
        if y is None:
            for name, given in (("loss", loss), ("gradient", gradient or None)):
                if given is not None:
                    raise ValueError(f"{name}={given!r} would be ignored: there are no targets y")
            return cls(map_tensors(x, _copy), None, None)
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}")
        if isinstance(x, Tensor) and (not y.ndim or len(y) != len(x)):
            raise ValueError(f"y must hold a target for each of the {len(x)} samples of x, got shape {tuple(y.shape)}")
        default_loss: LossName = "mse" if y.is_floating_point() else "cross_entropy"
        return cls(map_tensors(x, _copy), _copy(y), find_loss(default_loss if loss is None else loss))

    def to(self, device: torch.device) -> ProbeBatch:
        """Return the batch on ``device``."""
        inputs = map_tensors(self.inputs, lambda tensor: tensor.to(device))
        return self._replace(inputs=inputs, targets=None if self.targets is None else self.targets.to(device))

    def output_metrics(self, output: Any) -> dict[str, float]:
        """Return the loss and, if the targets are classes, the accuracy of the model's output; {} without targets.

        Raises:
            TypeError: the output is not a tensor.
            ValueError: a loss that is not a scalar, or a target that is not a class.
            FloatingPointError: NaN or infinite values.
        """
        if self.targets is None:
            return {}
        if not isinstance(output, Tensor):
            raise TypeError(f"with y the model must return a tensor, got {type(output).__name__}")
        of_classes = (
            not self.targets.is_floating_point() and _classes_are_last(output, self.targets) and output.shape[-1] > 1
        )
        # before the loss, since it checks the range of the classes
        accuracy = {"accuracy": online_accuracy(output, self.targets)} if of_classes else {}
        return {"loss": float(check_finite("loss", self.loss_value(output))), **accuracy}

    def gradient_norm(self, model: nn.Module) -> float:
        """Norm of the gradient of the loss with respect to the model's parameters."""
        return euclidean_norm("gradients", loss_gradients(model, self.inputs, self.loss_value))

    def loss_value(self, output: Any) -> Tensor:
        """Return the loss of the model's output as a tensor without dimensions."""
        assert self.loss is not None
        assert self.targets is not None
        if self.loss is F.mse_loss and output.shape != self.targets.shape:
            raise ValueError(  # torch would broadcast them
                f"y must have the shape of the output for mse, got {tuple(self.targets.shape)} and "
                f"{tuple(output.shape)}"
            )
        targets = self.targets
        if (
            self.loss is F.cross_entropy
            and isinstance(output, Tensor)
            and output.ndim > 2
            and _classes_are_last(output, targets)
        ):
            output, targets = output.flatten(0, -2), targets.flatten()  # sequences: classes are last, as in accuracy
        value: Any = self.loss(output, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must return one number for the batch, as a tensor, got {got}")
        return value.reshape(())


def _classes_are_last(output: Tensor, targets: Tensor) -> bool:
    """Whether an output has a row of classes for each target; of images of as many rows, columns and classes torch's
    layout is taken, (samples, classes, rows, columns).
    """
    fits_torch = output.ndim > 3 and output.shape[:1] + output.shape[2:] == targets.shape
    return output.shape[:-1] == targets.shape and not fits_torch


@torch.inference_mode(mode=False)  # autograd does not accept tensors created in inference mode
def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
