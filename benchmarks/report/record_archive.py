"""The records that a page was made from, kept beside it, compressed: one archive for each experiment.

    records/<experiment>.tar.xz     record.jsonl and about.json of each run, with their paths in a folder of results

So a row can be added to a page without running the others again, and anyone can read the values behind the pictures:
``tar -xf`` in a folder of results puts the records where the commands find them.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..atomic_files import write_atomically
from ..errors import CannotRun
from ..results_folder import inside
from ..run import Run

FOLDER = "records"
_FILES = ("about.json", "record.jsonl")
_MEMBER = re.compile(rf"\w+/(?!\.)[^/]+/seeds?-[\w-]+/({'|'.join(map(re.escape, _FILES))})")


def unpack(to: Path, names: Sequence[str], into: Path) -> None:
    """Write the archived records of the experiments with these names to the folder of results ``into``.

    Args:
        to: the page's folder.
        names: the experiments; those without an archive are skipped.
        into: the folder to write to.

    Raises:
        CannotRun: an archive cannot be read, or contains something else than records of its experiment.
    """
    for name in names:
        file = _archive(to, name)
        if not file.exists():
            continue
        for member, content in _read(file, name).items():
            target = into / member
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def pack(to: Path, names: Sequence[str], runs: Iterable[Run], *, keep: bool = False) -> None:
    """Write the archives of these runs, and delete those of the other experiments in ``names``.

    An archive that already has the same content is left as it is. Equal records give equal bytes.

    Args:
        to: the page's folder.
        names: all experiments.
        runs: the finished runs.
        keep: archived records of other runs stay, those that this version cannot read among them.
    """
    members: dict[str, dict[str, bytes]] = {}
    for run in runs:
        place = run.folder.relative_to(run.out).as_posix()
        own = members.setdefault(run.experiment, {})
        own.update({f"{place}/{part}": run.path(part).read_bytes() for part in _FILES})
    for name in names:
        file = _archive(to, name)
        archived = _read(file, name) if file.exists() else {}
        own = {**(archived if keep else {}), **members.get(name, {})}
        if not own:
            file.unlink(missing_ok=True)
        elif own != archived:
            content = _compressed(own)
            write_atomically(file, lambda stream, content=content: stream.write(content))  # type: ignore[misc]


def _archive(to: Path, name: str) -> Path:
    return inside(to, to / FOLDER / f"{name}.tar.xz", "--to")


def _read(file: Path, name: str) -> dict[str, bytes]:
    """The archived files of an experiment, by path."""
    found: dict[str, bytes] = {}
    try:
        content = lzma.decompress(file.read_bytes())  # all of it: tarfile does not notice that the end is missing
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is None or not _MEMBER.fullmatch(member.name) or member.name.partition("/")[0] != name:
                    raise CannotRun(f"{file} contains {member.name!r:.200}, which is not a record of {name}. {_HINT}")
                found[member.name] = stream.read()
    except (OSError, tarfile.TarError, lzma.LZMAError) as error:
        raise CannotRun(f"Cannot read {file}: {error}. {_HINT}") from error
    return found


_HINT = "Restore the file, or leave out --records."


def _compressed(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", preset=9, format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(members):
            member = tarfile.TarInfo(path)  # time, owner and group are 0
            member.size = len(members[path])
            archive.addfile(member, io.BytesIO(members[path]))
    return stream.getvalue()
