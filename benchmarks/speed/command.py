"""The command ``python -m benchmarks speed``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..argument_parser import Parser
from ..atomic_files import write_atomically, write_json
from ..command_name import command_text
from ..errors import STOPPED, CannotRun
from ..needed_packages import check_installed
from ..results_folder import inside
from ..settings import OUT
from ..value_checks import one_of, whole
from . import HELP, allocator, record_file

FAILED = 1  # exit status if a variant raised an error
WIDTH = 128  # of tables if the output is not a terminal


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns its exit status."""
    parsed = _parse(arguments)
    check_installed()
    old = record_file.load(parsed.compare) if parsed.compare else None
    if parsed.show:
        record = record_file.load(parsed.show)
        if parsed.markdown:
            from .markdown import markdown

            print(markdown(record))
            return 0
        return _show(record, old, parsed.picture)
    if not allocator.is_active(parsed.malloc):
        return allocator.restart_with_tuned_allocator(arguments)
    return _measure(parsed, command_text("speed", *arguments), old)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        command_text("speed"),
        f"{HELP}, as ratios of times (medians over rounds), measured in alternation in one process. It takes up to "
        "20 minutes, about three with --quick. Ctrl-C stops and keeps what has been measured.",
    )
    parser.add(
        "--only",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="only workloads and variants whose names contain one of these",
    )
    parser.add("--quick", action="store_true", help="fewer and shorter rounds, for a first look")
    parser.add(
        "--threads", type=whole(1, 1024), metavar="N", help="threads that torch computes with (default: torch's own)"
    )
    parser.add(
        "--malloc",
        type=one_of(*allocator.CHOICES),
        default="default",
        metavar="NAME",
        help="default; or tuned: glibc's allocator keeps freed memory, which avoids page faults of large tensors",
    )
    parser.add(
        "--clock",
        type=one_of("wall", "cpu"),
        default="wall",
        metavar="NAME",
        help="wall; or cpu: processor time of this process, for machines with other load (with --threads 1)",
    )
    parser.add(
        "--device",
        type=one_of("cpu", "cuda"),
        default="cpu",
        metavar="NAME",
        help="cpu; or cuda: training steps on a GPU, launched one by one and as captured graphs",
    )
    parser.add("--memory", action="store_true", help="measure bytes of optimizer and engine state instead of times")
    parser.add("--compare", type=Path, metavar="FILE", help="also show what changed since this older record")
    parser.add("--show", type=Path, metavar="FILE", help="show this record, without measuring")
    parser.add("--markdown", action="store_true", help="with --show: print the main ratios as a Markdown table")
    parser.add(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"file of the record (default: {OUT}/speed/COMMIT_TIME.json); the picture is written beside it",
    )
    parser.add("--picture", type=Path, metavar="FILE", help="also write the picture to this file")
    parser.add(
        "--quiet", action="store_true", help="print a line for each workload instead of a progress bar, for logs"
    )
    parsed = parser.parse(arguments)
    if parsed.markdown and not parsed.show:
        parser.error("--markdown needs --show FILE")
    if parsed.clock == "cpu" and parsed.threads != 1:
        parser.error("--clock cpu needs --threads 1, as with several threads it includes their waiting")
    if parsed.device == "cuda" and (parsed.clock == "cpu" or parsed.memory):
        parser.error("--device cuda measures wall time: leave out --clock cpu and --memory")
    return parsed


def _measure(parsed: argparse.Namespace, command_line: str, old: dict[str, Any] | None) -> int:
    import torch

    from .memory import measure_memory
    from .selection import select_workloads

    if parsed.device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("--device cuda: torch finds no CUDA device.")
    plans = [] if parsed.memory else select_workloads(parsed.only, quick=parsed.quick, device=parsed.device)
    output = parsed.output or inside(OUT, record_file.default_file(OUT))
    for file in filter(None, (output, parsed.picture)):
        record_file.check_writable(file)
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    settings = {name: getattr(parsed, name) for name in ("only", "quick", "clock", "memory", "device")}
    record = record_file.new_record(command_line, settings)
    stopped = False
    try:
        if plans:
            _time(plans, record, output, quiet=parsed.quiet)
        if parsed.memory or not (parsed.only or parsed.device == "cuda"):
            record["memory"] = measure_memory()
        record["complete"] = True
    except KeyboardInterrupt:
        stopped = True
    write_json(output, record)
    _show(record, old, parsed.picture, beside=output)
    failed = any(why.startswith("failed") for one in record["workloads"] for why in one["left_out"].values())
    return STOPPED if stopped else FAILED if failed else 0


def _time(plans: list[Any], record: dict[str, Any], output: Path, *, quiet: bool) -> None:
    """Fill the record's workloads, and write it after each."""
    from ..progress import progress_view
    from .machine_load import LoadMonitor, measure_machine_load
    from .measurement import measure_all
    from .timing import FULL, GPU, QUICK

    console = _console()
    before = measure_machine_load()
    if before.reasons():
        message = f"This machine is busy: {'; '.join(before.reasons())}. The ratios may be inaccurate."
        console.print(message, style="yellow", highlight=False)
    monitor = LoadMonitor()
    if record["settings"]["device"] == "cuda":
        rounds = GPU
    else:
        rounds = replace(QUICK if record["settings"]["quick"] else FULL, clock=record["settings"]["clock"])

    def keep(found: dict[str, Any]) -> None:
        record["workloads"].append(found)
        record["quietness"] = monitor.machine_load(before.load).as_record()
        write_json(output, record)

    with progress_view(console, 1, quiet=quiet, by_itself=False) as view:
        measure_all(plans, rounds, monitor, view, keep)


def _show(record: dict[str, Any], old: dict[str, Any] | None, picture: Path | None, beside: Path | None = None) -> int:
    from . import compare, table
    from .picture import draw, has_series

    console = _console()
    for shown in table.tables(record):
        console.print(shown)
    lines = table.notes(record)
    if old is not None:
        console.print(compare.table(old, record))
        lines += compare.differences(old, record)
    lines += [str(beside)] if beside else []
    if has_series(record):
        files = [*([beside.with_suffix(".png")] if beside else []), *([picture] if picture else [])]
        for file in files:
            write_atomically(file, lambda stream: draw(record, stream))
        lines += map(str, files)
    elif picture:
        lines.append(f"{picture}: not drawn, as no widths or batch sizes were measured.")
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
    return 0


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if Console().is_terminal else WIDTH)
