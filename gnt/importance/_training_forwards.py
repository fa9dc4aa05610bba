"""Which forwards are training forwards, and which of their features a backward of the training loss has reached.

Only forwards of the step's own training graph count. Not recorded are forwards inside transforms of `torch.func`, with
tangents of forward-mode AD, on fake tensors, and with other parameters than the network's own
(`torch.func.functional_call`, target networks of TorchRL). Recorded, but left out of the update, are forwards that no
training backward reaches: those that failed half way, and those whose output was differentiated with respect to inputs
only (`torch.autograd.grad(output, x)`, `torch.autograd.functional`).
"""

from __future__ import annotations

import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.autograd.graph import get_gradient_edge
from torch.nn.utils import stateless

from gnt.distributed import dtensor

unpack_dual: Callable[[Tensor], Any] = forward_ad.unpack_dual
_FUNCTIONAL_CALL = stateless._functional_call.__code__


class OwnWeights:
    """The weights that a forward must use so that its features are those of the network.

    Args:
        modules: the consumer that reads the features, and the producers of the units.

    Attributes:
        consumer: the weight that reads the features.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._weights = [(module._parameters, module._parameters.get("weight")) for module in modules]
        self.consumer: Tensor | None = self._weights[0][1]

    @property
    def all(self) -> list[Tensor]:
        """The weights that require gradients."""
        return [weight for _, weight in self._weights if weight is not None and weight.requires_grad]

    @property
    def are_frozen(self) -> bool:
        """True if no weight requires a gradient; False if a module has none, or computes it from others."""
        return all(weight is not None and not weight.requires_grad for _, weight in self._weights)

    def of_same_modules(self, other: OwnWeights) -> bool:
        """True if both are the weights of the same modules."""
        pairs = zip(self._weights, other._weights, strict=False)
        return len(self._weights) == len(other._weights) and all(mine is theirs for (mine, _), (theirs, _) in pairs)

    def are_used_by(self, feature: Tensor) -> bool:
        """False for a forward whose features are no samples; ``feature`` is what the consumer reads in it."""
        if maybe_current_level() is not None:  # inside a transform of torch.func
            return False
        if forward_ad._current_level >= 0 and unpack_dual(feature).tangent is not None:
            return False
        for module, (parameters, weight) in zip(self._modules, self._weights, strict=True):
            if parameters.get("weight") is not weight:
                # TorchRL puts the parameters of a target network, or detached ones, into the modules for a forward
                now = getattr(module, "weight", None)
                swapped = isinstance(now, Tensor) and not now.requires_grad
                # a fake weight is that of a forward that was captured
                trained = weight is not None and weight.requires_grad and not _is_fake(weight)
                if (swapped and trained) or _in_functional_call():
                    return False
                self._weights = [(parameters, parameters.get("weight")) for parameters, _ in self._weights]
                self.consumer = self._weights[0][1]
                break
        return feature.__class__ is Tensor or not _is_fake(feature) or _is_fake(self.consumer)


def _in_functional_call() -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _FUNCTIONAL_CALL:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_fake(tensor: Tensor | None) -> bool:
    fake_tensors = sys.modules.get("torch._subclasses.fake_tensor")  # without it there are none
    return fake_tensors is not None and isinstance(tensor, fake_tensors.FakeTensor)


# with its version; by a weak reference, because a new gradient may be at the address of one that was dropped
Gradient = tuple[weakref.ref[Tensor], int]


class PastBackward:
    """The mark of a feature whose backward has run where no mark could see it, as in a compiled graph.

    Attributes:
        trained, probed, gradient: those of `BackwardMark`.
    """

    trained, probed = True, False

    def __init__(self, gradient: Tensor | None) -> None:
        self.gradient = gradient


class BackwardMark:
    """Marks whether a backward of the training loss has reached the feature of one forward.

    A backward is one of the training loss if it also computes the gradient of a weight that reads or produces the
    feature. The usual sign is that the ``grad`` of the consumer's weight has changed since the forward; if it has not,
    autograd is asked.

    With ``keeps_gradient`` the gradient of the loss with respect to what the consumer reads is kept: summed over all
    backwards of the loss (but not of those with respect to inputs only), and over all consumers that read the feature.

    Attributes:
        trained: such a backward has reached the feature.
        probed: a backward with respect to inputs only has reached it before.
        gradient: the gradient of the loss so far, if it is kept.
    """

    __slots__ = ("_before", "_further", "_keeps_gradient", "_own", "gradient", "probed", "trained")

    def __init__(self, feature: Tensor, own: OwnWeights, keeps_gradient: bool = False) -> None:
        self.trained = self.probed = False
        self.gradient: Tensor | None = None
        self._keeps_gradient, self._own = keeps_gradient, own
        self._further: list[tuple[OwnWeights, Gradient | None]] | None = None
        weight = own.consumer
        grad = None if weight is None else weight.grad
        self._before: Gradient | None = None if grad is None else (weakref.ref(grad), grad._version)
        node = feature.grad_fn
        if node is None or feature._backward_hooks is not None:
            self._register(feature)
        else:  # as Tensor.register_hook does, in a fifth of the time
            feature._backward_hooks = OrderedDict({-1: self})
            node._register_hook_dict(feature)

    def _register(self, feature: Tensor) -> None:
        register: Callable[..., Any] = feature.register_hook
        register(self)

    def add_reader(self, own: OwnWeights, view: Tensor | None = None) -> None:
        """Note that a further consumer reads the same value.

        Args:
            own: the weights of this consumer and of the producers.
            view: the view of the value that this consumer reads, if gradients are kept.
        """
        if own is not self._own and own not in self._all_own:
            self._further = [*(self._further or ()), (own, _gradient_of(own.consumer))]
            if view is not None:
                self._register(view)

    @property
    def _all_own(self) -> list[OwnWeights]:
        return [self._own, *(own for own, _ in self._further or ())]

    def __call__(self, gradient: Tensor) -> None:
        """The hook of the feature, called when its gradient has arrived."""
        if self._keeps_gradient:
            self._keep(gradient)
        elif not self.trained:
            weight = self._own.consumer
            grad = None if weight is None else weight.grad
            before = self._before
            if grad is not None and (before is None or before[0]() is not grad or before[1] != grad._version):
                self.trained = True
            else:
                self._ask()

    def _keep(self, gradient: Tensor) -> None:
        # asked for each backward, because not all of them may be backwards of the loss
        if any(_computes_gradients(own.all) for own in self._all_own):
            self.trained = True
            gradient = gradient.detach()
            self.gradient = gradient if self.gradient is None else self.gradient + gradient
        else:
            self.probed = self.probed or not self.trained

    def _ask(self) -> None:
        """Look at the further readers, then ask autograd."""
        self.trained = any(_has_new_gradient(own.consumer, before) for own, before in self._further or ()) or any(
            _computes_gradients(own.all) for own in self._all_own
        )
        self.probed = self.probed or not self.trained


def _gradient_of(weight: Tensor | None) -> Gradient | None:
    grad = None if weight is None else weight.grad
    return None if grad is None else (weakref.ref(grad), grad._version)


def _has_new_gradient(weight: Tensor | None, before: Gradient | None) -> bool:
    grad = None if weight is None else weight.grad
    return grad is not None and (before is None or before[0]() is not grad or before[1] != grad._version)


def _computes_gradients(weights: Sequence[Tensor]) -> bool:
    """True if the running backward computes the gradient of one of the weights, or if this cannot be found out."""
    if not weights or any(dtensor.is_dtensor(weight) for weight in weights):
        return True
    try:
        return any(torch._C._will_engine_execute_node(get_gradient_edge(weight).node) for weight in weights)
    except RuntimeError:  # torch.autograd.grad with respect to a weight
        return True
