"""The utilities of single weights, their running averages and ages. Used by `SWR`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from gnt._kernels import SCALARS, is_readable, load, use_kernels
from gnt._utils.state_dicts import Kind, counter, sequence, tensor
from gnt.names import WeightUtility

MAX_AGE = 2**30  # of a saved state; ages are int32
UTILITIES = get_args(WeightUtility)


class WeightUtilities:
    """Utilities of the weights of some parameters, as tensors (members, n).

    Args:
        utility: one of `UTILITIES`, or a function parameter -> utilities or None.
        parameters, names: the parameters.
        decay_rate: that of the running average; 0: none.
        generators: for random utilities, one for each member.

    Raises:
        ValueError: an unknown utility.
    """

    def __init__(
        self,
        utility: str | Callable[[Tensor], Tensor | None],
        parameters: Sequence[Tensor],
        names: Sequence[str],
        decay_rate: float,
        generators: Sequence[torch.Generator],
    ) -> None:
        if not callable(utility) and utility not in UTILITIES:
            raise ValueError(f"utility must be one of {', '.join(UTILITIES)}, or a function, got {utility!r}")
        self._utility, self._parameters, self._names = utility, parameters, names
        self._decay_rate, self._generators = decay_rate, generators
        members = len(generators)
        sizes = [(members, parameter.numel() // members) for parameter in parameters]
        self._updates = [0] * len(parameters)
        self._last = [0] * len(parameters)  # the update after which weights were chosen last
        pairs = list(zip(sizes, parameters, strict=True))
        self._born = [torch.zeros(size, dtype=torch.int32, device=p.device) for size, p in pairs]
        self._averages = [
            torch.zeros(size, dtype=torch.promote_types(p.dtype, torch.float32), device=p.device)
            for size, p in (pairs if decay_rate else [])
        ]

    @property
    def reads_gradients(self) -> bool:
        """True for utilities that are computed from gradients, or may be."""
        return callable(self._utility) or self._utility == "gradient"

    @property
    def name(self) -> str:
        """The utility as it is written in a call."""
        return getattr(self._utility, "__qualname__", repr(self._utility))

    def updated(self, due: bool) -> list[Tensor | None]:
        """Count an update, and return the utilities of each parameter if they are ``due``; None: it takes no part.

        Raises:
            RuntimeError: gradients are needed, and there are none.
            ValueError: a utility function returned something else than utilities.
        """
        self._follow_network()
        wanted = due or bool(self._decay_rate)
        numbers = range(len(self._names))
        by_kernel = [bool(self._decay_rate) and self._kernel_can_read(number) for number in numbers]
        present = [
            self._present(n) if wanted and not kernel else None for n, kernel in zip(numbers, by_kernel, strict=True)
        ]
        if wanted:
            takes_part = [kernel or each is not None for kernel, each in zip(by_kernel, present, strict=True)]
        else:
            takes_part = [self._has_part(parameter) for parameter in self._parameters]
        if self._utility == "gradient" and not any(takes_part):
            raise RuntimeError(
                "SWR needs gradients, and no parameter has one: call step() after optimizer.step() and before "
                "optimizer.zero_grad()"
            )
        for number in reversed(numbers):  # an optimizer has just written the last ones, which may be in the cache
            if not takes_part[number]:
                continue
            self._updates[number] += 1
            utility = present[number]
            if by_kernel[number]:
                self._average_by_kernel(number)
            elif self._decay_rate and utility is not None:
                self._averages[number].lerp_(utility.to(self._averages[number].dtype), 1.0 - self._decay_rate)
            if self._decay_rate:
                present[number] = self._corrected(number) if due else None
        return present if due else []

    def _kernel_can_read(self, number: int) -> bool:
        """True if the kernel can compute the utilities of a parameter, which takes part, and average them."""
        parameter, average = self._parameters[number], self._averages[number]
        if self._utility not in ("gradient", "magnitude") or not self._has_part(parameter):
            return False
        gradient = parameter.grad if self._utility == "gradient" else parameter
        return gradient is not None and use_kernels(
            None,
            fit=average.dtype in SCALARS
            and all(type(each) in (Tensor, nn.Parameter) for each in (parameter, gradient))
            and all(is_readable(each, average.dtype) for each in (parameter, gradient, average))
            and parameter.numel() == gradient.numel() == average.numel(),
        )

    def _average_by_kernel(self, number: int) -> None:
        """U <- d u + (1 - d) U, in one pass over memory."""
        average, parameter = self._averages[number], self._parameters[number]
        gradient = parameter.grad if self._utility == "gradient" else None
        load("weight_utility", average.dtype)(
            average.data_ptr(), 0 if gradient is None else gradient.data_ptr(), parameter.data_ptr(),
            parameter.numel(), 1.0 - self._decay_rate, torch.get_num_threads(),
        )  # fmt: skip

    def _has_part(self, parameter: Tensor) -> bool:
        return (
            parameter.requires_grad
            and parameter.numel() > 0
            and (self._utility != "gradient" or parameter.grad is not None)
        )

    def _present(self, number: int) -> Tensor | None:
        parameter = self._parameters[number]
        if not self._has_part(parameter):
            return None
        values = parameter.detach()
        if self._utility == "gradient":
            gradient = parameter.grad
            assert gradient is not None
            gradient = gradient if gradient.layout is torch.strided else gradient.to_dense()
            wide = torch.promote_types(values.dtype, torch.float32)  # a product of half-precision numbers may be 0
            utility: Any = (gradient.detach().to(wide) * values.to(wide)).abs_()
        elif self._utility == "magnitude":
            utility = values.abs()
        elif self._utility == "random":
            return self._random(values)
        else:
            assert callable(self._utility)
            utility = self._utility(parameter)
            if utility is None:
                return None
            if not isinstance(utility, Tensor) or utility.shape != parameter.shape:
                got = f"shape {tuple(utility.shape)}" if isinstance(utility, Tensor) else type(utility).__name__
                raise ValueError(
                    f"the utility of {self._names[number]} must be a tensor of shape {tuple(parameter.shape)} or None, "
                    f"got {got}; nothing was changed"
                )
            if utility.is_complex():
                raise ValueError(
                    f"the utility of {self._names[number]} must be real numbers, got {utility.dtype}; nothing was "
                    "changed"
                )
            wanted = utility.dtype if utility.is_floating_point() else torch.float32
            utility = utility.detach().to(values.device, wanted)
        shaped: Tensor = utility.reshape(len(self._generators), -1)
        return shaped

    def _random(self, values: Tensor) -> Tensor:
        size = values.numel() // len(self._generators)
        device = self._generators[0].device
        return torch.stack([torch.rand(size, generator=g, device=device) for g in self._generators]).to(values.device)

    def _corrected(self, number: int) -> Tensor:
        """Running averages divided by 1 - d^age; those of weights without age do not occur."""
        age = (self._updates[number] - self._born[number]).to(self._averages[number].dtype)
        return self._averages[number] / (1.0 - self._decay_rate**age)

    def older_than(self, maturity: int, number: int) -> Tensor | None:
        """Which weights are older than ``maturity`` updates; None: all."""
        return None if maturity == 0 else self._born[number] < self._updates[number] - maturity

    def chosen_last(self, number: int) -> Tensor:
        """Which weights were chosen at the latest selection, and not replaced otherwise since."""
        last = self._last[number]
        return (self._born[number] == last) & (last > 0)

    def restart(self, number: int, weights: Tensor, *, chosen: bool = True) -> None:
        """Restart weights at age 0. ``chosen``: they are those of a selection."""
        self._born[number].masked_fill_(weights, self._updates[number])
        if chosen:
            self._last[number] = self._updates[number]
        if self._decay_rate:
            self._averages[number].masked_fill_(weights, 0.0)

    def _follow_network(self) -> None:
        """Move the state to the devices of the parameters."""
        if self._born[0].device != self._parameters[0].device:
            for number, parameter in enumerate(self._parameters):
                self._born[number] = self._born[number].to(parameter.device)
                if self._decay_rate:
                    self._averages[number] = self._averages[number].to(parameter.device)

    def state_dict(self) -> dict[str, Any]:
        """Copies of all state."""
        return {
            "updates": list(self._updates),
            "last": list(self._last),
            "born": [each.clone() for each in self._born],
            "averages": [each.clone() for each in self._averages],
        }

    def kinds(self) -> dict[str, Kind]:
        """The kinds of the entries of `state_dict`."""
        count = f"{len(self._parameters)} counts, one for each parameter"
        return {
            "updates": sequence([counter()] * len(self._parameters), count),
            "last": sequence([counter()] * len(self._parameters), count),
            "born": sequence([tensor(each, 0, MAX_AGE) for each in self._born], f"{len(self._born)} tensors of ages"),
            "averages": sequence([tensor(each) for each in self._averages], f"{len(self._averages)} averages"),
        }

    def load_checked(self, checked: dict[str, Any]) -> None:
        """Load checked entries."""
        self._updates, self._last = checked["updates"], checked["last"]
        self._born, self._averages = checked["born"], checked["averages"]
