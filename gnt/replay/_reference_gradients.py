"""Gradients on stored items, which nothing is learned from: all that belongs to the network is left as it was."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gnt._utils.recording_switch import pause_recording
from gnt.units import preserve_attributes

Gradients = list[Tensor | None]  # of each parameter; None: the loss does not depend on it
Loss = Callable[[Tensor, Tensor], Tensor]


class ForwardOf(nn.Module):
    """A function that runs a network, as a module that has the network's parameters."""

    def __init__(self, net: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.net, self.function = net, (function,)  # in a tuple: it may be the network, which would be registered twice

    def forward(self, *inputs: Any) -> Any:
        return self.function[0](*inputs)


def reference_gradients(
    net: nn.Module,
    batches: Iterable[tuple[tuple[Any, ...], Tensor] | None],
    loss: Loss,
    function: Callable[..., Tensor] | None,
) -> list[Gradients]:
    """For each batch the gradients of ``loss(output, y)`` for the parameters of a network that require them.

    No ``.grad`` is written and no hook of a parameter is called. To be called inside of `unlearned`.

    Args:
        net: the network, without wrappers.
        batches: for each batch the arguments of the forward, and targets; None for no gradients. They are taken one
            after the other, so that only one is needed at a time.
        loss: (output, y) -> scalar.
        function: runs the network; None: the network itself.

    Raises:
        ValueError: the loss is not a scalar.
    """
    # aliases of the parameters, so that hooks on the parameters do not see this backward pass
    aliases = {name: p.detach().requires_grad_(p.requires_grad) for name, p in net.named_parameters()}
    trained = [alias for alias in aliases.values() if alias.requires_grad]

    def gradients_of_all() -> list[Gradients]:
        return [[None] * len(trained) if each is None else gradients(*each) for each in batches]

    def gradients(inputs: tuple[Any, ...], y: Tensor) -> Gradients:
        value = loss((net if function is None else function)(*inputs), y)
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must return a scalar tensor, got {got}")
        if not value.requires_grad:
            return [None] * len(trained)
        return list(torch.autograd.grad(value, trained, allow_unused=True))

    prefixed = {f"net.{name}": alias for name, alias in aliases.items()}
    with torch.enable_grad():  # all in one call: setting the parameters costs as much as a small network's forward
        rows: list[Gradients] = functional_call(ForwardOf(net, gradients_of_all), prefixed, ())
    return rows


@contextlib.contextmanager
def unlearned(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a network into evaluation mode; restore modes, buffers, attributes and random generators on exit.

    Inside of this context engines record no features, and compiled modules run uncompiled.
    """
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(buffer, buffer._version, buffer.detach().clone()) for buffer in net.buffers()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(pause_recording())
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if "torch._dynamo" in sys.modules:  # without it nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if device.type == "cuda" and any(isinstance(module, nn.RNNBase) for module, _ in modes):
            # cuDNN has no backward pass of a recurrent layer in evaluation mode
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        try:
            net.eval()
            with preserve_attributes(net):
                yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for buffer, version, saved in buffers:
                    if buffer._version != version:
                        buffer.copy_(saved)
