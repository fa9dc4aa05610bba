"""Spectral and Parseval regularization: penalties on the singular values of weight matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnt._utils.generators import new_generator
from gnt._utils.parameters import ModuleOrParameters, accumulation_dtype
from gnt._utils.settings import above_zero, at_least, checked_settings
from gnt._utils.state_dicts import Kind, check_saved_state, sequence, tensor
from gnt.regularization._functional_penalty import FunctionalPenalty
from gnt.regularization._strength import WithStrength
from gnt.regularization._weight_matrices import as_matrices, select_matrices, transposed_groups

STATE_VERSION = 1
_SHORTEST = 1e-12  # the power iteration goes on from products that are longer


class MatrixPenalty(WithStrength):
    """strength * sum over weight matrices of a function; base class of `Spectral` and `Parseval`.

    Attributes:
        names, weights: the regularized weights.
        members: number of networks whose weights each parameter holds one after the other; 1 except in an ensemble.
    """

    def __init__(self, params: ModuleOrParameters, strength: float) -> None:
        self.strength = strength
        self.names, self.weights, layers, self.members = select_matrices(params, type(self).__name__)
        self._transposed = [transposed_groups(layer, self.members) for layer in layers]
        self._vectors: list[Tensor] = []  # one for each weight, if the function keeps some

    def penalty(self) -> Tensor:
        """Return the penalty as a differentiable scalar, in float32 or wider, to be added to the loss."""
        value, vectors = self._value(self.weights, self._vectors, self._numbers())
        self._vectors = list(vectors)
        return value

    def functional_penalty(self) -> FunctionalPenalty | None:
        """Hook of learners with ``compile=True``: the penalty of all weights; None if all are frozen."""
        if not any(weight.requires_grad for weight in self.weights):
            return None
        return FunctionalPenalty(self._value, self.weights, self._vectors, self._numbers())

    def _value(
        self, weights: Sequence[Tensor], vectors: Sequence[Tensor], numbers: Sequence[float]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The penalty as `FunctionalPenalty.value`, from the strength and the numbers of `_of`."""
        device, dtype = weights[0].device, accumulation_dtype(weights)
        strength, setting = numbers
        values, new_vectors = [], []
        with torch.autocast(device.type, enabled=False):  # products in 16 bits would not be the penalty's dtype
            for number, weight in enumerate(weights):
                matrices = self._matrices(number, weight.to(dtype))
                value, *new = self._of(matrices, setting, *vectors[number : number + 1])
                values.append(value.to(device))
                new_vectors += new
            return strength * torch.stack(values).sum(), new_vectors

    def _matrices(self, number: int, weight: Tensor) -> Tensor:
        """A weight as matrices (members, outputs, inputs)."""
        return as_matrices(weight, self.members, self._transposed[number])

    def _numbers(self) -> list[float]:
        """The strength, and the setting that `_of` takes."""
        raise NotImplementedError

    def __call__(self) -> Tensor:
        """Return `penalty()`."""
        return self.penalty()

    def backward(self) -> None:
        """Add the gradient of the penalty to ``.grad`` of each weight, after the backward pass of the loss."""
        with torch.enable_grad(), torch.autocast(self.weights[0].device.type, enabled=False):
            penalty = self.penalty()
            if penalty.requires_grad:  # else all weights were frozen later
                penalty.backward()

    def _of(self, matrices: Tensor, setting: float, *vectors: Tensor) -> tuple[Tensor, ...]:
        """The function of one weight's matrices, (members, outputs, inputs), summed over members, and new vectors."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.weights)} weights, strength={self.strength:g})"


@checked_settings(exponent=at_least(1.0))
class Spectral(MatrixPenalty):
    """Spectral regularization: strength * sum over layers of (sigma^k - 1)^2, with sigma the largest singular value.

    sigma of the weight of each linear and convolution layer, as a matrix (outputs, inputs * kernel), is found by power
    iteration: one step per call, from the vectors of the call before. Biases and norms are left alone.

    Args:
        params: a module, or a list of weights, whose first dimension then counts as outputs.
        strength: factor of the penalty, >= 0; may be changed later.
        exponent: k, >= 1.
        generator: generator of the first vectors; None creates one, seeded from torch's global generator.

    Raises:
        TypeError: ``params`` is neither a module nor a list of parameters, or sharded.
        ValueError: a setting out of range; no weights; one that is frozen, lazy, repeated or not a matrix.

    Source: Lewandowski et al., ICLR 2025 (arXiv 2406.06811).

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 2)
    >>> reg = gnt.Spectral(net, strength=1e-3)
    >>> loss = net(torch.randn(8, 4)).square().mean() + reg()
    >>> loss.backward()
    """

    def __init__(
        self,
        params: ModuleOrParameters,
        strength: float,
        *,
        exponent: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(params, strength)
        self.exponent = exponent
        if generator is None:
            generator = new_generator(self.weights[0].device)
        elif not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
        for number, weight in enumerate(self.weights):
            inputs = self._matrices(number, weight).shape[2]
            drawn = torch.randn(inputs, generator=generator, device=generator.device)
            # the members of an ensemble begin as single networks would
            vector = drawn.to(weight.device, accumulation_dtype(self.weights)).expand(self.members, inputs)
            self._vectors.append(torch.nn.functional.normalize(vector, dim=1))

    def _refresh(self) -> None:
        """Move the vectors to the devices of the weights, and to the dtype of the penalty."""
        dtype = accumulation_dtype(self.weights)
        for number, (weight, vector) in enumerate(zip(self.weights, self._vectors, strict=True)):
            self._vectors[number] = vector.to(weight.device, dtype)

    def penalty(self) -> Tensor:
        """As `MatrixPenalty.penalty`, with a step of the power iteration."""
        self._refresh()
        return super().penalty()

    def functional_penalty(self) -> FunctionalPenalty | None:
        """As `MatrixPenalty.functional_penalty`."""
        self._refresh()
        return super().functional_penalty()

    def _numbers(self) -> list[float]:
        return [self._strength, self.exponent]

    def _of(self, matrices: Tensor, exponent: float, *vectors: Tensor) -> tuple[Tensor, ...]:
        # vectors are rows: on a CPU products of several matrices with columns take ten times as long
        before = vectors[0][:, None]
        with torch.no_grad():
            left = torch.nn.functional.normalize(before @ matrices.mT, dim=2)
        product = left @ matrices
        with torch.no_grad():
            length = torch.linalg.vector_norm(product, dim=2, keepdim=True)
            # the iteration keeps its vector where a matrix is zero or not finite
            right = torch.where((length > _SHORTEST) & length.isfinite(), product / length, before)
        largest = (product * right).sum((1, 2))
        return (largest.clamp_min(0.0) ** exponent - 1.0).square().sum(), right.squeeze(1)

    def largest_singular_values(self) -> list[Tensor]:
        """The present estimate of each weight's largest singular value, (members,)."""
        self._refresh()
        with torch.no_grad(), torch.autocast(self.weights[0].device.type, enabled=False):
            found = []
            for number, vector in enumerate(self._vectors):
                matrices = self._matrices(number, self.weights[number].to(vector.dtype))
                product = vector[:, None] @ matrices.mT
                found.append(torch.linalg.vector_norm(product, dim=(1, 2)))
            return found

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors of the power iteration."""
        return {"version": STATE_VERSION, "vectors": [vector.clone() for vector in self._vectors]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the vectors of the power iteration.

        Raises:
            ValueError: not the result of `state_dict`, or of another network. Nothing is changed.
        """
        self._refresh()
        own: list[Kind] = [tensor(vector) for vector in self._vectors]
        kinds: dict[str, Kind] = {"vectors": sequence(own, f"{len(own)} vectors, one for each weight")}
        vectors = check_saved_state(state_dict, "Spectral.state_dict()", kinds, STATE_VERSION)["vectors"]
        lengths = [float(length) for vector in vectors for length in torch.linalg.vector_norm(vector, dim=1)]
        if any(abs(length - 1.0) > 0.1 for length in lengths):
            raise ValueError(f"state_dict has vectors of lengths {min(lengths):g} to {max(lengths):g}, which must be 1")
        self._vectors = vectors


