"""The command-line options of an experiment, and the runs that a command line asks for."""

from __future__ import annotations

import argparse
import dataclasses
from functools import cache
from pathlib import Path

from . import experiments, launching
from .argument_parser import Parser
from .command_name import command_text
from .errors import CannotRun
from .run_plan import RunPlan, read_grid
from .settings import OUT, flag
from .value_checks import MAX_SEED, MAX_SEEDS, NOT_NEGATIVE, one_of, whole


@cache
def _parser(experiment: str) -> Parser:
    cls = experiments.settings_class(experiment)
    sizes = "; ".join(f"{size}: {cls.durations[size]}" for size in cls.size_names() if size in cls.durations)
    parser = Parser(
        prog=command_text(experiment),
        description=f"{experiment}: {cls.help}. {sizes}. Ctrl-C stops; the same command continues.",
    )
    methods, names = one_of(*cls.methods, "all"), " ".join([*cls.methods, "all"])
    names += f" (default: {' '.join(cls.default_methods)})"
    size_names = f"{' '.join(cls.size_names())} (default: {cls.size_names()[0]})"
    parser.add("--size", type=one_of(*cls.size_names()), metavar="NAME", help=size_names)
    parser.add("--methods", nargs="+", type=methods, default=cls.default_methods, metavar="NAME", help=names)
    parser.add("--seeds", type=whole(1, MAX_SEEDS), default=1, metavar="N", help="number of seeds (default: 1)")
    parser.add("--first-seed", type=whole(0, MAX_SEED), default=0, metavar="SEED", help="first seed (default: 0)")
    parser.add(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE,...",
        help="run each combination of the values",
    )
    for field in dataclasses.fields(cls):
        parser.add(
            flag(field.name),
            type=field.metadata["check"],
            default=argparse.SUPPRESS,  # the default depends on size and method
            metavar=type(field.default).__name__.upper(),
            help=f"{field.metadata['help']} ({_default(cls, field.name)})".replace("%", "%%"),
        )
    parser.add(
        "--launcher",
        type=one_of(*launching.NAMES),
        default="local",
        metavar="NAME",
        help="local or ray (default: local)",
    )
    parser.add(
        "--workers", type=whole(1), metavar="N", help="number of runs executed at the same time (default: one per core)"
    )
    where = f"folder for results (default: {OUT}, in the current directory)"
    parser.add("--out", type=Path, default=OUT, metavar="DIR", help=where)
    parser.add("--picture", type=Path, metavar="FILE", help="also write the picture (PNG) to this file")
    parser.add(
        "--tensorboard", action="store_true", help="also write TensorBoard event files, in the folder of each run"
    )
    parser.add("--fresh", action="store_true", help="start over: delete earlier results of these runs")
    parser.add(
        "--checkpoint-every",
        type=NOT_NEGATIVE,
        default=5.0,
        metavar="SECONDS",
        help="time between checkpoints (default: 5.0)",
    )
    parser.add("--quiet", action="store_true", help="print lines instead of progress bars, for logs")
    return parser


def _default(cls: type, name: str) -> str:
    """A setting's default as text, with the defaults of methods that have their own."""
    affected = [method for method in cls.methods if cls.affects(name, method)]  # type: ignore[attr-defined]
    values = {method: getattr(cls.of(method), name) for method in affected}  # type: ignore[attr-defined]
    values = {method: "none" if value == "" else value for method, value in values.items()}
    common = values.get(affected[0]) if affected else None
    others = [f"{method} {value}" for method, value in values.items() if value != common]
    only = "" if len(affected) == len(cls.methods) else f"for {', '.join(affected)}; "  # type: ignore[attr-defined]
    return f"{only}default: {common}" + (f"; {', '.join(others)}" if others else "")


def parse_plan(experiment: str, arguments: list[str]) -> tuple[RunPlan, argparse.Namespace]:
    """The plan that a command line asks for, and all parsed options."""
    parsed = _parser(experiment).parse(arguments)
    cls = experiments.settings_class(experiment)
    last = parsed.first_seed + parsed.seeds - 1
    if last > MAX_SEED:
        raise CannotRun(
            f"--first-seed {parsed.first_seed} --seeds {parsed.seeds}: the last seed is {last}, and the largest that "
            f"torch accepts is {MAX_SEED}. Use a smaller --first-seed."
        )
    names = {field.name for field in dataclasses.fields(cls)}
    plan = RunPlan(
        experiment,
        methods=tuple(method for method in cls.methods if {method, "all"} & set(parsed.methods)),
        size=parsed.size,
        given={name: value for name, value in vars(parsed).items() if name in names},
        grid=read_grid(cls, parsed.grid),
        seeds=tuple(range(parsed.first_seed, parsed.first_seed + parsed.seeds)),
        every="all" in parsed.methods,
    )
    return plan, parsed
