"""``python -m benchmarks speed``: real, short measurements on small networks."""

import copy
import json
import platform
import signal

import pytest
import torch

from benchmarks.cli import main
from benchmarks.errors import CannotRun
from benchmarks.speed import allocator, command, record_file, timing
from benchmarks.speed.workloads import WORKLOADS
from tests.helpers.commands import finish, start, until

SHORT = ["--quick", "--quiet", "--threads", "1"]


def run(capsys, *arguments, status=0):
    assert command.main(list(map(str, arguments))) == status
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A measurement on the smallest network, in short rounds: the file of its record, and the record."""
    file = tmp_path_factory.mktemp("speed") / "new" / "tiny.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "QUICK", timing.Rounds(block=0.01, budget=0.2, most=3, least=3))
        assert command.main(["--only", "20-5-1, batch 1: CBPSGD", *SHORT, "--output", str(file)]) == 0
    return file, json.loads(file.read_text())


def test_the_record_contains_measurement_machine_and_versions(measured):
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


def test_records_are_shown_and_compared(measured, tmp_path, capsys):
    file, record = measured
    shown = run(capsys, "--show", file)
    figure = record["workloads"][0]["figures"][0]
    assert f"{figure['ratio']:.2f}" in shown
    assert "CBPSGD" in shown
    assert record["about"]["hardware"]["processor"] in shown
    same = run(capsys, "--show", file, "--compare", file)
    assert "unchanged" in same
    assert "faster" not in same
    figure["ratio"], record["about"]["threads"], record["settings"]["clock"] = 50.0, 64, "cpu"
    old = tmp_path / "old.json"
    old.write_text(json.dumps(record))
    moved = run(capsys, "--show", file, "--compare", old)
    assert "faster" in moved
    assert "The numbers of threads differ: 64, now 1." in moved
    assert "The clocks differ: cpu, now wall." in moved


def test_pictures_and_markdown_are_made_from_a_record(measured, tmp_path, capsys):
    file, record = measured
    nothing = run(capsys, "--show", file, "--picture", tmp_path / "none.png")
    assert "not drawn" in nothing
    assert not (tmp_path / "none.png").exists()
    small = record["workloads"][0]["figures"][0]
    for way in ("", ", torch operations"):
        for one in WORKLOADS:
            if one.picture:
                names = {"CBPSGD": "SGD", "CBPAdam": "Adam, fused"}
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
    assert {row.count("|") for row in rows if row.startswith("|")} == {12}


MISSING = object()
DAMAGES = [
    ("workloads/0/figures/0/ratio", "1.1", "workloads[0].figures[0].ratio must be a finite number above 0, got '1.1'"),
    ("workloads/0/figures/0/ratio", [1], "ratio must be a finite number above 0, got [1]"),
    ("workloads/0/figures/0/ratio", float("nan"), "ratio must be a finite number above 0, got nan"),
    ("workloads/0/figures/0/ratio", 0, "ratio must be a finite number above 0, got 0"),
    ("workloads/0/figures/0/high", 10**400, "high must be a finite number >= 0 and <= 1e+09, got 1000"),
    ("workloads/0/figures/0/entrant", "nobody", "figures[0].entrant must be "),
    ("workloads/0/figures/0", None, "workloads[0].figures[0] must be an object with entrant, "),
    ("workloads/0/rounds", 0, "workloads[0].rounds must be an integer >= 1, got 0"),
    ("workloads/0/picture", "depth", "workloads[0].picture must be 'width' or 'batch', got 'depth'"),
    ("workloads/0/left_out", [], "workloads[0].left_out must be an object with values by name, got []"),
    ("workloads", {}, "workloads must be a list, got {}"),
    ("memory", [{}], "network is missing"),
    ("about/hardware/processor", 7, "about.hardware.processor must be a text, got 7"),
    ("about/commit", {}, "about.commit must be a text, got {}"),
    ("settings/clock", "sun", "settings.clock must be 'wall' or 'cpu', got 'sun'"),
    ("quietness/reasons", "busy", "quietness.reasons must be a list, got 'busy'"),
    ("version", True, "is a record of version True; this command reads version 1"),
]


def damaged(record, path, value):
    """A copy of the record with another value at "key/key", or without it."""
    record = copy.deepcopy(record)
    *parents, last = [int(name) if name.isdecimal() else name for name in path.split("/")]
    part = record
    for name in parents:
        part = part[name]
    if value is MISSING:
        del part[last]
    else:
        part[last] = value
    return record


@pytest.mark.parametrize(("path", "value", "message"), DAMAGES, ids=[message for _, _, message in DAMAGES])
@pytest.mark.parametrize("option", ["--show", "--compare"])
def test_a_damaged_record_is_refused(option, path, value, message, measured, tmp_path, capsys):
    _, record = measured
    file = tmp_path / "damaged.json"
    file.write_text(json.dumps(damaged(record, path, value)))
    assert main(["speed", option, str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file} is ")
    assert message in line


CHECKED = [
    *("complete", "settings", "settings/only", "settings/quick", "settings/clock", "quietness", "quietness/reasons"),
    *("about", "about/began", "about/commit", "about/versions", "about/versions/torch", "about/threads"),
    *("about/allocator", "about/hardware", "about/hardware/processor", "about/hardware/cores"),
    *("about/hardware/instructions", "memory"),
    *(f"memory/0/{name}" for name in ("network", "state", "bytes", "bytes_per_parameter", "bytes_per_unit")),
    *("workloads", "workloads/0/entrants", "workloads/0/figures"),
    *(f"workloads/0/{name}" for name in ("name", "picture", "width", "batch", "rounds", "left_out")),
    *(f"workloads/0/entrants/SGD/{name}" for name in ("seconds", "replaced", "denormals")),
    *(f"workloads/0/figures/0/{name}" for name in ("entrant", "against", "ratio", "low", "high", "target")),
]


def test_a_record_without_its_place_in_a_picture_is_refused(measured, tmp_path):
    file, (_, record) = tmp_path / "record.json", measured
    file.write_text(json.dumps(damaged(damaged(record, "workloads/0/picture", "width"), "workloads/0/width", None)))
    with pytest.raises(CannotRun, match=r"workloads\[0\]\.width must be an integer >= 1, got None"):
        record_file.load(file)


@pytest.mark.parametrize("value", [{"a": 1}, MISSING], ids=["another kind", "left out"])
def test_every_part_of_a_record_is_checked(value, measured, tmp_path):
    file, (_, record) = tmp_path / "record.json", measured
    sizes = {"bytes": 8, "bytes_per_parameter": 8.0, "bytes_per_unit": 0.0}
    record = {**record, "memory": [{"network": "20-5-1", "state": "Adam", **sizes}]}
    file.write_text(json.dumps(record))
    record_file.load(file)
    for path in CHECKED:
        file.write_text(json.dumps(damaged(record, path, value)))
        with pytest.raises(CannotRun, match=f"is damaged: .*{path.split('/')[-1]}"):
            record_file.load(file)


def test_names_in_a_record_are_not_markup(measured, tmp_path, capsys):
    _, record = measured
    record = copy.deepcopy(record)
    record["workloads"][0]["name"] = "a [/bold] name"
    file = tmp_path / "names.json"
    file.write_text(json.dumps(record))
    assert "a [/bold] name" in run(capsys, "--show", file, "--compare", file)


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """What ``speed --memory`` prints, and its record; with the tuned allocator where there is one."""
    file = tmp_path_factory.mktemp("memory") / "memory.json"
    glibc = platform.libc_ver()[0] == "glibc"
    tuned = ["--malloc", "tuned"] if glibc else []
    with pytest.MonkeyPatch.context() as patch:
        for name in allocator.TUNED:
            patch.delenv(name, raising=False)
        shown, _ = finish(start("speed", *tuned, "--memory", "--output", file))
    return shown, json.loads(file.read_text())


def test_memory_is_measured_without_times(memory):
    shown, record = memory
    assert "per hidden unit" in shown
    assert record["workloads"] == []


def test_bytes_of_state_follow_from_shapes(memory):
    rows = {(row["network"], row["state"]): row for row in memory[1]["memory"]}
    sizes = {"20-5-1": (111, 4, 5), "784-2000x3-10": (784 * 2000 + 2 * 2000**2 + 20000 + 6010, 8, 6000)}
    for network, (parameters, tensors, units) in sizes.items():
        adam, never, after, engine = (
            rows[network, state] for state in ("torch Adam", "AdamGnT, never reset", "AdamGnT, after resets", "engine")
        )
        assert adam["bytes"] == 8 * parameters + 4 * tensors
        for row in (adam, never, after):
            assert row["bytes_per_parameter"] == 8.0
        assert never["bytes_per_unit"] * units <= 16 * tensors + 8  # and a number of steps
        assert after["bytes_per_unit"] <= 16 * (units + 784) / units * 2 + 16 * tensors
        assert engine["bytes_per_parameter"] == 0.0
        assert engine["bytes"] == pytest.approx(engine["bytes_per_unit"] * units)
        assert engine["bytes_per_unit"] >= 4 + 4 + 8  # utility, mean feature, birth
    assert {row["bytes_per_parameter"] for row in rows.values()} == {0.0, 8.0}


def test_the_tuned_allocator_is_in_the_record(memory, tmp_path):
    if platform.libc_ver()[0] == "glibc":
        assert "MALLOC_TRIM_THRESHOLD_=" in memory[1]["about"]["allocator"]
    else:
        _, errors = finish(start("speed", "--malloc", "tuned", "--memory", "--output", tmp_path / "tuned.json"), 2)
        assert "another C library" in errors


def test_a_stopped_measurement_keeps_its_results(tmp_path):
    file = tmp_path / "stopped.json"
    # the first workload takes moments, the second many seconds
    with start(
        "speed", "--only", "20-5-1, batch 1: SGD + GnT", "ConvNet", "--quick", "--quiet", "--output", file
    ) as process:
        until(file.exists, process)
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
        (["--markdown"], "--markdown needs --show FILE"),
        (["--clock", "cpu"], "--clock cpu needs --threads 1"),
        (["--device", "cuda", "--memory"], "--device cuda measures wall time"),
        (["--threads", "0"], "must be an integer of at least 1, got '0'"),
        (["--threads", str(2**40)], "must be an integer from 1 to 1024"),
        (["--malloc", "tund"], "did you mean tuned?"),
        (["--compare", "{tmp}/missing.json"], "missing.json does not exist"),
        (["--show", "{tmp}/other.json"], "other.json is not a record of python -m benchmarks speed"),
        (["--compare", "{tmp}/later.json"], "later.json is a record of version 99; this command reads version 1"),
        (["--show", "{tmp}/broken.json"], "broken.json is not a record"),
        (
            ["--show", "{tmp}/deep.json"],
            "deep.json is not a record of python -m benchmarks speed: it is nested",
        ),
        (["--show", "{tmp}/bytes.json"], "bytes.json is not a record of python -m benchmarks speed: 'utf-8' codec"),
        (["--show", "{tmp}"], "is not a record of python -m benchmarks speed"),
        (["--show", "{tmp}/" + "x" * 300], "File name too long"),
        (["--output", "{tmp}"], "this is a folder"),
        (["--output", "{tmp}/broken.json/x.json"], "Cannot write"),
        (["--picture", "{tmp}/broken.json/x.png"], "Cannot write"),
    ],
)
def test_invalid_input_is_reported_before_anything_is_measured(arguments, message, tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"experiment": "random_label_mnist"}')
    (tmp_path / "later.json").write_text('{"format": "gnt speed", "version": 99}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bytes.json").write_bytes(b"\xff{}")
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


def test_help_and_suggestions_include_speed(capsys):
    assert main(["--help"]) == 0
    assert "speed" in capsys.readouterr().out
    assert main(["sped"]) == 2
    assert "did you mean speed?" in capsys.readouterr().err