@checked_settings(scale=above_zero)
class Parseval(MatrixPenalty):
    """Parseval regularization: strength * sum over layers of ||W W^T - s I||^2, which keeps rows orthogonal.

    W is the weight of a linear or convolution layer as a matrix (outputs, inputs * kernel). If there are more outputs
    than inputs, the same value is computed from W^T W. Biases and norms are left alone.

    Args:
        params: a module, or a list of weights, whose first dimension then counts as outputs.
        strength: factor of the penalty, >= 0; may be changed later.
        scale: s, the squared length of rows, > 0.

    Raises:
        As `Spectral`.

    A matrix product of each weight with itself: for batches that are small beside the layers it costs more than the
    step. Source: Chung et al., NeurIPS 2024 (arXiv 2412.07224).

    >>> import torch, gnt
    >>> layer = torch.nn.Linear(4, 2)
    >>> _ = torch.nn.init.orthogonal_(layer.weight)
    >>> bool(gnt.Parseval(layer, strength=1e-3)() < 1e-9)
    True
    """

    def __init__(self, params: ModuleOrParameters, strength: float, *, scale: float = 1.0) -> None:
        super().__init__(params, strength)
        self.scale = scale

    def _numbers(self) -> list[float]:
        return [self._strength, self.scale]

    def _of(self, matrices: Tensor, scale: float, *vectors: Tensor) -> tuple[Tensor, ...]:
        members, outputs, inputs = matrices.shape
        zero_values = members * max(outputs - inputs, 0) * scale**2  # singular values that W^T W does not show
        if outputs > inputs:
            matrices = matrices.mT
        distance: Tensor = _SquaredDistance.apply(matrices, scale)  # type: ignore[no-untyped-call]
        return (distance + zero_values,)


class _SquaredDistance(torch.autograd.Function):
    """The sum of squares of D = W W^T - s I.

    The gradient, 4 D W, takes one product. Autograd, which does not know that D is symmetric, takes two.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, scale: float) -> Tensor:
        ctx.scale, ctx.difference = scale, _difference(matrices, scale)
        ctx.save_for_backward(matrices)
        total: Tensor = ctx.difference.square().sum()
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (matrices,) = ctx.saved_tensors
        # for gradients of gradients the difference is part of the graph
        with torch.autocast(matrices.device.type, enabled=False):
            difference = _difference(matrices, ctx.scale) if torch.is_grad_enabled() else ctx.difference
            return 4.0 * gradient * difference @ matrices, None


def _difference(matrices: Tensor, scale: float) -> Tensor:
    """W W^T - scale * I for each matrix."""
    difference = matrices @ matrices.mT
    difference.diagonal(dim1=1, dim2=2).sub_(scale)
    return difference
