"""``--tensorboard``: event files contain the record's rows, each step once, also after a run was killed."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.helpers.commands import checkpoints, kill, records, run_here, start, until

COMMAND = ["slowly_changing_regression", "--methods", "l2", "--seeds", 2, "--steps", 1900, "--bin", 125]

# raised inside tensorboard
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalars below a folder, including duplicates."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def expected(record: bytes, seed: int) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in record.splitlines()[1:-1]]
    return [(row["step"], pytest.approx(row["squared_error"])) for row in rows if row["seed"] == seed]


def test_event_files_contain_each_step_once(tmp_path: Path) -> None:
    command = [*COMMAND, "--out", tmp_path / "killed", "--tensorboard", "--checkpoint-every", 0.3]
    process = start(*command)
    until(lambda: bool(checkpoints(tmp_path / "killed")), process)
    (checkpoint,) = checkpoints(tmp_path / "killed")
    written = checkpoint.parent / "record.jsonl"
    saved = written.stat().st_size
    until(lambda: written.stat().st_size > saved, process)  # until there are rows after the checkpoint
    kill(process)
    run_here(*command)
    ((name, record),) = records(tmp_path / "killed").items()
    for seed in (0, 1):
        folder = (tmp_path / "killed" / name).parent / "tensorboard" / f"seed-{seed}"
        assert shown(folder) == {"squared_error": expected(record, seed)}
        assert len(expected(record, seed)) == 15

    run_here(*COMMAND, "--out", tmp_path / "killed", "--tensorboard")  # the repeated command adds nothing
    assert len(list((tmp_path / "killed").rglob("events.out.tfevents.*"))) == 2
    shutil.rmtree((tmp_path / "killed" / name).with_name("tensorboard"))
    run_here(*COMMAND, "--out", tmp_path / "killed", "--tensorboard")  # for a finished run without event files
    assert shown(tmp_path / "killed" / Path(name).parent / "tensorboard" / "seed-1") == {
        "squared_error": expected(record, 1)
    }


def test_the_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    _, errors = run_here(*COMMAND, "--out", tmp_path / "out", "--tensorboard", status=2)
    assert errors == 'error: --tensorboard needs the package tensorboard: pip install "torch-gnt[tensorboard]"\n'
    assert not (tmp_path / "out").exists()
