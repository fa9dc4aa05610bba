"""The output layers of a network, which are new in the copy with a fresh head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gnt.diagnosis._reinitialize import State
from gnt.units import ModelInputs, call_model


def find_head(net: nn.Module, inputs: ModelInputs, head: str | Sequence[str] | None) -> tuple[str, ...]:
    """The paths of the output layers: those given, or the layer with weights that a forward runs last.

    Args:
        net: a copy of the network.
        inputs: the inputs of one forward.
        head: paths of modules with parameters.

    Raises:
        TypeError, ValueError: not paths of modules with parameters.
    """
    modules = dict(net.named_modules())
    if head is not None:
        paths = [head] if isinstance(head, str) else head
        if not isinstance(paths, (list, tuple)) or not paths or not all(isinstance(path, str) for path in paths):
            raise TypeError(f"head must be the path of a layer or a list of them, got {head!r}")
        for path in paths:
            if path not in modules or not list(modules[path].parameters()):
                raise ValueError(f"head must be paths of layers with parameters, got {path!r}")
        return tuple(paths)
    layers = {path: module for path, module in modules.items() if _has_weights(module)}
    run: list[str] = []
    handles = [module.register_forward_hook(lambda *_, path=path: run.append(path)) for path, module in layers.items()]
    try:
        with torch.no_grad():
            call_model(net, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not run and not layers:
        return ()
    return (run[-1] if run else list(layers)[-1],)


def with_head_of(present: State, fresh: State, head: Sequence[str]) -> State:
    """The values ``present``, with those of ``fresh`` in the output layers."""

    def in_head(name: str) -> bool:
        return any(not path or name.startswith(f"{path}.") for path in head)

    return {name: fresh[name] if in_head(name) else each for name, each in present.items()}


def _has_weights(module: nn.Module) -> bool:
    own: Any = module._parameters.values()
    return any(each is not None and each.ndim >= 2 for each in own)
