"""The inputs of a graph: which tensors a step reads and writes, and in which order the graph takes them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt.learners._compile.functional_optimizers import FunctionalOptimizer
from gnt.learners._compile.functional_penalties import FunctionalPenalties, Penalties, numbers_of, tensors_of
from gnt.learners._compile.functional_update import FunctionalUpdate, Participation
from gnt.learners._compile.tensor_slots import TensorSlots
from gnt.learners._training_step import NoiseLayout
from gnt.optim import AdamGnT

STATUS_OK, NONFINITE_LOSS, NONFINITE_GROUP = 0, 1, 2  # status of a step; NONFINITE_GROUP + i for group i


class StaleInputsError(Exception):
    """A tensor is missing, replaced, or laid out differently: this step runs eagerly and the graph is rebuilt."""


@dataclass
class TrainedParameter:
    """A parameter that each step updates.

    Attributes:
        param: the parameter.
        index: its index among the tensors of the slots.
        group: the index of its parameter group.
        flags: the group's options that are built into the graph.
        state_keys: the keys of its state that each step changes.
        no_resets: for each dimension along which its units lie, zeros that stand for the steps of resets while the
            optimizer's state has none.
    """

    param: Tensor
    index: int
    group: int
    flags: tuple[Any, ...]
    state_keys: tuple[str, ...]
    no_resets: dict[int, Tensor]

    @functools.cached_property
    def reset_keys(self) -> frozenset[str]:
        """The keys of the optimizer's state that hold the steps of these resets."""
        return frozenset(_start_key(dim) for dim in self.no_resets)


@dataclass
class EagerEffects:
    """What an eager step did, by identity.

    Attributes:
        with_gradient: the parameters that had a gradient.
        changed_buffers: the buffers that the forward changed.
        noise_layouts: what the forward drew from generators of the network's own.
    """

    with_gradient: set[int]
    changed_buffers: set[int]
    noise_layouts: Sequence[NoiseLayout] = ()


class Returned(NamedTuple):
    """What a graph returns at its end if the optimizer steps after it.

    Attributes:
        have_gradients: for each feature that the forward returned whether its gradient comes after it; None: it returns
            none.
        parameters: the parameters whose gradients come last.
    """

    have_gradients: list[bool] | None
    parameters: list[Tensor]


@dataclass
class UnpackedInputs:
    """A graph's inputs, by what they are.

    Attributes:
        x, y: the batch.
        hyperparameters: float64 scalars by name, for each parameter group.
        updates: the number of updates of each group, int64 (groups,).
        values: the tensors of the slots.
        optimizer_states: the state of each trained parameter.
        reset_steps: the reset steps of each trained parameter, by dimension.
        unit_states: the engine's state.
        penalty_numbers, penalty_tensors: what the penalties of methods read.
        noise: what the forward draws from generators of the network's own.
        drawn: utilities of a random measure.
    """

    x: Tensor
    y: Tensor
    hyperparameters: Sequence[Mapping[str, Tensor]]
    updates: Tensor
    values: list[Tensor]
    optimizer_states: list[list[Tensor]]
    reset_steps: list[dict[int, Tensor]]
    unit_states: list[Tensor]
    penalty_numbers: Sequence[Tensor]
    penalty_tensors: list[Tensor]
    noise: list[Tensor]
    drawn: list[Tensor]


