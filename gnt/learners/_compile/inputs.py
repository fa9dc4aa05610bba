"""Plan: which tensors one learner's graph reads and writes, and where they are found before each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt.learners._compile.functional_optimizers import Rule
from gnt.learners._compile.tensor_slots import Sites
from gnt.optim import AdamGnT

if TYPE_CHECKING:
    from gnt.learners._compile.functional_update import Watch

FINE, BAD_LOSS, BAD_GROUP = 0, 1, 2  # what a graph says of a step; BAD_GROUP + i: of group i


class StalePlanError(Exception):
    """Something is not where it was: the step goes the ordinary way, and a new plan is made."""


@dataclass
class Trained:
    """A parameter that each step moves.

    Attributes:
        place: its number among the sites' tensors.
        options: the number of its parameter group.
        flags: what of that group's options is built into the graph.
        kept: the keys of the state that each step changes.
        starts: for each dimension along which its units lie, zeros that stand for counts that never restarted.
    """

    param: Tensor
    place: int
    options: int
    flags: tuple[Any, ...]
    kept: tuple[str, ...]
    starts: dict[int, Tensor]


@dataclass
class Shown:
    """What a step made the ordinary way has shown, by identity.

    Attributes:
        used: the parameters that had a gradient.
        changed: the buffers that the forward changed.
    """

    used: set[int]
    changed: set[int]


class Plan:
    """The inputs of a graph, in order: x, y, numbers, number of updates, all tensors of the network, the optimizer's
    state, the engine's, and what is drawn.

    Args:
        sites: where the network's tensors hang.
        optimizer: the optimizer.
        rule: its rule.
        watch: the engine's part, or None.
        shown: of a step made the ordinary way.
    """

    def __init__(self, sites: Sites, optimizer: Optimizer, rule: Rule, watch: Watch | None, shown: Shown) -> None:
        self.sites, self.rule, self.watch, self.shown = sites, rule, watch, shown
        places = {id(tensor): number for number, tensor in enumerate(sites.tensors())}
        unit_dims = _unit_dims(watch) if "step" in rule.kept((False,)) and hasattr(optimizer, "reset_units") else {}
        self.trained: list[Trained] = []
        for number, options in enumerate(optimizer.param_groups):
            flags = rule.flags(options)
            for param in options["params"]:
                if id(param) in shown.used and id(param) in places:
                    starts = _starts(param, unit_dims.get(id(param), {}), optimizer.state.get(param, {}))
                    self.trained.append(Trained(param, places[id(param)], number, flags, rule.kept(flags), starts))
        first = self.trained[0].param if self.trained else sites.tensors()[0]
        self.device = first.device
        self.numbers = torch.zeros(0, dtype=torch.float64, device=self.device)
        self.updates = torch.zeros((), dtype=torch.int64, device=self.device)
        self._written: list[float] = []
        self._told = 0  # what `updates` says, known on the host

    @property
    def masked(self) -> bool:
        """Whether a loss that is not finite is refused: where asking the device costs nothing."""
        return self.device.type == "cpu"

    def gather(self, x: Tensor, y: Tensor, optimizer: Optimizer, drawn: Sequence[Tensor]) -> list[Tensor]:
        """The inputs as they are now.

        Raises:
            StalePlanError: state or counts are not those that the plan was made for.
        """
        self._write_numbers(optimizer)
        inputs = [x, y, self.numbers, self.updates, *self.sites.now()]
        for each in self.trained:
            if inputs[4 + each.place] is not each.param:
                raise StalePlanError
            if each.kept:
                state = optimizer.state.get(each.param, {})
                for key in each.kept:
                    if key not in state:
                        raise StalePlanError
                    inputs.append(state[key])
        for each in self.trained:
            if each.starts:
                state = optimizer.state[each.param]
                inputs += [state.get(AdamGnT.start_keys[dim], never) for dim, never in each.starts.items()]
        if self.watch is not None:
            inputs += self.watch.tensors()
        return [*inputs, *drawn]

    def ticked(self) -> None:
        """The graph counted one more update."""
        self._told += 1

    def _write_numbers(self, optimizer: Optimizer) -> None:
        values: list[float] = []
        for options in optimizer.param_groups:
            values += self.rule.values(options)
        if values != self._written:
            self.numbers = torch.tensor(values, dtype=torch.float64).to(self.device, non_blocking=True)
            self._written = values
        if self.watch is not None and self._told != self.watch.engine.updates:
            self._told = self.watch.engine.updates
            self.updates.fill_(self._told)


@dataclass
class Parts:
    """A graph's inputs, by what they are; numbers by parameter group and name."""

    x: Tensor
    y: Tensor
    numbers: Sequence[Mapping[str, Tensor]]
    updates: Tensor
    values: list[Tensor]
    kept: list[list[Tensor]]
    starts: list[dict[int, Tensor]]
    states: list[Tensor]
    drawn: list[Tensor]


def parts(plan: Plan, inputs: Sequence[Tensor]) -> Parts:
    """What `Plan.gather` put in a row."""
    rest = iter(inputs)
    x, y, numbers, updates = (next(rest) for _ in range(4))
    names = plan.rule.numbers
    by_group = [
        {name: numbers[first + i] for i, name in enumerate(names)} for first in range(0, len(numbers), len(names))
    ]
    values = [next(rest) for _ in plan.sites.tensors()]
    kept = [[next(rest) for _ in each.kept] for each in plan.trained]
    starts = [{dim: next(rest) for dim in each.starts} for each in plan.trained]
    states = [next(rest) for _ in plan.watch.tensors()] if plan.watch is not None else []
    return Parts(x, y, by_group, updates, values, kept, starts, states, list(rest))


def _unit_dims(watch: Watch | None) -> dict[int, dict[int, int]]:
    """For each parameter, by identity, the dimensions along which units lie, and how many positions they have there."""
    dims: dict[int, dict[int, int]] = {}
    for group in watch.engine.groups if watch is not None else ():
        for _, param, slot in group.slices():
            dim = slot.dim_of(param)
            size = slot.width if param.ndim > 1 else param.shape[0]
            dims.setdefault(id(param), {})[dim] = size
    return dims


def _starts(param: Tensor, dims: Mapping[int, int], state: Mapping[str, Any]) -> dict[int, Tensor]:
    sizes = dict(dims)
    for dim, key in enumerate(AdamGnT.start_keys):
        if key in state:
            sizes[dim] = len(state[key])
    return {dim: torch.zeros(sizes[dim], dtype=torch.int64, device=param.device) for dim in sorted(sizes)}
