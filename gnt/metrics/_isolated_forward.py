"""A trial: a forward of our own in evaluation mode, of which nothing is left behind in the model or its engines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gnt.units import preserve_model

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """The model's output; inputs are its one argument, a tuple of them, or those with names."""
    args, kwargs = _arguments(inputs)
    return model(*args, **kwargs)


def gradients(model: nn.Module, inputs: Inputs, loss: Any) -> list[Tensor]:
    """Gradients of ``loss(output)`` by all parameters that require them and have a part in it; none is written to
    ``.grad``, and no hook of a parameter is called.
    """
    # in the parameters' place stand aliases of them: what watches the parameters shall not see this backward
    aliases = {
        name: parameter.detach().requires_grad_(parameter.requires_grad) for name, parameter in model.named_parameters()
    }
    args, kwargs = _arguments(inputs)
    with torch.enable_grad():
        value = loss(functional_call(model, aliases, args, kwargs))
        wanted = [alias for alias in aliases.values() if alias.requires_grad]
        if not wanted:
            raise ValueError("no parameter of the model requires a gradient: leave gradient=False")
        found = torch.autograd.grad(value, wanted, allow_unused=True)
    return [each for each in found if each is not None]


@contextlib.contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """In evaluation mode meanwhile; modes, attributes, buffers and random generators are put back at the end.

    No engine records what runs here, and compiled modules run as they are written.
    """
    buffers = [(buffer, buffer._version, buffer.detach().clone()) for buffer in model.buffers()]
    drawn = [device] if device.type == "cuda" else []
    as_written: Any = contextlib.nullcontext()
    if "torch._dynamo" in sys.modules:  # else nothing can be compiled
        as_written = torch.compiler.set_stance("force_eager")
    with preserve_model(model), torch.random.fork_rng(drawn), as_written:
        try:
            model.eval()
            yield
        finally:
            _reshard(model)
            with torch.no_grad():
                for buffer, version, kept in buffers:
                    if buffer._version != version:
                        buffer.copy_(kept)


def _reshard(model: nn.Module) -> None:
    """FSDP2 leaves the root's parameters whole after a forward: their parts must stand there when all is put back."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", ())
    for module in model.modules():
        if isinstance(module, kind):
            module.reshard()


def _arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}
