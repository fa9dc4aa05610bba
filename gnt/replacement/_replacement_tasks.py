"""What kernels write for the units of one group, as rows of the tables of ``gnt/_triton/replacement.py``.

Rows hold addresses, so that they are valid only as long as the tensors stay where they are (`GroupTasks.is_current`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gnt._kernels import PlacedTensors
from gnt.importance import RunningAverages
from gnt.replacement.optimizer_state import OptimizerStateReset
from gnt.replacement.reinitialization import changed_scale_tensors
from gnt.units import Slot, UnitGroup

_KINDS = {torch.bfloat16: 1, torch.float16: 2, torch.int64: 3}  # 0: the dtype of the state
CONSTANT, FRESH, UPDATES, STEP, POINTER = range(5)  # what is written, as in the kernels
_PLAIN_TYPES = (Tensor, nn.Parameter, getattr(nn, "Buffer", nn.Parameter))


class Unsupported(Exception):
    """The kernels cannot replace units of a group."""


class Move(NamedTuple):
    """A consumer's weight, for the kernel ``move_contributions``: the fields of its row that do not change."""

    fields: tuple[int, ...]
    num_outputs: int


class Write(NamedTuple):
    """A tensor of which the units' part is written: the fields of its row that do not change, and the value."""

    fields: tuple[int, ...]
    source: int
    value: int
    size: int  # elements of one unit
    positions: int  # of one unit


