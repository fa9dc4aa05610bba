"""``python -m benchmarks speed`` as a person runs it: real, short rounds on small networks."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.speed import command
from benchmarks.speed.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--quick", "--quiet", "--threads", "1"]


def run(capsys, *arguments, status=0):
    assert command.main(list(map(str, arguments))) == status
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A whole run on the smallest network, and its record."""
    file = tmp_path_factory.mktemp("speed") / "new" / "tiny.json"
    assert command.main(["--only", "20-5-1, batch 1: CBPSGD", *SHORT, "--output", str(file)]) == 0
    return file, json.loads(file.read_text())


def test_the_record_says_what_was_measured_where_and_on_what(measured):
    _, record = measured
    assert (record["format"], record["version"], record["complete"]) == ("gnt speed", 1, True)
    about = record["about"]
    assert about["versions"]["torch"] == torch.__version__
    assert {"processor", "cores", "system", "instructions"} <= about["hardware"].keys()
    assert about["threads"] == 1
    assert about["allocator"]
    assert "commit" in about
    assert "--only '20-5-1, batch 1: CBPSGD'" in record["command"]
    assert record["quietness"].keys() == {"load", "others", "stolen", "spread", "quiet", "reasons"}
    (workload,) = record["workloads"]
    assert (workload["name"], workload["batch"], workload["parameters"]) == ("20-5-1, batch 1", 1, 111)
    figure = workload["figures"][0]
    assert (figure["entrant"], figure["against"], figure["target"]) == ("CBPSGD", "SGD", 1.15)
    assert 0 < figure["low"] <= figure["ratio"] <= figure["high"]
    for one in workload["entrants"].values():
        assert 0 < one["low"] <= one["seconds"] <= one["high"]
        assert 0 <= one["denormals"] <= 1
    assert workload["entrants"]["CBPSGD"]["replaced"] >= 0
    assert workload["steps_a_block"] > 1
    assert workload["rounds"] >= 3


def test_a_record_is_shown_again_and_compared(measured, tmp_path, capsys):
    file, record = measured
    shown = run(capsys, "--show", file)
    figure = record["workloads"][0]["figures"][0]
    assert f"{figure['ratio']:.2f}" in shown
    assert "CBPSGD" in shown
    assert record["about"]["hardware"]["processor"] in shown
    same = run(capsys, "--show", file, "--compare", file)
    assert "as before" in same
    assert "faster" not in same
    figure["ratio"], record["about"]["threads"], record["settings"]["clock"] = 50.0, 64, "cpu"
    old = tmp_path / "old.json"
    old.write_text(json.dumps(record))
    moved = run(capsys, "--show", file, "--compare", old)
    assert "faster" in moved
    assert "The numbers of threads differ: 64, now 1." in moved
    assert "The clocks differ: cpu, now wall." in moved


def test_the_picture_is_drawn_from_a_record(measured, tmp_path, capsys):
    file, record = measured
    nothing = run(capsys, "--show", file, "--picture", tmp_path / "none.png")
    assert "not drawn" in nothing
    assert not (tmp_path / "none.png").exists()
    small = record["workloads"][0]["figures"][0]
    for way in ("", ", compiled"):
        for one in WORKLOADS:
            if one.picture:
                names = {"CBPSGD": "SGD", "CBPAdam, fused": "Adam, fused"}
                figures = [{**small, "entrant": name + way, "against": peer} for name, peer in names.items()]
                entrants = {figure["entrant"]: {"seconds": 1.0, "replaced": 0, "denormals": 0.2} for figure in figures}
                size = {"width": one.width, "batch": one.batch, "picture": one.picture}
                record["workloads"].append(
                    {"name": one.name, **size, "figures": figures, "entrants": entrants, "left_out": {}, "rounds": 5}
                )
    made_up, picture = tmp_path / "made up.json", tmp_path / "picture.png"
    made_up.write_text(json.dumps(record))
    shown = run(capsys, "--show", made_up, "--picture", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "No unit was replaced" in shown
    assert "Denormal numbers" in shown
    rows = run(capsys, "--show", made_up, "--markdown").splitlines()
    assert [row.split(" | ")[0] for row in rows[2:4]] == ["| 20-5-1, batch 1", "| 784-2000x3-10, batch 1"]
    assert {row.count("|") for row in rows if row.startswith("|")} == {10}


def test_memory_alone(tmp_path, capsys):
    file = tmp_path / "memory.json"
    shown = run(capsys, "--memory", "--output", file)
    assert "per hidden unit" in shown
    record = json.loads(file.read_text())
    assert record["workloads"] == []
    assert {row["bytes_per_parameter"] for row in record["memory"]} == {0.0, 8.0}


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "speed", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
    )


