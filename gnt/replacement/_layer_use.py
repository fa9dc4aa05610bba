"""LayerUse: whether the network still runs the layers that a CBP layer was built with.

A CBP layer knows its two layers, not the network around them. If one of them was replaced in the network, a backward
that reaches the units computes the gradient of the other one, and not of the one that was replaced.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gnt._utils.dynamo import not_compiled
from gnt.distributed import dtensor
from gnt.units import UnitGroup


class _Hook:
    """The hook of a weight: notes that a backward has computed its gradient.

    Attributes:
        called: a backward has computed it since the latest step.
    """

    def __init__(self, weight: Tensor) -> None:
        self.start(weight)

    def start(self, weight: Tensor | None) -> None:
        """Forget the backwards so far."""
        self.called = False
        gradient = None if weight is None else weight.grad
        self._before = None if gradient is None else weakref.ref(gradient)

    def has_other(self, gradient: Tensor | None) -> bool:
        """True if the training loop has set the gradient by hand since the latest step."""
        return gradient is not None and (self._before is None or self._before() is not gradient)

    @not_compiled
    def __call__(self, weight: Tensor) -> None:
        self.called = True


class _Watched(NamedTuple):
    """A weight and its hook, which has no reference to the weight or its module."""

    role: str
    module: nn.Module
    weight: weakref.ref[Tensor]
    hook: _Hook


class LayerUse:
    """Notes for which weights of a group a backward has computed gradients since the latest step.

    That is seen by hooks of the weights, in compiled code, too, whatever the training loop does with gradients
    afterwards (clip them, set them to zero or None). Not considered are sharded weights, those that are frozen at a
    forward or at the step, and those that were exchanged since.

    Args:
        group: the units between the two layers.

    Attributes:
        in_compiled_graph: a compiled forward was recorded whose feature was part of an autograd graph.
    """

    def __init__(self, group: UnitGroup) -> None:
        norms = [("norms", slot.module) for slot in group.scales]
        self._layers = [("in_layer", group.producer), *norms, ("out_layer", group.consumers[0])]
        self._start()

    def _start(self) -> None:
        self._watched: list[_Watched] = []
        self._frozen: set[str] = set()
        self.in_compiled_graph = False
        self._handles: list[RemovableHandle] = []
        weakref.finalize(self, _remove, self._handles)

    def watch(self) -> None:
        """Watch the weights as they are now: at the beginning, and after a parameter was exchanged."""
        layers = [(role, module, _trained_weight(module)) for role, module in self._layers]
        found = [(role, module, weight) for role, module, weight in layers if weight is not None]
        if [id(weight) for *_, weight in found] == [id(each.weight()) for each in self._watched]:
            return
        self.remove()
        for role, module, weight in found:
            watched = _Watched(role, module, weakref.ref(weight), _Hook(weight))
            self._handles.append(weight.register_post_accumulate_grad_hook(watched.hook))
            self._watched.append(watched)

    def remove(self) -> None:
        """Remove the hooks."""
        _remove(self._handles)
        self._watched.clear()

    def note_forward(self) -> None:
        """Note which weights are frozen in a forward: its backward computes no gradients of these."""
        for role, _, weight, _ in self._watched:
            if (now := weight()) is not None and not now.requires_grad:
                self._frozen.add(role)

    def forget(self) -> None:
        """Forget the backwards so far, after a step."""
        for each in self._watched:
            each.hook.start(each.weight())
        self._frozen.clear()
        self.in_compiled_graph = False

    def unused(self) -> list[str]:
        """Arguments of the CBP layer whose gradient no backward has computed, if one has computed that of others."""
        for each in self._watched:
            if not each.hook.called:
                break
        else:
            return []
        counted = [each for each in self._watched if each.role not in self._frozen and _is_current(each)]
        without = [each.role for each in counted if not (each.hook.called or each.hook.has_other(_gradient(each)))]
        return list(dict.fromkeys(without)) if len(without) < len(counted) else []

    def __getstate__(self) -> dict[str, Any]:
        return {"_layers": self._layers}  # in a copy `watch` is to be called again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def unused_message(name: str, roles: Sequence[str], *, optimizer_has_stepped: bool) -> str:
    """The error message for layers that took no part.

    Args:
        name: name of the unit group.
        roles: `LayerUse.unused`.
        optimizer_has_stepped: the backward ran inside the optimizer's step.
    """
    changed = "The optimizer has stepped, and no unit was replaced" if optimizer_has_stepped else "Nothing was changed"
    causes, remedies = "or it was run without grad", "freeze a layer that is not trained (requires_grad=False)"
    if "out_layer" in roles:
        causes = "or several layers read the units in turn"
        remedies = "for several readers, such as a head for each task, use gnt.GnT with the groups of gnt.trace"
    return (
        f"{' and '.join(roles)} of {name} took no part in the backward that reached its units: another layer is in "
        f"its place in the network, {causes}. {changed}. After a layer was replaced on purpose call "
        f"rebind({', '.join(f'{role}=...' for role in roles)}) of the CBP layer; {remedies}"
    )


def _trained_weight(module: nn.Module) -> Any:
    weight = module._parameters.get("weight")
    return None if weight is None or not weight.requires_grad or dtensor.is_dtensor(weight) else weight


def _gradient(watched: _Watched) -> Tensor | None:
    weight = watched.weight()
    return None if weight is None else weight.grad


def _is_current(watched: _Watched) -> bool:
    weight = _trained_weight(watched.module)
    return weight is not None and weight is watched.weight()


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
