"""The command-line options of an experiment, and the runs that a command line asks for."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from benchmarks import experiments, launching
from benchmarks.argument_parser import Parser
from benchmarks.run_plan import RunPlan, read_grid
from benchmarks.settings import OUT, flag
from benchmarks.value_checks import NOT_NEGATIVE, one_of, whole


def _parser(experiment: str) -> Parser:
    cls = experiments.settings_class(experiment)
    sizes = "; ".join(f"{size}: {cls.durations[size]}" for size in cls.size_names() if size in cls.durations)
    parser = Parser(
        prog=f"python -m benchmarks {experiment}",
        description=f"{experiment}: {cls.help}. {sizes}. Ctrl-C stops; the same command goes on from there.",
    )
    methods, names = one_of(*cls.methods, "all"), " ".join([*cls.methods, "all"])
    names += f" (default: {' '.join(cls.default_methods)})"
    size_names = f"{' '.join(cls.size_names())} (default: {cls.size_names()[0]})"
    parser.add("--size", type=one_of(*cls.size_names()), metavar="NAME", help=size_names)
    parser.add("--methods", nargs="+", type=methods, default=cls.default_methods, metavar="NAME", help=names)
    parser.add("--seeds", type=whole(1), default=1, metavar="N", help="number of seeds (default: 1)")
    parser.add("--first-seed", type=whole(0), default=0, metavar="SEED", help="the first of them (default: 0)")
    parser.add(
        "--grid", nargs="+", action="extend", default=[], metavar="NAME=VALUE,...", help="try each of the values"
    )
    for field in dataclasses.fields(cls):
        parser.add(
            flag(field.name),
            type=field.metadata["check"],
            default=argparse.SUPPRESS,  # size and method have a say in what the default is
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
    parser.add("--workers", type=whole(1), metavar="N", help="runs made at once (default: one for each core)")
    parser.add("--out", type=Path, default=OUT, metavar="DIR", help=f"folder of results (default: {OUT})")
    parser.add("--picture", type=Path, metavar="FILE", help="write the picture (a PNG) to this file as well")
    parser.add("--tensorboard", action="store_true", help="write rows for TensorBoard, too, beside each record")
    parser.add("--fresh", action="store_true", help="start over, forgetting earlier runs with these settings")
    parser.add(
        "--checkpoint-every", type=NOT_NEGATIVE, default=5.0, metavar="SECONDS", help="how often to save (default: 5.0)"
    )
    parser.add("--quiet", action="store_true", help="no moving bars: a line when something is complete, for logs")
    return parser


def _default(cls: type, name: str) -> str:
    """The defaults of a setting in words: one, and where methods differ, theirs."""
    concerned = [method for method in cls.methods if cls.affects(name, method)]  # type: ignore[attr-defined]
    values = {method: getattr(cls.of(method), name) for method in concerned}  # type: ignore[attr-defined]
    values = {method: "none" if value == "" else value for method, value in values.items()}
    common = values.get(concerned[0]) if concerned else None
    others = [f"{method} {value}" for method, value in values.items() if value != common]
    only = "" if len(concerned) == len(cls.methods) else f"for {', '.join(concerned)}; "  # type: ignore[attr-defined]
    return f"{only}default: {common}" + (f"; {', '.join(others)}" if others else "")


def parse_plan(experiment: str, arguments: list[str]) -> tuple[RunPlan, argparse.Namespace]:
    """The plan that a command line asks for, and all that it says."""
    parsed = _parser(experiment).parse(arguments)
    cls = experiments.settings_class(experiment)
    names = {field.name for field in dataclasses.fields(cls)}
    plan = RunPlan(
        experiment,
        methods=tuple(method for method in cls.methods if {method, "all"} & set(parsed.methods)),
        size=parsed.size,
        given={name: value for name, value in vars(parsed).items() if name in names},
        grid=read_grid(cls, parsed.grid),
        seeds=tuple(range(parsed.first_seed, parsed.first_seed + parsed.seeds)),
    )
    return plan, parsed
