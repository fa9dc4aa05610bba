"""Forward passes and gradients that leave the model, its engines and the random generators unchanged."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

from gnt.units._tracing.isolation import preserve_model

ModelInputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


def call_model(model: nn.Module, inputs: ModelInputs) -> Any:
    """Return the model's output for one tensor, a tuple of positional arguments or a mapping of keyword arguments."""
    args, kwargs = _arguments(inputs)
    return model(*args, **kwargs)


def map_tensors(inputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to each tensor of one tensor, or of tuples, lists and mappings at any depth.

    Everything else is kept, also packed sequences, of which a part must stay on the CPU.
    """
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: map_tensors(value, function) for name, value in inputs.items()}
    if not isinstance(inputs, (tuple, list)) or isinstance(inputs, PackedSequence):
        return inputs
    mapped = [map_tensors(value, function) for value in inputs]
    if hasattr(inputs, "_fields"):  # a named tuple
        return type(inputs)(*mapped)
    return mapped if isinstance(inputs, list) else tuple(mapped)


def loss_gradients(model: nn.Module, inputs: ModelInputs, loss: Any) -> list[Tensor]:
    """Return the gradients of ``loss(output)`` with respect to the parameters that require them.

    Parameters that the loss does not depend on are left out. Nothing is written to ``.grad``, and no hook of a
    parameter is called.
    """
    # aliases of the parameters, so that hooks on the parameters do not see this backward pass
    aliases = {
        name: parameter.detach().requires_grad_(parameter.requires_grad) for name, parameter in model.named_parameters()
    }
    args, kwargs = _arguments(inputs)
    with torch.enable_grad():
        value = loss(functional_call(model, aliases, args, kwargs))
        trainable = [alias for alias in aliases.values() if alias.requires_grad]
        if not trainable:
            raise ValueError("no parameter of the model requires a gradient: leave gradient=False")
        gradients = torch.autograd.grad(value, trainable, allow_unused=True)
    return [gradient for gradient in gradients if gradient is not None]


@contextlib.contextmanager
def isolated(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put the model into evaluation mode; restore modes, attributes, buffers and global random generators on exit.

    Inside this context engines record no features, and compiled modules run uncompiled.
    """
    numbers, plain = np.random.get_state(), random.getstate()
    buffers = [(buffer, buffer._version, buffer.detach().clone()) for buffer in model.buffers()]
    cuda_devices = [device] if device.type == "cuda" else []
    uncompiled: Any = contextlib.nullcontext()
    if "torch._dynamo" in sys.modules:  # without it nothing can have been compiled
        uncompiled = torch.compiler.set_stance("force_eager")
    with preserve_model(model), torch.random.fork_rng(cuda_devices), uncompiled:
        try:
            model.eval()
            yield
        finally:
            _reshard(model)
            with torch.no_grad():
                for buffer, version, saved in buffers:
                    if buffer._version != version:
                        buffer.copy_(saved)
            np.random.set_state(numbers)
            random.setstate(plain)


def _reshard(model: nn.Module) -> None:
    """Reshard FSDP2 modules.

    FSDP2 leaves the root's parameters unsharded after a forward pass, but restoring attributes needs the shards.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    fsdp_module = getattr(fsdp, "FSDPModule", ())
    for module in model.modules():
        if isinstance(module, fsdp_module):
            module.reshard()


def _arguments(inputs: ModelInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}
