"""Signals that are gradients, of features and of weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from gnt.importance._group_signals import GroupSignals
from gnt.importance._mean_magnitudes import mean_magnitude
from gnt.units import Slot

FEATURE_GRADIENTS = frozenset(
    {"feature_gradient", "feature_gradient_square", "feature_times_gradient", "centered_times_gradient"}
)
WEIGHT_GRADIENTS = frozenset(
    {"incoming_gradient", "incoming_gradient_square", "outgoing_gradient", "outgoing_gradient_square"}
)
GRADIENT_SIGNALS = FEATURE_GRADIENTS | WEIGHT_GRADIENTS


class GradientSignals(GroupSignals):
    """Gradients of the loss with respect to features and weights, as `Signals` describes them."""

    @cached_property
    def feature_gradient(self) -> Tensor:
        """Mean |dL/dh| at each position of each unit, (num_units, positions).

        dL/dh is the gradient of the loss through the consumers of h. Unlike those of ``magnitude``, the positions are
        those of each value that consumers read, once, however many consumers read it.
        """
        self._check_declared("feature_gradient")
        return self._over_taps(self.gradients)

    @cached_property
    def feature_gradient_square(self) -> Tensor:
        """Mean (dL/dh)^2 at each position of each unit, (num_units, positions)."""
        self._check_declared("feature_gradient_square")
        return self._over_taps(self.gradient_squares)

    @cached_property
    def feature_times_gradient(self) -> Tensor:
        """Mean |h dL/dh| at each position of each unit, (num_units, positions)."""
        self._check_declared("feature_times_gradient")
        return self._over_taps(self.products)

    @cached_property
    def centered_times_gradient(self) -> Tensor:
        """Sum over samples of dL/dh (h - f^) at each position of each unit, (num_units, positions)."""
        self._check_declared("centered_times_gradient")
        return self._over_taps(
            [mean * number for mean, number in zip(self.centered_products, self.samples, strict=True)]
        )

    @cached_property
    def incoming_gradient(self) -> Tensor:
        """Mean |dL/dw| of each unit's incoming weights without bias, (num_units,)."""
        self._check_declared("incoming_gradient")
        return self._over_producers(self.incoming_gradients)

    @cached_property
    def incoming_gradient_square(self) -> Tensor:
        """Mean (dL/dw)^2 of each unit's incoming weights without bias, (num_units,)."""
        self._check_declared("incoming_gradient_square")
        return self._over_producers(self.incoming_gradient_squares)

    @cached_property
    def outgoing_gradient(self) -> Tensor:
        """Mean |dL/dw| of the outgoing weights of each position, (num_units, block), weighted as ``outgoing`` is."""
        self._check_declared("outgoing_gradient")
        return self._over_consumers(self.outgoing_gradients)

    @cached_property
    def outgoing_gradient_square(self) -> Tensor:
        """Mean (dL/dw)^2 of the outgoing weights of each position, (num_units, block), weighted likewise."""
        self._check_declared("outgoing_gradient_square")
        return self._over_consumers(self.outgoing_gradient_squares)

    # The parts of the signals above, one tensor per tap or slot; with several processes replaced by global means.

    @cached_property
    def gradients(self) -> list[Tensor]:
        """Mean |dL/dh| of each tap, (num_units, block)."""
        return [statistics.gradient_magnitude() for statistics in self.batch]

    @cached_property
    def gradient_squares(self) -> list[Tensor]:
        """Mean (dL/dh)^2 of each tap, (num_units, block)."""
        return [statistics.gradient_square() for statistics in self.batch]

    @cached_property
    def products(self) -> list[Tensor]:
        """Mean |h dL/dh| of each tap, (num_units, block)."""
        return [statistics.product_magnitude() for statistics in self.batch]

    @cached_property
    def centered_products(self) -> list[Tensor]:
        """Mean dL/dh (h - f^) of each tap, (num_units, block)."""
        centers = self.group.state.center(self.mean)
        return [statistics.centered_product(center) for statistics, center in zip(self.batch, centers, strict=True)]

    @cached_property
    def incoming_gradients(self) -> list[Tensor]:
        """Mean |dL/dw| of each producer's rows, (num_units, block)."""
        return self._weight_gradients(self.group.incoming)

    @cached_property
    def incoming_gradient_squares(self) -> list[Tensor]:
        """Mean (dL/dw)^2 of each producer's rows, (num_units, block)."""
        return self._weight_gradients(self.group.incoming, squared=True)

    @cached_property
    def outgoing_gradients(self) -> list[Tensor]:
        """Mean |dL/dw| of each consumer's columns, (num_units, block)."""
        return self._weight_gradients(self.group.outgoing)

    @cached_property
    def outgoing_gradient_squares(self) -> list[Tensor]:
        """Mean (dL/dw)^2 of each consumer's columns, (num_units, block)."""
        return self._weight_gradients(self.group.outgoing, squared=True)

    def _weight_gradients(self, slots: Sequence[Slot], *, squared: bool = False) -> list[Tensor]:
        """The means of each slot. A weight without gradient counts as 0 if another one has a gradient.

        Raises:
            RuntimeError: none of them has a gradient.
        """
        gradients = [slot.weight.grad for slot in slots]
        if all(gradient is None for gradient in gradients):
            names = ", ".join(f"{slot.name}.weight" for slot in slots)
            if not any(slot.weight.requires_grad for slot in slots):
                raise RuntimeError(
                    f"{names} of group {self.group.name!r} is frozen (requires_grad=False), and the measure reads its "
                    "gradient: unfreeze it, or choose a measure that reads no gradients of these weights"
                )
            raise RuntimeError(
                f"{names} of group {self.group.name!r} has no gradient, which the measure reads after the optimizer's "
                "step: make the update before zero_grad(), and run the backward before the step"
            )
        return [
            torch.zeros(slot.num_units, slot.block, dtype=self.group.state.utility.dtype, device=slot.weight.device)
            if gradient is None
            else slot.mean_magnitude(gradient, squared=True)
            if squared
            else mean_magnitude(slot, gradient, kernels=self.kernels)
            for slot, gradient in zip(slots, gradients, strict=True)
        ]

    def _check_declared(self, name: str) -> None:
        if name not in self.reads:
            raise ValueError(
                f"the measure reads {name} without declaring it, so it may not have been recorded: register it with "
                f"register_utility(..., reads=[..., {name!r}])"
            )
