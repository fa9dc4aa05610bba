"""`Coverage`: which units each weight of a network belongs to.

A weight has an outgoing side (the unit whose row, bias or norm entry it is) and an incoming side (the unit whose column
it is). A side may belong to no group: the rows of an output layer, the columns of the first layer, both sides of a
layer whose units were not found. Such a side counts as a unit that every earlier task uses. A parameter that took no
part in the training of earlier tasks, such as the output layer of a new task, is free as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnt.names import Aggregation
from gnt.protection._unit_layout import UnitLayout
from gnt.units import Slot


class ParameterUse:
    """The units of the weights of one parameter, in one module.

    Attributes:
        out: positions of the units of the outgoing side in the vector of all units, -1: none; broadcastable to the
            parameter. None: the side belongs to no group.
        into: those of the incoming side.
    """

    def __init__(self) -> None:
        self.out: Tensor | None = None
        self.into: Tensor | None = None

    def add(self, layout: UnitLayout, number: int, slot: Slot, parameter: Tensor, *, consumer: bool) -> None:
        """Add the units of a slot."""
        side = self.into if consumer else self.out
        dim = slot.dim_of(parameter)
        if consumer and slot.groups > 1:
            index = self._flat(side, slot.width, slot, layout, number)
            by_row = index.view(slot.groups, 1, parameter.shape[1]).expand(-1, parameter.shape[0] // slot.groups, -1)
            self.into = by_row.reshape(parameter.shape[0], parameter.shape[1], *(1,) * (parameter.ndim - 2))
            return
        flat = torch.full((parameter.shape[dim],), -1, device="cpu") if side is None else side.flatten()
        layout.write_units(flat, slot, number)
        shaped = flat.view([-1 if d == dim else 1 for d in range(parameter.ndim)])
        self.out, self.into = (self.out, shaped) if consumer else (shaped, self.into)

    @staticmethod
    def _flat(side: Tensor | None, width: int, slot: Slot, layout: UnitLayout, number: int) -> Tensor:
        """The units of each input of a grouped convolution, those of earlier slots included."""
        rows_per_group = 1 if side is None else side.shape[0] // slot.groups
        index = torch.full((width,), -1, device="cpu") if side is None else side.flatten(1)[::rows_per_group].flatten()
        layout.write_units(index, slot, number)
        return index


class CoveredParameter:
    """One parameter of the network, and its uses.

    Attributes:
        name: its name in the model.
        module, key: where it is.
        uses: one for each module that has it.
        modules: those modules.
        of_groups: its module is one of a group.
        has_units: it is one of a layer whose outputs are units.
        sources: the layers whose units its modules read.
    """

    def __init__(self, name: str, module: nn.Module, key: str) -> None:
        self.name, self.module, self.key = name, module, key
        self.uses: list[ParameterUse] = []
        self.modules: list[nn.Module] = []
        self.of_groups = self.has_units = False
        self.sources: list[nn.Module] = []

    @property
    def parameter(self) -> nn.Parameter:
        """The present parameter."""
        parameter = self.module._parameters[self.key]
        assert parameter is not None
        return parameter


class Coverage:
    """The weights of a model and the units they belong to.

    Args:
        model: the model.
        layout: the units of its groups.
        skipped: modules whose parameters are left out.

    Attributes:
        parameters: all parameters of the model, each once.
    """

    def __init__(self, model: nn.Module, layout: UnitLayout, skipped: nn.Module) -> None:
        self.layout = layout
        uses: dict[tuple[int, str], ParameterUse] = {}
        for number, group in enumerate(layout.groups):
            rows = [(slot, ("weight", "bias")) for slot in group.incoming]
            entries = [(slot, tuple(slot.values or ("weight", "bias"))) for slot in group.scales]
            for slot, keys in (*rows, *entries):
                for key in keys:
                    parameter = slot.module._parameters.get(key)
                    if parameter is not None:
                        use = uses.setdefault((id(slot.module), key), ParameterUse())
                        use.add(layout, number, slot, parameter, consumer=False)
            for slot in group.outgoing:
                use = uses.setdefault((id(slot.module), "weight"), ParameterUse())
                use.add(layout, number, slot, slot.weight, consumer=True)
        found: dict[int, CoveredParameter] = {}
        left_out = set(skipped.modules())
        in_groups = {id(slot.module) for group in layout.groups for slot in group.slots}
        producing = {id(slot.module) for group in layout.groups for slot in group.incoming}
        sources: dict[int, list[nn.Module]] = {}
        for group in layout.groups:
            for slot in group.outgoing:
                sources.setdefault(id(slot.module), []).extend(each.module for each in group.incoming)
        for path, module in model.named_modules():
            for key, parameter in module._parameters.items():
                if parameter is None or module in left_out:
                    continue
                name = f"{path}.{key}" if path else key
                each = found.setdefault(id(parameter), CoveredParameter(name, module, key))
                each.uses.append(uses.get((id(module), key), ParameterUse()))
                each.modules.append(module)
                each.of_groups = each.of_groups or id(module) in in_groups
                each.has_units = each.has_units or id(module) in producing
                each.sources += sources.get(id(module), [])
        self.parameters = list(found.values())

    def measure(
        self, values: Tensor, ran: Sequence[bool], uncovered: float | Tensor, aggregation: Aggregation = "min"
    ) -> list[Tensor | None]:
        """A number for each weight, from a number >= 0 for each unit: those of its two sides, joined.

        Where one side belongs to no group, the other side's number counts alone; where neither does, ``uncovered``. A
        one-dimensional parameter has its outgoing side only. All of a parameter that no earlier task has trained has 0.

        Args:
            values: a number for each unit, (units,).
            ran: for each parameter whether an earlier task has trained it.
            uncovered: the number where no group is, at least the largest of ``values``.
            aggregation: how the two sides are joined.

        Returns:
            For each parameter a tensor that is broadcastable to it; None if all of it is 0.
        """
        extended = torch.cat([values, torch.as_tensor(uncovered, dtype=values.dtype, device=values.device).reshape(1)])
        result: list[Tensor | None] = []
        for each, known in zip(self.parameters, ran, strict=True):
            total: Tensor | None = None
            for use in each.uses if known else ():
                part = _joined(use, each.parameter.ndim, extended, aggregation)
                total = part if total is None else torch.maximum(total, part)  # what one use needs is needed
            result.append(total if total is not None and bool((total != 0).any()) else None)
        return result

    def group_numbers(self, device: torch.device) -> list[Tensor | int]:
        """For each parameter the group of its outgoing side: a number, or numbers broadcastable to it.

        The number of groups stands for no group.
        """
        none = len(self.layout.groups)
        numbers = torch.cat([self.layout.group_numbers(), torch.tensor([none], device="cpu")])
        result: list[Tensor | int] = []
        for each in self.parameters:
            out = each.uses[0].out
            of_rows = none if out is None or len(each.uses) > 1 else numbers[out]
            distinct = [none] if isinstance(of_rows, int) else torch.unique(of_rows).tolist()
            result.append(int(distinct[0]) if len(distinct) == 1 or isinstance(of_rows, int) else of_rows.to(device))
        return result


def _joined(use: ParameterUse, ndim: int, extended: Tensor, aggregation: Aggregation) -> Tensor:
    """The numbers of the two sides of one use, joined; the last entry of ``extended`` is that of no group."""
    none = torch.full((1,) * ndim, -1, device="cpu")
    out = (none if use.out is None else use.out).to(extended.device)
    into = out if ndim < 2 else (none if use.into is None else use.into).to(extended.device)
    a, b = extended[out], extended[into]
    a = torch.where(out < 0, b, a)
    b = torch.where(into < 0, a, b)
    if aggregation == "min":
        return torch.minimum(a, b)
    return torch.maximum(a, b) if aggregation == "max" else (a + b) / 2
