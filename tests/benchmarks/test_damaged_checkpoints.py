"""Damaged checkpoints are reported in one line, which names the file; record and checkpoint are not changed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cli import main
from benchmarks.errors import CannotRun
from benchmarks.run import Run
from benchmarks.saved_tensors import random_state, tensor
from tests.helpers.finished_runs import planned_runs

REGRESSION = ["slowly_changing_regression", "--methods", "l2", "--steps", "500", "--bin", "250", "--quiet"]
MISSING = object()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The run of `REGRESSION`, with a checkpoint after its first row."""
    (found,) = planned_runs(tmp_path / "results", "slowly_changing_regression", "l2", 1, steps=500, bin=250)
    save(found)
    return found


def save(run: Run) -> None:
    """Train the first piece and save a checkpoint."""
    training = run.make_training()
    run.load(training)
    run.record.add(training.advance())
    run.save(training, seconds=1.5, wall_seconds=2.5)


def replaced(content: Any, path: str, value: Any) -> Any:
    """A copy of ``content`` with another value at "key/0/key", without the entry, or another value instead of all."""
    if not path:
        return value
    key, _, rest = path.partition("/")
    if isinstance(content, list):
        return [replaced(each, rest, value) if str(i) == key else each for i, each in enumerate(content)]
    copy = dict(content)
    copy[key] = replaced(copy[key], rest, value)
    return {name: each for name, each in copy.items() if each is not MISSING}


def refused(run: Run, file: Path) -> str:
    """The error when the run is continued. Nothing is changed."""
    before = run.record.file.read_bytes(), file.read_bytes()
    with pytest.raises(CannotRun) as error:
        run.load(run.make_training())
    assert (run.record.file.read_bytes(), file.read_bytes()) == before
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert "Move it away, or use --fresh" in text
    return text


CONTENTS = [
    ("", ["versions"], "the content must be an object with versions, seconds, record, job, got ['versions']"),
    ("", torch.zeros(3), "the content must be an object with versions"),
    ("versions", MISSING, "versions is missing"),
    ("versions", ["torch", "2"], "versions must be an object with values by name, got ['torch', '2']"),
    ("versions", "2.0", "versions must be an object with values by name, got '2.0'"),
    ("versions", {"torch": 2}, "versions.torch must be a text, got 2"),
    ("versions", {}, "was started with gnt None"),
    ("seconds", "1.5", "seconds must be a finite number >= 0, got '1.5'"),
    ("seconds", float("nan"), "seconds must be a finite number >= 0, got nan"),
    ("record", -1, "record must be an integer >= 1, got -1"),
    ("record", [1], "record must be an integer >= 1, got [1]"),
    ("record", 5, "has no end of a line where its checkpoint says"),
    ("record", 10**12, "is shorter than its checkpoint says"),
    ("job", [], "job must be an object with values by name, got []"),
    ("job/done", "1", "job.done must be an integer >= 0, got '1'"),
    ("job/done", 3, "job.done must be an integer from 0 to 2, got 3"),
    ("job/done", MISSING, "done is missing"),
    ("job/latest", 7, "job.latest must be a text, got 7"),
    ("job/method", [], "job.method must be an object with values by name, got []"),
    ("job/method", {}, "learner is missing"),
    ("job/method/learner", {}, "Cannot read"),
    ("job/inputs", [], "job.inputs must be a list of length 1, got []"),
    ("job/inputs", [{}], "step is missing"),
    ("job/inputs/0/step", -1, "inputs.step must be an integer >= 0, got -1"),
    ("job/inputs/0/slow", torch.full((15,), 2.0), "inputs.slow must have values from 0 to 1, got 2.0 to 2.0"),
    ("job/inputs/0/fast_stream", torch.zeros(3).byte(), "inputs.fast_stream must be the state of a generator"),
    ("job/bin", [[1.0]], "job.bin must be a tensor of torch.float64 and shape (any, 1), got [[1.0]]"),
    ("job/bin", torch.zeros(2, 3), "got one of torch.float32 and shape (2, 3)"),
    ("job/bin", torch.full((2, 1), float("nan")).double(), "job.bin must have finite values"),
    ("job/bins", None, "job.bins must be an integer >= 0, got None"),
]


