"""What A-GEM and GEM have in common: gradients on stored items, and the place between backward and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.optimizer_attachment import OptimizerAttachment, require_parameters
from gnt.distributed.dtensor import is_dtensor
from gnt.distributed.process_group import check_process_group, resolve_process_group
from gnt.replay._reference_gradients import Gradients, Loss, reference_gradients, unlearned
from gnt.replay.buffer import Samples
from gnt.units import unwrap

SAFE: Final = 2.0**-80
"""Squared lengths above it, and below its inverse, lose nothing that matters in float32."""

_LEAST = 2.0**-126  # its inverse is a float32


class GradientProjection:
    """Base class of methods that project the gradient between backward and step."""

    keeps_samples = True  # task hooks of learners do not copy its state

    def __init__(
        self, net: nn.Module, loss: Loss, forward: Callable[..., Tensor] | None, process_group: Any = None
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if not callable(loss):
            raise TypeError(f"loss must be a function (output, target) -> scalar, got {type(loss).__name__}")
        if forward is not None and not callable(forward):
            raise TypeError(f"forward must be a function (x, task) -> output or None, got {type(forward).__name__}")
        check_process_group(process_group)
        self.net, self.loss, self.forward, self.process_group = net, loss, forward, process_group
        self._parameters()

    def project(self) -> None:
        """Change ``.grad``; called between backward and step."""
        self._project(1.0)

    def _project(self, scale: float) -> None:
        """Change ``.grad``, in which gradients are multiplied by ``scale``."""
        raise NotImplementedError

    def after_backward(self) -> None:
        """`project`."""
        self.project()

    def attach(self, optimizer: Optimizer) -> OptimizerAttachment:
        """Project before each step of an optimizer, in any trainer; state becomes part of its ``state_dict``.

        It projects after everything else that is attached to the optimizer has changed the gradients. Items are still
        to be added by `add`.

        Args:
            optimizer: must have all parameters of the network that require a gradient.

        Returns:
            An object whose ``remove()`` ends this.

        Raises:
            TypeError: not an optimizer.
            ValueError: one that lacks a parameter, or to which this object is attached already.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"attach takes a torch.optim.Optimizer, got {type(optimizer).__name__}")
        named = [(name, p) for name, p in unwrap(self.net).named_parameters() if p.requires_grad]
        require_parameters(optimizer, [p for _, p in named], [name for name, _ in named], type(self).__name__)
        return OptimizerAttachment(self, optimizer, projects=True)

    def before_optimizer_step(self, scale: Tensor | None) -> None:
        """`project`, for an optimizer; ``scale``: by what a GradScaler has multiplied the gradients."""
        self._project(1.0 if scale is None else float(scale))

    def after_optimizer_step(self, skipped: bool) -> None:
        """Nothing is kept from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """The stored items and the task."""
        raise NotImplementedError

    def checked_state(self, state_dict: Any) -> Any:
        """Check a saved state, changing nothing; the result goes to `load_checked_state`."""
        raise NotImplementedError

    def load_checked_state(self, state: Any) -> None:
        """Load a checked state."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`, to continue exactly.

        Raises:
            ValueError: not such a state, or of other sizes. Nothing is changed.
        """
        self.load_checked_state(self.checked_state(state_dict))

    def _parameters(self) -> list[nn.Parameter]:
        """The parameters that require a gradient."""
        parameters = []
        for name, parameter in unwrap(self.net).named_parameters():
            if parameter.is_complex() or is_dtensor(parameter):
                kind = "complex" if parameter.is_complex() else "a DTensor"
                raise TypeError(f"parameter {name} is {kind}; {type(self).__name__} takes real tensors that are whole")
            if parameter.requires_grad:
                parameters.append(parameter)
        if not parameters:
            raise ValueError(f"{type(self).__name__} found no parameter that requires a gradient")
        return parameters

    def _gradients(self, parameters: Sequence[nn.Parameter]) -> Gradients:
        """The current gradients."""
        gradients = [parameter.grad for parameter in parameters]
        if all(gradient is None for gradient in gradients):
            raise RuntimeError("project() needs gradients: call it between loss.backward() and optimizer.step()")
        if any(gradient is not None and gradient.layout is not torch.strided for gradient in gradients):
            raise TypeError(f"{type(self).__name__} takes dense gradients, got a sparse one (sparse=False)")
        return gradients

    def _references(
        self, batches: Iterable[tuple[Samples, Any] | None], parameters: list[nn.Parameter]
    ) -> list[Gradients]:
        """The gradients on each of the batches of items, with their tasks; means over all processes.

        A batch that is None in this process counts as no sample.

        Raises:
            ValueError: items of another dtype than the parameters, which the network does not take.
        """
        net, device, dtype = unwrap(self.net), parameters[0].device, parameters[0].dtype
        present: list[bool] = []
        others: set[torch.dtype] = set()  # of items

        def inputs() -> Iterator[tuple[tuple[Any, ...], Tensor] | None]:
            for batch in batches:
                present.append(batch is not None)
                if batch is None:
                    yield None
                    continue
                (x, y, *_), task = batch
                others.update(each.dtype for each in (x, y) if each.is_floating_point() and each.dtype != dtype)
                task = task.to(device) if isinstance(task, Tensor) else task
                yield (x.to(device),) if self.forward is None else (x.to(device), task), y.to(device)

        with unlearned(net, device):
            try:
                rows = reference_gradients(net, inputs(), self.loss, self.forward)
            except RuntimeError as error:
                if not others or isinstance(error, torch.OutOfMemoryError):
                    raise
                held = ", ".join(sorted(map(str, others)))
                raise ValueError(
                    f"items were stored as {held}, and the network is of {dtype} and does not take them: {error}"
                ) from error
        group = resolve_process_group(self.process_group)
        if group is None:
            return rows
        pairs = zip(rows, present, strict=True)
        return [_mean_over_processes(row, parameters, counts, group) for row, counts in pairs]


def product_of(first: Gradients, second: Gradients) -> Tensor:
    """The product of two gradients, each as one vector; float32 or wider."""
    products = [
        torch.dot(a.reshape(-1).to(accumulated), b.reshape(-1).to(accumulated))
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None and (accumulated := torch.promote_types(a.dtype, torch.float32))
    ]
    if products:
        return torch.stack([each.to(products[0].dtype) for each in products]).sum()
    return next(a for a in first if a is not None).new_zeros(())


def rescale(gradients: Gradients) -> float:
    """Replace gradients by multiples of them, all by one number, so that the largest entry is about 1.

    Then neither products nor squares of entries vanish or overflow in float32. On a CPU the number is a power of 2, and
    nothing is rounded. float16 stays as it is: it has no entries so small or large that it matters. The tensors
    themselves are left alone: autograd gives parameters that are added to each other one gradient.

    Returns:
        The number; 1 on other devices, which are not waited for.
    """
    places = [i for i, g in enumerate(gradients) if g is not None and g.numel() and g.dtype != torch.float16]
    present = [each for each in (gradients[i] for i in places) if each is not None]
    if not present:
        return 1.0
    norms = torch._foreach_norm(present, ord=math.inf)
    largest = torch.stack([each.to(torch.promote_types(each.dtype, torch.float32)) for each in norms]).max()
    on_cpu = largest.device.type == "cpu"
    if on_cpu and not 0.0 < (size := float(largest)) < math.inf:
        return 1.0
    factor = 1.0 / max(2.0 ** math.frexp(size)[1], _LEAST) if on_cpu else 1.0
    scaled = torch._foreach_mul(present, factor if on_cpu else 1.0 / largest.clamp(min=_LEAST))
    for i, each in zip(places, scaled, strict=True):
        gradients[i] = each
    return factor


def _flat(gradients: Gradients, parameters: Sequence[Tensor]) -> Tensor:
    """All gradients in one vector, 0 where there is none; float32 or wider."""
    dtype = torch.float32
    for parameter in parameters:
        dtype = torch.promote_types(dtype, parameter.dtype)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(p.new_zeros(p.shape) if g is None else g).reshape(-1).to(dtype) for g, p in pairs])


def _views(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a vector that belong to each parameter, in their shapes."""
    parts = torch.split(vector, [p.numel() for p in parameters])
    return [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]


def _mean_over_processes(row: Gradients, parameters: Sequence[Tensor], counts: bool, group: Any) -> Gradients:
    """The mean over the processes that have items, a tensor for each parameter that any process has a gradient of."""
    vector = _flat(row, parameters)
    found = vector.new_tensor([float(counts), *(float(gradient is not None) for gradient in row)])
    vector = torch.cat([vector, found])
    dist.all_reduce(vector, group=group)
    vector, found = vector[: -len(found)], vector[-len(found) :]
    numbers = found.tolist()
    means = _views(vector / max(numbers[0], 1.0), parameters)
    return [
        mean.to(p.dtype) if number else None for mean, p, number in zip(means, parameters, numbers[1:], strict=True)
    ]
