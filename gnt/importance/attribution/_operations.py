"""Which operations lie between what consumers read and the output, and what a method does at each activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gnt.units import identify_activation

# linear in the features (with a constant added, for some) if only one argument depends on them
_LINEAR = frozenset({
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "matmul", "mm",
    "bmm", "addmm", "baddbmm", "einsum", "mv", "__matmul__", "__rmatmul__", "mul", "multiply", "__mul__", "__rmul__",
    "__imul__",
})  # fmt: skip
# linear in all tensor arguments together
_ADDITIVE = frozenset({
    "add", "__add__", "__radd__", "__iadd__", "sub", "subtract", "__sub__", "__rsub__", "__isub__", "rsub", "neg",
    "negative", "__neg__", "mean", "sum", "cumsum", "cat", "concat", "concatenate", "stack", "hstack", "vstack",
    "flatten", "reshape", "reshape_as", "view", "view_as", "unflatten", "permute", "transpose", "t", "mT", "T",
    "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to",
    "repeat", "repeat_interleave", "tile", "contiguous", "clone", "to", "float", "double", "type", "type_as",
    "__getitem__", "index_select", "narrow", "select", "split", "tensor_split", "chunk", "unbind", "__iter__", "roll",
    "flip", "pad", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "pixel_shuffle", "pixel_unshuffle", "fold", "unfold", "alias", "identity",
})  # fmt: skip
_DIVISIONS = frozenset({"div", "divide", "true_divide", "__truediv__", "__itruediv__"})  # linear in the numerator
# linear in evaluation mode, with the name of the flag and its position
_IN_EVALUATION = {
    "batch_norm": ("training", 5), "dropout": ("training", 2), "dropout1d": ("training", 2),
    "dropout2d": ("training", 2), "dropout3d": ("training", 2), "alpha_dropout": ("training", 2),
    "feature_alpha_dropout": ("training", 2), "feature_dropout": ("train", 2),
}  # fmt: skip
_MAXIMA = frozenset(f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))
_PROPERTIES = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty"}
)

# max(0, a z) = a max(0, z) for a > 0: z * f'(z) = f(z)
HOMOGENEOUS = frozenset({"relu", "leaky_relu", "rrelu", "prelu", "identity"})


class OperationCheck(TorchFunctionMode):
    """Runs a forward in which only linear operations and activations follow what consumers read.

    Args:
        method: name of the attribution, for messages.

    Raises:
        ValueError: another operation takes a tensor that requires gradients.
    """

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method
        self._made: dict[int, Tensor] = {}  # results of operations that were seen

    def activation(self, name: str, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Any) -> Tensor:
        """The result of an elementwise activation, or another refusal."""
        raise NotImplementedError

    def maximum(self, name: str, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Any) -> Tensor:
        """The result of a max pooling, or another refusal."""
        return function(*args, **kwargs)

    def refuse(self, what: str) -> ValueError:
        """The error for an operation that the method cannot pass."""
        return ValueError(
            f"{self._method} has no rule for {what}, which lies between units and output: choose another method, such "
            "as 'gradient_activation' or 'conductance'"
        )

    def check_seen(self, output: Any) -> None:
        """Refuse an output that was made by an operation that could not be seen, such as a custom autograd function."""
        self._check_inputs("an operation that torch functions do not show", (output,))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        depending = [t for t in _tensors((args, kwargs)) if t.requires_grad]
        if not depending:
            return func(*args, **kwargs)
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        return self._note(self._run(name, func, args, kwargs, depending))

    def _run(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any, depending: list[Tensor]) -> Any:
        plain = name.rstrip("_") if not name.endswith("__") else name
        self._check_inputs(plain, depending)
        if not torch.is_grad_enabled() and plain not in _PROPERTIES:
            raise self.refuse(f"{plain} without gradients (torch.no_grad or a custom autograd function)")
        found = identify_activation(func)
        if found is not None:
            return self.activation(found[0], func, args, kwargs)
        if plain in _MAXIMA and not kwargs.get("return_indices"):
            return self.maximum(plain, func, args, kwargs)
        result = func(*args, **kwargs)
        if not any(True for _ in _tensors(result)) or plain in _PROPERTIES or plain in ("grad", "data"):
            return result  # a size, a dtype, a new tensor
        one = len(depending) == 1
        if plain in _ADDITIVE or (plain in _LINEAR and one):
            return result
        if plain in _DIVISIONS and one and args and args[0] is depending[0]:
            return result
        if plain in _IN_EVALUATION:
            flag, position = _IN_EVALUATION[plain]
            if not kwargs.get(flag, args[position] if len(args) > position else False):
                return result
        several = " of two tensors that depend on the units" if plain in _LINEAR else ""
        raise self.refuse(f"{plain}{several}")

    def _check_inputs(self, name: str, tensors: Any) -> None:
        for tensor in _tensors(tensors):
            if tensor.requires_grad and not tensor.is_leaf and self._made.get(id(tensor)) is not tensor:
                raise self.refuse(f"what {name} is given: a tensor of an operation that torch functions do not show")

    def _note(self, result: Any) -> Any:
        for tensor in _tensors(result):
            self._made[id(tensor)] = tensor
        return result


class OnlyHomogeneous(OperationCheck):
    """Lets activations pass for which f(a z) = a f(z), a > 0, and max pooling; refuses others."""

    def activation(self, name: str, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Any) -> Tensor:
        """The activation itself."""
        if name not in HOMOGENEOUS:
            raise self.refuse(name)
        return function(*args, **kwargs)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def differentiate(function: Callable[..., Tensor], z: Tensor, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    """Value and derivative of an elementwise function at ``z``, both detached."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = function(z.clone(), *args, **kwargs)  # the function may work in place
        (slope,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), slope