@pytest.mark.parametrize(("path", "value", "message"), CONTENTS, ids=[f"{path} {m:.30}" for path, _, m in CONTENTS])
def test_a_checkpoint_with_a_wrong_value_is_refused(path: str, value: Any, message: str, run: Run) -> None:
    (file,) = run.out.rglob("checkpoint.pt")
    torch.save(replaced(torch.load(file, weights_only=True), path, value), file)
    assert message in refused(run, file)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}", b"PK\x03\x04" + b"\0" * 100, b"\x80\x02" + b"(" * 2000, None])
def test_a_file_that_is_not_a_checkpoint_is_refused(content: bytes | None, run: Run) -> None:
    (file,) = run.out.rglob("checkpoint.pt")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert f"Cannot read {file} (" in refused(run, file)


def test_damaged_rows_before_the_checkpoint_are_refused(run: Run) -> None:
    (file,) = run.out.rglob("checkpoint.pt")
    text = run.record.file.read_text()
    run.record.file.write_text(text.replace('"squared_error": ', '"squared_errors":'))
    assert "row 1 is not a row of this run: it has no squared_error" in refused(run, file)


def test_the_command_reports_a_damaged_checkpoint(run: Run, capsys) -> None:
    (file,) = run.out.rglob("checkpoint.pt")
    torch.save(replaced(torch.load(file, weights_only=True), "versions", ["torch"]), file)
    assert main([*REGRESSION, "--workers", "1", "--out", str(run.out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: Cannot read {file} (WrongValue: versions must be an object")


@pytest.mark.parametrize("experiment", ["slowly_changing_regression", "random_label_mnist", "slippery_ant"])
def test_every_part_of_a_state_is_checked(experiment: str, tmp_path: Path) -> None:
    """Each entry of the state of a training loop is replaced by values of other types, and is left out."""
    if experiment == "slippery_ant":
        pytest.importorskip("stable_baselines3")
        pytest.importorskip("mujoco")
    own = {
        "slowly_changing_regression": {"steps": 500, "bin": 250},
        "random_label_mnist": {"tasks": 1, "epochs": 1},
        "slippery_ant": {"scale": 5e-5, "rollout": 64, "epochs": 1, "width": 4},
    }
    (run,) = planned_runs(tmp_path, experiment, "backprop", 1, **own[experiment])
    save(run)
    (file,) = run.out.rglob("checkpoint.pt")
    content = torch.load(file, weights_only=True)
    training = run.make_training()
    training.load_state_dict(training.state_dict())  # that of the start, too
    run.load(training)
    paths = [f"job/{name}" for name in content["job"]]
    paths += [f"job/{part}/{name}" for part in ("ant", "agent") for name in content["job"].get(part, {})]
    for path in paths:
        for value in (MISSING, {"a": [1]}, torch.zeros(2, 2), b"bytes"):
            torch.save(replaced(content, path, value), file)
            with pytest.raises(CannotRun, match=r"Cannot read .*checkpoint\.pt \("):
                run.load(training)


def test_kinds_of_tensors() -> None:
    kind = tensor(torch.int64, None, 2, least=0, most=3)
    kind("x", torch.tensor([[0, 3]]))
    kind("x", torch.zeros(0, 2, dtype=torch.int64))
    for value, message in [
        (torch.tensor([[0, 4]]), "x must have values from 0 to 3, got 0 to 4"),
        (torch.tensor([[-1, 3]]), "x must have values from 0 to 3, got -1 to 3"),
        (torch.tensor([0, 1]), r"x must be a tensor of torch.int64 and shape \(any, 2\), got one of torch.int64"),
        (torch.zeros(1, 2), r"got one of torch.float32 and shape \(1, 2\)"),
        ([[0, 1]], r"got \[\[0, 1\]\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind("x", value)
    with pytest.raises(ValueError, match="x must be the state of a generator"):
        random_state("x", torch.zeros(7, dtype=torch.uint8))
