"""The groups of a model: each example is captured in training and in evaluation mode, and the results are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from gnt.units._errors import TraceError
from gnt.units._group import UnitGroup
from gnt.units._layer_types import CONV_LAYERS, WEIGHT_LAYERS
from gnt.units._trace_result import Refused
from gnt.units._tracing.capture import Graph, capture
from gnt.units._tracing.errors import MANUAL_GROUPS_HINT, export_error, mode_error
from gnt.units._tracing.examples import Example
from gnt.units._tracing.grouping import find_groups
from gnt.units._tracing.isolation import preserve_model
from gnt.units._tracing.ownership import ParameterOwners, unused_layers
from gnt.units._tracing.propagation import propagate
from gnt.units._tracing.train_eval import MODE_NAMES, GroupsAndRefused, merge_modes
from gnt.units._tracing.union import FoundUnits, merge_examples

MODES = {"both": (True, False), "train": (True,), "eval": (False,)}  # values of ``training``


def find_units(
    model: nn.Module, examples: Sequence[Example], modes: str
) -> tuple[list[UnitGroup], list[Refused], list[str]]:
    """The groups on which all examples and modes agree, the refused units, and notes.

    Raises:
        TraceError: an example cannot be traced in one of the modes, or there is no group.
    """
    owners = ParameterOwners(model)
    found = []
    with preserve_model(model):
        for number, example in enumerate(examples, 1):
            label = f"example {number}: " if len(examples) > 1 else ""
            found.append(_find_in_example(model, example, MODES[modes], owners, label))
    groups, refused = merge_examples(found)
    slots = [slot for group in groups for slot in (*group.incoming, *group.scales)]
    unused = unused_layers(model, {item.name for item in refused} | {slot.name for slot in slots}, len(examples))
    refused += unused
    if not groups:
        raise TraceError(
            "no group of units can be replaced in this model"
            + (":\n" + "\n".join(f"  {item}" for item in refused) if refused else ": no Linear or Conv layer is used")
            + f"\n{MANUAL_GROUPS_HINT}"
        )
    ran = set().union(*(units.ran for units in found))
    return groups, refused, list(_notes(model, groups, ran, modes, len(examples)))


def _find_in_example(
    model: nn.Module, example: Example, modes: Sequence[bool], owners: ParameterOwners, label: str
) -> FoundUnits:
    results: dict[bool, GroupsAndRefused] = {}
    errors: dict[bool, Exception] = {}
    ran: set[int] = set()
    for training in modes:
        try:
            graph = capture(model, example.args, example.kwargs, training=training)
        except Exception as failure:
            errors[training] = failure
        else:
            results[training] = find_groups(propagate(graph, owners))
            ran |= _modules_that_ran(graph, owners)
    if not results:
        training, error = list(errors.items())[-1]
        raise export_error(model, example, error, label, training=training) from error
    for training, error in errors.items():
        raise mode_error(model, example, error, label, training=training) from error
    return FoundUnits(*merge_modes(results), ran)


def _modules_that_ran(graph: Graph, owners: ParameterOwners) -> set[int]:
    """Ids of the modules of which the forward reads a parameter or buffer, or in which an operation runs."""
    read = [node for node in graph.nodes if node.kind in ("parameter", "buffer") and node.users]
    running = [owners.module_at(path) for path in dict.fromkeys(node.module for node in graph.nodes if node.module)]
    return {id(owners.owner(node)[0]) for node in read} | {id(module) for module in running}


def _notes(model: nn.Module, groups: Sequence[UnitGroup], ran: set[int], modes: str, count: int) -> Iterator[str]:
    """What trace could not examine, and may matter."""
    if modes != "both":
        other = MODE_NAMES[not MODES[modes][0]]
        yield f"{other} mode was not traced (modes={modes!r}): layers that run only in that mode were not seen"
    sizes = {_inputs(slot.module) for group in groups for slot in group.outgoing}
    idle = [
        path
        for path, module in model.named_modules()
        if isinstance(module, WEIGHT_LAYERS) and id(module) not in ran and _inputs(module) in sizes
    ]
    if idle:
        named = ", ".join(idle[:5]) + (f" and {len(idle) - 5} more" if len(idle) > 5 else "")
        subject = "no example runs" if count > 1 else "this example does not run"
        yield (
            f"{subject} {named}: if another forward reads units there, give an example of it too, "
            "gnt.trace(model, examples=[(x, 0), (x, 1)])"
        )


def _inputs(module: nn.Module) -> tuple[bool, int]:
    """Whether a layer is linear, and the number of its inputs."""
    is_linear = not isinstance(module, CONV_LAYERS)
    return is_linear, int(getattr(module, "in_features" if is_linear else "in_channels", 0))
