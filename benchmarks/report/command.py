"""The command ``python -m benchmarks report``: reads all records, then writes the page and its pictures."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import experiments
from ..argument_parser import Parser
from ..atomic_files import write_atomically, write_json
from ..command_name import INSTALLED, command_text
from ..errors import CannotRun
from ..needed_packages import check_installed
from ..results_folder import inside
from ..settings import OUT
from . import HELP
from .record_archive import FOLDER, pack, unpack
from .run_finder import FoundRuns, find_runs

TO = Path("report" if INSTALLED else "benchmarks")
NAME = "RESULTS.md"
SUMMARIES = "RESULTS.json"


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns its exit status."""
    parser = Parser(command_text("report"), HELP)
    parser.add("--out", type=Path, default=OUT, metavar="DIR", help=f"folder of results to read (default: {OUT})")
    parser.add("--to", type=Path, default=TO, metavar="DIR", help=f"folder to write {NAME} to (default: {TO})")
    parser.add(
        "--keep",
        action="store_true",
        help=f"keep what the existing {NAME} says about experiments, and sizes of them, without finished runs in the "
        "folder of results",
    )
    parser.add(
        "--records",
        action="store_true",
        help=f"keep the records of the page in the folder {FOLDER} beside it, compressed, and make the page of those "
        "that are there already, too",
    )
    parser.add("--quiet", action="store_true", help="no progress bar, for logs")
    parsed = parser.parse(arguments)
    check_installed()
    with tempfile.TemporaryDirectory() as folder:
        archived = Path(folder)
        if parsed.records:
            unpack(parsed.to, experiments.NAMES, archived)
        found = find_runs(parsed.out, archived)
        _check_writable(parsed.to)
        return _write(found, parsed.to, keep=parsed.keep, records=parsed.records, quiet=parsed.quiet)


def _write(found: FoundRuns, to: Path, *, keep: bool, records: bool, quiet: bool) -> int:
    from rich.console import Console

    from ..progress import Title, progress_view
    from .earlier_page import read_page
    from .page import PICTURES, Page
    from .section_summary import as_json

    console = Console()
    files = (to / NAME, inside(to, to / SUMMARIES, "--to"))
    page = Page(found, read_page(*files, experiments.NAMES) if keep else None)
    drawn: dict[Path, bytes] = {}
    title = Title("pictures", "#0072B2")
    with progress_view(console, 1, quiet=quiet) as view:
        for number, picture in enumerate(page.pictures):
            view.progress(title, number, len(page.pictures), picture.name)
            stream = io.BytesIO()
            picture.draw(stream)
            drawn[inside(to, to / PICTURES / picture.name, "--to")] = stream.getvalue()
        view.progress(title, len(page.pictures), len(page.pictures), "")
    kept = {to / PICTURES / name for name in page.earlier.pictures(PICTURES)}
    old = _pictures_of(to) - kept  # read before the page is overwritten
    for file, content in [*drawn.items(), (to / NAME, page.text.encode())]:
        write_atomically(file, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
    write_json(to / SUMMARIES, as_json(page.summaries))
    if records:
        pack(to, experiments.NAMES, found.runs, keep=keep)
    for file in old - drawn.keys():
        file.unlink(missing_ok=True)
    texts = [f"{len(found.runs)} runs, {len(drawn)} pictures."]
    texts += [f"Not finished: {len(found.unfinished)}, listed on the page."] if found.unfinished else []
    texts += [f"Left out: {line}" for line in found.left_out]
    console.print("\n".join([*texts, str(to / NAME)]), highlight=False, soft_wrap=True, markup=False)
    return 0


def _pictures_of(to: Path) -> set[Path]:
    """The pictures that the existing page shows."""
    from .page import PICTURES

    try:
        text = (to / NAME).read_text()
    except (OSError, ValueError):
        return set()
    return {to / PICTURES / name for name in re.findall(rf"\]\({PICTURES}/([\w.-]+\.png)\)", text)}


def _check_writable(to: Path) -> None:
    inside(to, to / NAME, "--to")
    try:
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=to):
            pass
    except OSError as error:
        raise CannotRun(f"Cannot write to {to}: {error}. Existing files were not changed.") from error
