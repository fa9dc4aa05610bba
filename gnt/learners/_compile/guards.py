"""Admission: what of a learner a graph would leave out is refused, with the reason, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from gnt.distributed import _dtensor as shards
from gnt.importance._recorder import Recorder
from gnt.learners._compile.functional_optimizers import rule_of
from gnt.learners._compile.tensor_slots import Sites
from gnt.replacement.layers import CBPLayer
from gnt.units import unwrap

if TYPE_CHECKING:
    from gnt.learners._compile.functional_update import Watch
    from gnt.learners.backprop import Backprop

_ADVICE = "or leave compile=False"


def sites_of(learner: Backprop, watch: Watch | None) -> Sites:
    """Where all tensors hang that a step reads: of the network, its loss, and the engine's groups."""
    modules = [*learner.net.modules()]
    if isinstance(learner.loss, nn.Module):
        modules += learner.loss.modules()
    if watch is not None:
        for group in watch.engine.groups:
            modules += [slot.module for slot in (*group.incoming, *group.scales, *group.outgoing)]
    sites = Sites(modules)
    if watch is not None:
        watch.add_sites(sites)
    return sites


def check(learner: Backprop, modules: Sequence[nn.Module], watch: Watch | None) -> None:
    """Refuse what would be left out.

    Raises:
        TypeError: an optimizer, a wrapper or a layer that cannot be compiled.
        RuntimeError: hooks, tensors in shards, or several processes.
    """
    rule_of(learner.opt)
    if watch is not None:
        watch.check()
    inside = unwrap(learner.net)
    for module in learner.net.modules():
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            raise TypeError(
                f"compile=True does not compile {type(module).__name__}: give the network inside, {_ADVICE}"
            )
        if module is inside:
            break
    layer = next((type(module).__name__ for module in modules if isinstance(module, CBPLayer)), None)
    if layer is not None:
        raise TypeError(
            f"compile=True does not compile {layer}, which acts after the optimizer's step by itself: use "
            f"ContinualBackprop on a network without it, {_ADVICE}"
        )
    for module in modules:
        hooks = [*module._forward_hooks.values(), *module._backward_hooks.values()]
        hooks += [hook for hook in module._forward_pre_hooks.values() if not Recorder.owns(hook)]
        if hooks:
            raise RuntimeError(
                f"compile=True would not call the hook {_name(hooks[0])} of {type(module).__name__}: remove it, "
                f"{_ADVICE}"
            )
        for name, param in module._parameters.items():
            if param is None:
                continue
            if shards.is_sharded(param):
                raise RuntimeError(
                    f"compile=True does not compile {name} of {type(module).__name__}, in shards: {_ADVICE[3:]}"
                )
            if param._backward_hooks or getattr(param, "_post_accumulate_grad_hooks", None):
                raise RuntimeError(
                    f"compile=True would not call the hooks on {name} of {type(module).__name__}: remove them, "
                    f"{_ADVICE}"
                )


def _name(hook: object) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)