class GroupTasks:
    """The tasks of one group.

    Args:
        group: the group.
        number: its number.
        reset: resets the optimizer's state; None: it is left alone.

    Attributes:
        moves: one for each consumer.
        new: for each slot that is drawn, its weight and its bias (None: it has none).
        writes: into norms and into the running averages.
        optimizer_writes: into the state of the optimizer; None: `OptimizerStateReset.reset` must do it.
        steps: numbers on the host that are written into the state of the optimizer.
        params: the parameters that are changed.
        outgoing, drawn: ids of the parameters that moves and new weights change.

    Raises:
        Unsupported: the kernels cannot replace units of this group.
    """

    def __init__(self, group: UnitGroup, number: int, reset: OptimizerStateReset | None) -> None:
        self._state: RunningAverages = group.state
        self._dtype, self._device = self._state.utility.dtype, self._state.utility.device
        self._number = number
        self._tensors: list[Tensor] = []
        self._owners: list[tuple[Mapping[str, Any], str, Tensor]] = []
        self._entries: list[tuple[Tensor, Any, list[Any]]] = []
        self.writes: list[Write] = []
        self.steps: list[Tensor] = []
        if self._state.missed is not None or getattr(self._state, "long_term", None) is not None:
            raise Unsupported
        for slot in group.slots:
            if slot.positions is not None or slot.groups > 1:
                raise Unsupported
        self.new = [self._new(slot) for slot in group.drawn]
        self.moves = [self._move(slot) for slot in group.outgoing]
        for slot in group.scales:
            if slot not in group.drawn:
                for name, value in changed_scale_tensors(slot).items():
                    tensor = self._owned(slot.module, name)
                    self.writes.append(self._at(slot, tensor, CONSTANT, _bits(value)))
        self._write_averages()
        self.params = list({id(each): each for *_, each in self._owners if isinstance(each, nn.Parameter)}.values())
        slices = list(group.slices())
        if not all(each.requires_grad for each in (*self.params, *(param for _, param, _ in slices))):
            raise Unsupported
        self.outgoing = _ids(group.outgoing)
        self.drawn = _ids(group.drawn)
        for slots, parameters in ((group.outgoing, self.outgoing), (group.drawn, self.drawn)):
            if len(parameters) < sum(1 + (slot.bias is not None) for slot in slots):
                raise Unsupported  # two slots share a parameter
        self.optimizer_writes = [] if reset is None else self._optimizer_writes(slices, reset)
        self._placed = PlacedTensors(self._tensors)

    def is_current(self, reset: OptimizerStateReset | None) -> bool:
        """True if all tensors are still where they were, and no parameter was frozen."""
        for holder, name, tensor in self._owners:
            if holder.get(name) is not tensor:
                return False
        if self._entries:
            assert reset is not None
            state_of = reset.optimizer.state
            for param, state, values in self._entries:
                if state_of.get(param) is not state:
                    return False
                now = _values(state)
                if len(now) != len(values) or not all(map(is_, now, values)):
                    return False
        return self._placed.unchanged() and all(param.requires_grad for param in self.params)

    def _owned(self, module: nn.Module, name: str) -> Tensor:
        """A parameter or buffer of a module."""
        holder: Mapping[str, Any] = module._parameters if name in module._parameters else module._buffers
        tensor = holder.get(name)
        if not isinstance(tensor, Tensor):
            raise Unsupported
        self._owners.append((holder, name, tensor))
        return tensor

    def _kind(self, tensor: Tensor) -> int:
        """The number of the dtype of a tensor that the kernels can write."""
        plain = type(tensor) in _PLAIN_TYPES and tensor.layout is torch.strided and not tensor.is_inference()
        kind = 0 if tensor.dtype is self._dtype else _KINDS.get(tensor.dtype)
        if not plain or kind is None or tensor.device != self._device or not tensor.is_contiguous():
            raise Unsupported
        self._tensors.append(tensor)
        return kind

    def _new(self, slot: Slot) -> tuple[Write, Write | None]:
        """New weights and biases at a slot; a bias is 0 unless it is drawn."""
        weight = self._owned(slot.module, "weight")
        if torch.promote_types(weight.dtype, torch.float32) != self._dtype:
            raise Unsupported
        bias = None if slot.bias is None else self._at(slot, self._owned(slot.module, "bias"), CONSTANT, _bits(0.0))
        return self._at(slot, weight, FRESH, 0), bias

    def _move(self, slot: Slot) -> Move:
        """The mean contribution into a consumer's bias, and its outgoing weights 0."""
        weight = self._owned(slot.module, "weight")
        bias = None if slot.bias is None else self._owned(slot.module, "bias")
        kernel = weight.shape[2:].numel()
        inputs, outputs = weight.shape[slot.dim], weight.shape[1 - slot.dim] if slot.dim < 2 else 0
        if slot.dim == 1:
            output_stride, inner, inner_stride = inputs * kernel, slot.block * kernel, 1
            unit_stride = slot.block * kernel
        elif slot.dim == 0 and (slot.block == 1 or kernel == 1):  # stored as (in, out)
            output_stride, inner = kernel, slot.block * kernel
            inner_stride = 1 if slot.block == 1 else outputs
            unit_stride = slot.block * outputs * kernel
        else:
            raise Unsupported
        if bias is not None and bias.shape != (outputs,):
            raise Unsupported
        kind = self._kind(weight)
        first = slot.offset * (unit_stride // slot.block) * weight.element_size()
        of_bias = (0, 0) if bias is None else (bias.data_ptr(), self._kind(bias))
        weight_fields = (weight.data_ptr() + first, kind, outputs, output_stride, unit_stride, inner, inner_stride)
        return Move((*weight_fields, *of_bias), outputs)

    def _at(self, slot: Slot, tensor: Tensor, source: int, value: int) -> Write:
        """The row for a slot's part of a tensor, shaped like a parameter of its module or like one dimension of it."""
        return self._written(slot.dim_of(tensor), slot.offset, slot.block, tensor, source, value)

    def _written(self, dim: int, offset: int, block: int, tensor: Tensor, source: int, value: int) -> Write:
        """The row for the units' part of a tensor, in which each has ``block`` positions along ``dim``."""
        kind, shape = self._kind(tensor), tensor.shape
        if (kind == _KINDS[torch.int64]) != (source in (UPDATES, STEP, POINTER)):
            raise Unsupported
        inner, outer = shape[dim + 1 :].numel(), shape[:dim].numel()
        address = tensor.data_ptr() + offset * inner * tensor.element_size()
        width = block * inner
        return Write((address, kind, outer, shape[dim] * inner, width, inner), source, value, outer * width, block)

    def _write_averages(self) -> None:
        """Ages and averages of new units."""
        state = self._state
        for tensor in (state.utility, state.mean_features[0]):
            self.writes.append(self._written(0, 0, 1, tensor, CONSTANT, _bits(0.0)))
        for tensor in (state.born, state.last_active):
            self.writes.append(self._written(0, 0, 1, tensor, UPDATES, self._number))

    def _optimizer_writes(
        self, slices: Sequence[tuple[str, Tensor, Slot]], reset: OptimizerStateReset
    ) -> list[Write] | None:
        found: list[Write] = []
        complete = True
        for _, param, slot in slices:
            state = reset.optimizer.state.get(param)
            self._entries.append((param, state, _values(state)))
            entries = reset.unit_state(param, slot.dim_of(param))
            if entries is None:
                complete = False
                continue
            for tensor, value in entries:
                try:
                    source, number = self._value(value)
                    found.append(self._at(slot, tensor, source, number))
                except Unsupported:
                    complete = False
        return found if complete else None

    def _value(self, value: float | Tensor) -> tuple[int, int]:
        """Source and value of what is written into the state of the optimizer."""
        if not isinstance(value, Tensor):
            return CONSTANT, _bits(value)
        if value.is_cpu:
            self.steps.append(value)
            return STEP, 0
        if value.dtype is not torch.float64 or value.device != self._device:
            raise Unsupported
        self._tensors.append(value)
        return POINTER, value.data_ptr()


def _ids(slots: Sequence[Slot]) -> frozenset[int]:
    return frozenset(id(each) for slot in slots for each in (slot.weight, slot.bias) if each is not None)


def _values(state: Any) -> list[Any]:
    """The entries of a parameter's state."""
    return [*state.values()] if isinstance(state, dict) else []


def _bits(value: float) -> int:
    bits: int = struct.unpack("q", struct.pack("d", value))[0]
    return bits
