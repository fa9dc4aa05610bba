"""What a record of a measurement contains, as far as tables, pictures and comparisons read it."""

from __future__ import annotations

from typing import Any

from ..saved_values import (
    Kind,
    all_of,
    boolean,
    fields,
    integer,
    mapping,
    number,
    one_of,
    optional,
    sequence,
    text,
)

_LARGEST = 1e9  # of a ratio or of seconds

_RATIO = number(most=_LARGEST, above=0)
_FIGURE = fields(
    entrant=text,
    against=text,
    ratio=_RATIO,
    low=number(0, _LARGEST),
    high=number(0, _LARGEST),
    target=optional(_RATIO),
)
_ENTRANT = fields(seconds=number(0, _LARGEST), replaced=optional(integer(0)), denormals=number(0, 1))


def _drawable(name: str, workload: Any) -> None:
    """A workload whose figures refer to its entrants, and which has a place in its picture."""
    for i, figure in enumerate(workload["figures"]):
        one_of(*workload["entrants"])(f"{name}.figures[{i}].entrant", figure["entrant"])
    if workload["figures"]:
        integer(1)(f"{name}.rounds", workload["rounds"])
    if workload["picture"]:
        integer(1)(f"{name}.{workload['picture']}", workload[workload["picture"]])


_WORKLOAD = all_of(
    fields(
        name=text,
        picture=optional(one_of("width", "batch")),
        width=optional(integer(1)),
        batch=integer(1),
        rounds=integer(0),
        entrants=mapping(_ENTRANT),
        figures=sequence(_FIGURE),
        left_out=mapping(text),
    ),
    _drawable,
)
_MEMORY = fields(network=text, state=text, bytes=integer(0), bytes_per_parameter=number(0), bytes_per_unit=number(0))

RECORD: Kind = fields(
    complete=boolean,
    settings=fields(only=sequence(text), quick=boolean, clock=one_of("wall", "cpu")),
    about=fields(
        began=text,
        commit=optional(text),
        versions=fields(torch=text),
        hardware=fields(processor=text, cores=optional(integer(1)), instructions=text),
        threads=integer(1),
        allocator=text,
    ),
    quietness=optional(fields(reasons=sequence(text))),
    memory=sequence(_MEMORY),
    workloads=sequence(_WORKLOAD),
)