def finish(process, status):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    return output, errors


def test_a_tuned_allocator_is_in_the_record(tmp_path):
    file = tmp_path / "tuned.json"
    glibc = platform.libc_ver()[0] == "glibc"
    _, errors = finish(start("--malloc", "tuned", "--memory", "--output", file), 0 if glibc else 2)
    if glibc:
        assert "MALLOC_TRIM_THRESHOLD_=" in json.loads(file.read_text())["about"]["allocator"]
    else:
        assert "another C library" in errors


def test_stopped_it_keeps_what_is_measured(tmp_path):
    file = tmp_path / "stopped.json"
    # the first takes moments, the second many seconds
    with start("--only", "20-5-1, batch 1: SGD + GnT", "ConvNet", "--quick", "--quiet", "--output", file) as process:
        while not file.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = finish(process, 130)
    assert errors == ""
    record = json.loads(file.read_text())
    assert [one["name"] for one in record["workloads"]] == ["20-5-1, batch 1"]
    assert record["complete"] is False
    assert "Stopped before the end" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qiuck"], "unknown setting --qiuck; did you mean --quick?"),
        (["--only", "ConfNet 32-64-128, batch 100"], "did you mean ConvNet 32-64-128, batch 100?"),
        (["--markdown"], "--markdown goes with --show FILE"),
        (["--clock", "cpu"], "--clock cpu goes with --threads 1"),
        (["--threads", "0"], "must be a whole number of at least 1, got '0'"),
        (["--malloc", "tund"], "did you mean tuned?"),
        (["--compare", "{tmp}/missing.json"], "missing.json: there is no such file"),
        (["--show", "{tmp}/other.json"], "other.json is no record of python -m benchmarks speed"),
        (["--compare", "{tmp}/later.json"], "later.json is of version 99 of the record; this command reads 1"),
        (["--show", "{tmp}/broken.json"], "broken.json is no record"),
        (["--output", "{tmp}"], "it is a folder"),
        (["--output", "{tmp}/broken.json/x.json"], "Cannot write"),
        (["--picture", "{tmp}/broken.json/x.png"], "Cannot write"),
    ],
)
def test_bad_input_is_answered_before_anything_is_measured(arguments, message, tmp_path, capsys):
    from benchmarks.cli import main

    (tmp_path / "other.json").write_text('{"experiment": "random_label_mnist"}')
    (tmp_path / "later.json").write_text('{"format": "gnt speed", "version": 99}')
    (tmp_path / "broken.json").write_text("{")
    before = sorted(tmp_path.iterdir())
    given = [text.replace("{tmp}", str(tmp_path)) for text in arguments]
    output = [] if "--output" in given else ["--output", str(tmp_path / "new.json")]
    try:
        status = main(["speed", *given, *output])
    except SystemExit as error:
        status = error.code
    printed = capsys.readouterr()
    assert status == 2
    assert message in printed.err
    assert printed.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_the_overview_and_misspellings_name_it(capsys):
    from benchmarks.cli import main

    assert main(["--help"]) == 0
    assert "speed" in capsys.readouterr().out
    assert main(["sped"]) == 2
    assert "did you mean speed?" in capsys.readouterr().err
