"""The groups of a model: each example is captured in training and in evaluation mode, and the results are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from torch import nn

from gnt.units._errors import TraceError
from gnt.units._group import UnitGroup
from gnt.units._layer_types import CONV_LAYERS, WEIGHT_LAYERS
from gnt.units._trace_result import Refused
from gnt.units._tracing.capture import Captures
from gnt.units._tracing.errors import MANUAL_GROUPS_HINT, export_error, mode_error
from gnt.units._tracing.examples import Example
from gnt.units._tracing.graph import Graph
from gnt.units._tracing.grouping import find_groups
from gnt.units._tracing.isolation import preserve_model
from gnt.units._tracing.ownership import ParameterOwners, unused_layers
from gnt.units._tracing.propagation import propagate
from gnt.units._tracing.train_eval import MODE_NAMES, GroupsAndRefused, merge_modes
from gnt.units._tracing.union import FoundUnits, merge_examples

MODES = {"both": (True, False), "train": (True,), "eval": (False,)}  # values of ``training``


def find_units(
    model: nn.Module, examples: Sequence[Example], modes: str, *, frozen: bool
) -> tuple[list[UnitGroup], list[Refused], list[str]]:
    """The groups on which all examples and modes agree, the refused units, and notes.

    Raises:
        TraceError: an example cannot be traced in one of the modes, or there is no group.
    """
    owners = ParameterOwners(model, frozen=frozen)
    attempts = []
    with preserve_model(model) as restore:
        captures = Captures(model, restore)
        for example in examples:
            attempts.append(_find_in_example(captures, example, MODES[modes], owners))
            if attempts[-1].errors:
                break
    if attempts[-1].errors:  # the model is restored, so that a forward of a copy shows whether the example fits it
        label = f"example {len(attempts)}: " if len(examples) > 1 else ""
        with preserve_model(model):
            _raise_error(model, examples[len(attempts) - 1], attempts[-1], modes, label)
    found = [FoundUnits(*merge_modes(attempt.results), attempt.ran) for attempt in attempts]
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


class _Attempt(NamedTuple):
    """What one example gave in each mode: groups and refusals, or an error; and the ids of the modules that ran."""

    results: dict[bool, GroupsAndRefused]
    errors: dict[bool, Exception]
    ran: set[int]


def _find_in_example(captures: Captures, example: Example, modes: Sequence[bool], owners: ParameterOwners) -> _Attempt:
    attempt = _Attempt({}, {}, set())
    for training in modes:
        try:
            graph = captures.capture(example.args, example.kwargs, training=training)
        except Exception as failure:
            attempt.errors[training] = failure
        else:
            attempt.results[training] = find_groups(propagate(graph, owners))
            attempt.ran.update(_modules_that_ran(graph, owners))
    return attempt


def _raise_error(model: nn.Module, example: Example, attempt: _Attempt, modes: str, label: str) -> NoReturn:
    """Raise the TraceError of an example that cannot be captured in one mode, or in any."""

    def count_groups(module: nn.Module, inputs: Example) -> int:
        """Number of groups in a submodule; 0 if it cannot be traced."""
        with preserve_model(module) as restore:
            tried = _find_in_example(Captures(module, restore), inputs, MODES[modes], ParameterOwners(module))
        return 0 if tried.errors else len(merge_modes(tried.results)[0])

    training, error = list(attempt.errors.items())[-1]
    kind = mode_error if attempt.results else export_error
    raise kind(model, example, error, label, count_groups, training=training) from error


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
