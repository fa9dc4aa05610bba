"""Checks that a step can be compiled: whatever a graph would leave out is refused, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gnt.distributed import dtensor
from gnt.distributed.process_group import resolve_process_group
from gnt.importance import is_recording_hook
from gnt.learners._compile.functional_update import FunctionalUpdate
from gnt.learners._compile.tensor_slots import TensorSlots
from gnt.learners._training_step import TrainingStep
from gnt.replacement import CBPLayer
from gnt.units import unwrap

_ADVICE = "or leave compile=False"


def tensor_slots_of(step: TrainingStep, update: FunctionalUpdate | None) -> TensorSlots:
    """The slots of all tensors that a step reads: of the network, of its loss, and of the engine's groups."""
    modules = [*step.network.modules()]
    if isinstance(step.loss, nn.Module):
        modules += step.loss.modules()
    if update is not None:
        for group in update.engine.groups:
            modules += [slot.module for slot in (*group.incoming, *group.scales, *group.outgoing)]
    slots = TensorSlots(modules)
    if update is not None:
        update.add_slots(slots)
    return slots


def check_compilable(step: TrainingStep, modules: Sequence[nn.Module]) -> None:
    """Refuse a step of which a graph would leave something out.

    Raises:
        TypeError: a wrapper or a layer that cannot be compiled.
        RuntimeError: hooks, sharded parameters, sparse gradients, or several processes.
    """
    if step.engine is not None and resolve_process_group(step.engine.process_group) is not None:
        raise RuntimeError(
            "compile=True is for one process, and torch.distributed runs several: leave compile=False or, if each "
            "process trains a network of its own, pass process_group=False"
        )
    inner = unwrap(step.network)
    for module in step.network.modules():
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            raise TypeError(f"compile=True does not compile {type(module).__name__}: pass the inner network, {_ADVICE}")
        if module is inner:
            break
    layer = next((type(module).__name__ for module in modules if isinstance(module, CBPLayer)), None)
    if layer is not None:
        raise TypeError(
            f"compile=True does not compile {layer}, which replaces units in hooks of the optimizer: use "
            f"ContinualBackprop on a network without it, {_ADVICE}"
        )
    for module in modules:
        hooks = [*module._forward_hooks.values(), *module._backward_hooks.values()]
        hooks += [hook for hook in module._forward_pre_hooks.values() if not is_recording_hook(hook)]
        if hooks:
            raise RuntimeError(
                f"compile=True would not call the hook {_name(hooks[0])} of {type(module).__name__}: remove it, "
                f"{_ADVICE}"
            )
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse:
            raise RuntimeError(
                "compile=True does not compile sparse gradients, such as those of "
                f"{type(module).__name__}(sparse=True): build it with sparse=False, {_ADVICE}"
            )
        for name, param in module._parameters.items():
            if param is not None and dtensor.is_dtensor(param):
                raise RuntimeError(
                    f"compile=True does not compile sharded parameters such as {name} of {type(module).__name__}: "
                    "leave compile=False"
                )


def _name(hook: object) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)