class GraphInputs:
    """The inputs of a graph, in order: x, y, hyperparameters, numbers of updates, all tensors of the network, the
    optimizer's state, the engine's state, what penalties read, and what was drawn for this step (noise, utilities).

    Args:
        slots: where the network's tensors are stored.
        optimizer: the optimizer.
        functional: its functional form.
        update: the engine's update, or None.
        effects: the effects of an eager step of the same kind.
        penalties: the penalties of such a step.

    Attributes:
        returned: what the graph returns for the optimizer's step after it, known once it is captured.
        penalties: the penalties in the graph.
        participation: which groups take part in the steps of the graph, known once it is captured.
    """

    def __init__(
        self,
        slots: TensorSlots,
        optimizer: Optimizer,
        functional: FunctionalOptimizer,
        update: FunctionalUpdate | None,
        effects: EagerEffects,
        penalties: Penalties,
    ) -> None:
        self.participation = Participation()
        self.returned = Returned(None, [])
        self.slots, self.functional_optimizer, self.update, self.effects = slots, functional, update, effects
        indices = {id(tensor): index for index, tensor in enumerate(slots.tensors())}
        self.penalties = FunctionalPenalties(penalties, indices)
        self._counts_per_unit = functional.in_graph and isinstance(optimizer, AdamGnT)
        unit_dims = _unit_dims(update)
        self.trained: list[TrainedParameter] = []
        for number, group in enumerate(optimizer.param_groups):
            flags = functional.flags(group)
            for param in group["params"]:
                if id(param) in effects.with_gradient and id(param) in indices:
                    no_resets = {}
                    if self._counts_per_unit:
                        no_resets = _no_resets(param, unit_dims.get(id(param), {}), optimizer.state.get(param, {}))
                    keys = functional.state_keys(flags)
                    self.trained.append(TrainedParameter(param, indices[id(param)], number, flags, keys, no_resets))
        first = self.trained[0].param if self.trained else slots.tensors()[0]
        self.device = first.device
        self._hyperparameters = torch.zeros(0, dtype=torch.float64, device=self.device)
        self._hyperparameter_values: list[float] = []
        self._updates_values = [0] * len(update.engine.groups) if update is not None else []
        self._updates = torch.zeros(len(self._updates_values), dtype=torch.int64, device=self.device)

    def note_returned(self, have_gradients: list[bool] | None, gradients: Sequence[Tensor | None]) -> None:
        """Note what the graph returns, for an optimizer that steps after it.

        Args:
            have_gradients: as in `Returned`.
            gradients: those of the trained parameters; None where there is none.
        """
        self.returned = Returned(
            have_gradients,
            [each.param for each, grad in zip(self.trained, gradients, strict=True) if grad is not None],
        )

    @property
    def checks_finite(self) -> bool:
        """True if a loss that is not finite is refused: on the CPU, where reading it needs no synchronization."""
        return self.device.type == "cpu"

    def collect(
        self, x: Tensor, y: Tensor, optimizer: Optimizer, penalties: Penalties, drawn: Sequence[Tensor]
    ) -> list[Tensor]:
        """The inputs with their current values.

        Raises:
            StaleInputsError: a parameter or a part of its state is not the one that the graph was built for.
        """
        self._refresh_numbers(optimizer, penalties)
        inputs = [x, y, self._hyperparameters, self._updates, *self.slots.current_values()]
        for each in self.trained:
            if inputs[4 + each.index] is not each.param:
                raise StaleInputsError
            if each.state_keys:
                state = optimizer.state.get(each.param, {})
                for key in each.state_keys:
                    if key not in state:
                        raise StaleInputsError
                    inputs.append(state[key])
        for each in self.trained if self._counts_per_unit else ():
            state = optimizer.state[each.param]
            if any(key in state and key not in each.reset_keys for key in AdamGnT.start_keys):
                raise StaleInputsError  # units were reset along a dimension for the first time
            if each.no_resets:
                inputs += [_starts(state, dim, zeros) for dim, zeros in each.no_resets.items()]
        if self.update is not None:
            inputs += self.update.tensors()
        if penalties:
            inputs += tensors_of(penalties)
        return [*inputs, *drawn]

    def unpack(self, inputs: Sequence[Tensor]) -> UnpackedInputs:
        """The inputs by what they are; the inverse of `collect`."""
        rest = iter(inputs)
        x, y, numbers, updates = (next(rest) for _ in range(4))
        names, of_groups = self.functional_optimizer.hyperparameters, len(numbers) - self.penalties.num_numbers
        by_group = [
            {name: numbers[first + i] for i, name in enumerate(names)} for first in range(0, of_groups, len(names) or 1)
        ]
        penalty_numbers = [numbers[i] for i in range(of_groups, len(numbers))]
        values = [next(rest) for _ in self.slots.tensors()]
        optimizer_states = [[next(rest) for _ in each.state_keys] for each in self.trained]
        reset_steps = [{dim: next(rest) for dim in each.no_resets} for each in self.trained]
        unit_states = [next(rest) for _ in self.update.tensors()] if self.update is not None else []
        penalty_tensors = [next(rest) for _ in range(self.penalties.num_tensors)]
        noise = [next(rest) for _ in self.effects.noise_layouts]
        return UnpackedInputs(
            x=x,
            y=y,
            hyperparameters=by_group,
            updates=updates,
            values=values,
            optimizer_states=optimizer_states,
            reset_steps=reset_steps,
            unit_states=unit_states,
            penalty_numbers=penalty_numbers,
            penalty_tensors=penalty_tensors,
            noise=noise,
            drawn=list(rest),
        )

    def count_update(self) -> None:
        """Follow the graph, which has increased the number of updates of the groups that take part by one."""
        absent = self.participation.absent
        self._updates_values = [count + (i not in absent) for i, count in enumerate(self._updates_values)]

    def _refresh_numbers(self, optimizer: Optimizer, penalties: Penalties) -> None:
        """Write hyperparameters, numbers of penalties and the number of updates to the device if they have changed."""
        values: list[float] = []
        for group in optimizer.param_groups:
            values += self.functional_optimizer.hyperparameter_values(group)
        if penalties:
            values += numbers_of(penalties)
        if values != self._hyperparameter_values:
            numbers = torch.tensor(values, dtype=torch.float64, device="cpu")
            self._hyperparameters = numbers.to(self.device, non_blocking=True)
            self._hyperparameter_values = values
        if self.update is not None and self._updates_values != (updates := self.update.updates()):
            self._updates_values = updates
            self._updates.copy_(torch.tensor(updates, device="cpu"), non_blocking=True)


def _unit_dims(update: FunctionalUpdate | None) -> dict[int, dict[int, int]]:
    """For each parameter, by identity, the dimensions along which units lie and its number of positions there."""
    dims: dict[int, dict[int, int]] = {}
    for group in update.engine.groups if update is not None else ():
        for _, param, slot in group.slices():
            dim = slot.dim_of(param)
            size = param.shape[dim] * (slot.groups if param.ndim > 1 else 1)
            dims.setdefault(id(param), {})[dim] = size
    return dims


def _starts(state: Mapping[str, Any], dim: int, zeros: Tensor) -> Tensor:
    """The starts of the counts along a dimension; zeros if there are none.

    Those along a dimension from the third on are stored as rows, in place of those along dimension 0.
    """
    starts: Tensor = state.get(_start_key(dim), zeros)
    return starts if len(starts) == len(zeros) else zeros


def _start_key(dim: int) -> str:
    return AdamGnT.start_keys[dim if dim < 2 else 0]


def _no_resets(param: Tensor, dims: Mapping[int, int], state: Mapping[str, Any]) -> dict[int, Tensor]:
    sizes = dict(dims)
    for dim, key in enumerate(AdamGnT.start_keys):
        if key in state:
            size = len(state[key])
            if dim == 0 and size != param.shape[0]:
                dim = list(param.shape).index(size)
            sizes[dim] = size
    return {dim: torch.zeros(sizes[dim], dtype=torch.int64, device=param.device) for dim in sorted(sizes)}
