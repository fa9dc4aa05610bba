"""FunctionalPenalties: the penalties of a learner's methods, as a part of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from gnt.regularization import FunctionalPenalty

Penalties = Sequence[FunctionalPenalty]


def key_of(penalties: Penalties) -> tuple[Any, ...]:
    """What the graph of a step depends on, apart from the values of tensors and numbers."""
    return tuple([(each.value, *map(id, each.parameters), len(each.tensors), len(each.numbers)) for each in penalties])


def numbers_of(penalties: Penalties) -> list[float]:
    """All numbers, in order."""
    return [float(number) for each in penalties for number in each.numbers]


def tensors_of(penalties: Penalties) -> list[Tensor]:
    """All tensors, in order."""
    return [tensor for each in penalties for tensor in each.tensors]


class FunctionalPenalties:
    """The penalties of one kind of step.

    Args:
        penalties: those of an eager step of this kind.
        indices: the index of each of the network's tensors, by identity.

    Raises:
        RuntimeError: a parameter that the network does not have.
    """

    def __init__(self, penalties: Penalties, indices: Mapping[int, int]) -> None:
        for each in penalties:
            missing = sum(id(parameter) not in indices for parameter in each.parameters)
            if missing:
                raise RuntimeError(
                    f"compile=True: {missing} of the {len(each.parameters)} parameters of a penalty are not parameters "
                    "of the learner's network: leave them out, or leave compile=False"
                )
        self._values = [each.value for each in penalties]
        self._places = [[indices[id(parameter)] for parameter in each.parameters] for each in penalties]
        self._num_tensors = [len(each.tensors) for each in penalties]
        self._num_numbers = [len(each.numbers) for each in penalties]

    @property
    def num_tensors(self) -> int:
        """The number of tensors of all penalties."""
        return sum(self._num_tensors)

    @property
    def num_numbers(self) -> int:
        """The number of numbers of all penalties."""
        return sum(self._num_numbers)

    def evaluate(
        self, values: Sequence[Tensor], tensors: Sequence[Tensor], numbers: Sequence[Any]
    ) -> Iterator[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
        """Each penalty, with its tensors that it changes and their new values.

        Args:
            values: the network's tensors.
            tensors, numbers: those of all penalties.
        """
        own_tensors, own_numbers = iter(tensors), iter(numbers)
        for value, places, num_tensors, num_numbers in zip(
            self._values, self._places, self._num_tensors, self._num_numbers, strict=True
        ):
            own = [next(own_tensors) for _ in range(num_tensors)]
            penalty, new = value([values[i] for i in places], own, [next(own_numbers) for _ in range(num_numbers)])
            if not isinstance(penalty, Tensor) or penalty.ndim:
                got = f"shape {tuple(penalty.shape)}" if isinstance(penalty, Tensor) else type(penalty).__name__
                raise ValueError(f"a functional penalty must return a scalar tensor and new tensors, got {got} first")
            if len(new) not in (0, num_tensors):
                raise ValueError(
                    f"a functional penalty must return new values of all its {num_tensors} tensors or of none, got "
                    f"{len(new)}"
                )
            yield penalty, [*zip(own, new, strict=True)] if len(new) else []
