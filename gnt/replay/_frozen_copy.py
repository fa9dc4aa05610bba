"""The weights of a module as they were at one time, and forwards with them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gnt._utils.state_dicts import Entry, Kind, tensor
from gnt.replay._reference_gradients import ForwardOf
from gnt.units import unwrap


class FrozenCopy:
    """Copies of all parameters and buffers of a module.

    Attributes:
        tensors: the copies, by name.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def of(cls, module: nn.Module) -> FrozenCopy:
        """Copy the present values."""
        return cls({name: each.detach().clone() for name, each in _tensors_of(module).items()})

    @torch.no_grad()
    def run(self, module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return ``function(*inputs)``, a function that runs the module, with the copies in place of its own tensors.

        To be called inside of `unlearned`. The module may have grown since: a tensor that is new keeps its value.

        Raises:
            RuntimeError: the module has lost a parameter or a buffer.
        """
        return self._run(module, function, inputs, {})

    @torch.no_grad()
    def earlier_outputs(
        self, module: nn.Module, function: Callable[..., Any], inputs: tuple[Any, ...], output: Tensor
    ) -> int | None:
        """Return how many entries of an output's dimension 1 the module had when it was copied; None if it has no such.

        They are those that do not depend on tensors which are new: they are the same if these are NaN. To be called
        inside of `unlearned`.

        Args:
            module, function, inputs: as for `run`.
            output: what `run` returned.

        Raises:
            ValueError: all entries depend on new tensors, or other ones than the last.
        """
        if output.ndim < 2:
            return None
        new = {
            name: torch.full_like(each, torch.nan)
            for name, each in _tensors_of(module).items()
            if name not in self.tensors and each.is_floating_point()
        }
        if not new:
            return output.shape[1]
        changed = self._run(module, function, inputs, new).isnan() & ~output.isnan()
        depends: list[bool] = changed.transpose(0, 1).flatten(1).any(1).tolist()
        number = len(depends) - sum(depends)
        if not number or any(depends[:number]):
            raise ValueError(
                f"which outputs of {type(unwrap(module)).__name__} are those of earlier tasks is not known: "
                f"{sum(depends)} of {len(depends)}, not only the last ones, depend on new tensors such as "
                f"{next(iter(new))}; compute the penalty in each task, from the first on"
            )
        return number

    def _run(self, module: nn.Module, function: Callable[..., Any], inputs: Any, new: dict[str, Tensor]) -> Any:
        """`run`, with given values of new tensors."""
        own, buffers = _tensors_of(module), {name for name, _ in unwrap(module).named_buffers()}
        lost = [name for name in self.tensors if name not in own]
        if lost:
            raise RuntimeError(f"{type(unwrap(module)).__name__} no longer has {lost[0]}, which its frozen copy has")
        if any((each.device, each.dtype) != (own[n].device, own[n].dtype) for n, each in self.tensors.items()):
            # the module was moved
            self.tensors = {name: each.to(own[name].device, own[name].dtype) for name, each in self.tensors.items()}
        # a forward may change buffers in place
        values = {f"net.{n}": each.clone() if n in buffers else each for n, each in {**self.tensors, **new}.items()}
        return functional_call(ForwardOf(unwrap(module), function), values, inputs)


def saved_copy(module: nn.Module) -> Kind:
    """A `FrozenCopy`, saved as its tensors, that fits a module, which may have grown since."""

    def check(entry: Entry, value: Any) -> FrozenCopy:
        own = _tensors_of(module)
        if not isinstance(value, dict) or not value:
            raise entry.wrong_value(value, "a dict of tensors")
        checked = {}
        for name, saved in value.items():
            like = own.get(name)
            shape = tuple(saved.shape) if isinstance(saved, Tensor) else None
            if like is None or shape is None or len(shape) != like.ndim or any(map(int.__gt__, shape, like.shape)):
                has = "has none" if like is None else f"has one of shape {tuple(like.shape)}"
                raise ValueError(
                    f"state_dict is of another network: its {entry.name} has {name!r:.80} of shape {shape}, and this "
                    f"{type(unwrap(module)).__name__} {has}"
                )
            part = Entry(name, f" in {entry.name}")
            if isinstance(like, nn.Parameter):
                checked[name] = tensor(like.detach().new_empty(shape))(part, saved)
            else:
                checked[name] = _checked_buffer(part, saved, like)
        return FrozenCopy(checked)

    return check


def _checked_buffer(entry: Entry, saved: Tensor, like: Tensor) -> Tensor:
    """A buffer, which may hold what no parameter does: masks of -inf, complex rotations."""
    kinds = [(each.is_floating_point(), each.is_complex(), each.dtype == torch.bool) for each in (saved, like)]
    if saved.is_meta or saved.layout is not like.layout or saved.is_quantized or kinds[0] != kinds[1]:
        got = f"of dtype {saved.dtype} on {saved.device}, with layout {saved.layout}"
        raise entry.wrong_tensor(saved, got, f"like the buffer, {like.dtype}, with values")
    return saved.detach().to(like.device, like.dtype, copy=True)


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    net = unwrap(module)
    return dict(chain(net.named_parameters(), net.named_buffers()))
