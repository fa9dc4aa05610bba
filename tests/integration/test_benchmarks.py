"""The benchmarks as a person runs them: real commands, real digits, stopped and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.datasets import fixed_digits, mnist_digits
from benchmarks.errors import CannotRun
from benchmarks.random_label_mnist.settings import Settings as DigitsSettings
from benchmarks.runs import Run
from benchmarks.settings import METHODS
from benchmarks.slowly_changing_regression.job import Job as RegressionJob
from benchmarks.slowly_changing_regression.settings import Settings as RegressionSettings
from benchmarks.slowly_changing_regression.target import Inputs, Target

ROOT = Path(__file__).resolve().parents[2]
DIGITS = [
    "random_label_mnist",
    "--tasks",
    "2",
    "--epochs",
    "6",
    "--replacement-rate",
    "0.01",
    "--checkpoint-every",
    "0",
]


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, status=0):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    return output, errors


def run(*arguments, status=0, **environment):
    return finish(start(*arguments, **environment), status)


def wait_for_checkpoints(process, out):
    """Until every run has saved something that it had not before, or is finished."""
    old = {file: file.stat().st_mtime_ns for file in out.rglob("checkpoint.pt")}

    def is_saved(folder):
        checkpoint = folder / "checkpoint.pt"
        return (folder / "result.json").exists() or (
            checkpoint.exists() and checkpoint.stat().st_mtime_ns != old.get(checkpoint)
        )

    while sum(is_saved(lock.parent) for lock in out.rglob("lock")) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def results(out, count=1):
    files = sorted(out.rglob("results.json"))
    assert len(files) == count
    return json.loads(files[0].read_text())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A whole run, never stopped: its folder and what it printed."""
    out = tmp_path_factory.mktemp("digits")
    output, errors = run(*DIGITS, "--out", out)
    assert errors == ""
    return out, output


def test_figures_of_a_whole_run(digits):
    out, output = digits
    content = results(out)
    assert content["settings"]["epochs"] == 6
    assert set(content["figures"]) == {"backprop", "continual_backprop"}
    for method, figures in content["figures"].items():
        assert len(figures["online_accuracy"]) == len(figures["dead_units"]) == 2
        assert 0.12 < figures["online_accuracy"][0] < 0.5  # better than guessing, far from done after 6 passes
        assert all(0 <= share <= 1 for task in figures["dead_units"] for share in task)
        assert f"{figures['online_accuracy'][1]:.3f}" in output
        about = content["about"][method]
        assert about["versions"]["torch"] == torch.__version__
        assert about["seconds"] > 0
        assert about["hardware"]["cores"]
    same_start = [figures["dead_units"][0] for figures in content["figures"].values()]
    assert same_start[0] == same_start[1]
    (picture,) = out.rglob("picture.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("checkpoint.pt"))


def test_a_finished_run_is_shown_not_made_again(digits):
    out, first = digits
    (file,) = out.rglob("results.json")
    before = file.read_bytes()
    output, _ = run(*DIGITS, "--out", out)
    assert "Finished before" in output
    assert output[output.index("┏") :] == first[first.index("┏") :]
    assert file.read_bytes() == before


def test_killed_at_once_it_ends_with_the_same_figures(digits, tmp_path):
    command = [*DIGITS, "--out", tmp_path]
    with start(*command) as process:
        wait_for_checkpoints(process, tmp_path)
        os.killpg(process.pid, signal.SIGKILL)  # command and workers at once: nobody can save anything
    assert len(list(tmp_path.rglob("result.json"))) < 2  # or the kill came too late to prove anything
    run(*command)
    assert json.dumps(results(tmp_path)["figures"]) == json.dumps(results(digits[0])["figures"])


def test_it_stops_when_told_to_and_its_workers_end_with_it(tmp_path):
    command = ["slowly_changing_regression", "--checkpoint-every", "0", "--out", tmp_path]  # minutes, if let be
    with start(*command) as process:
        wait_for_checkpoints(process, tmp_path)
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C in a terminal reaches all of them
        output, errors = finish(process, status=130)
    assert errors == ""
    assert output.splitlines()[-1] == (
        f"Stopped. To go on from here: python -m benchmarks slowly_changing_regression --out {tmp_path}"
    )
    saved = {run.method: pieces(run) for run in regression_runs(tmp_path)}
    with start(*command) as process:
        wait_for_checkpoints(process, tmp_path)
        process.kill()  # the command alone: its workers must notice
    for run in regression_runs(tmp_path):
        with run.lock(wait=60):  # held by the worker as long as it lives
            assert pieces(run) > saved[run.method]


def regression_runs(out):
    settings = RegressionSettings()
    return [Run("slowly_changing_regression", method, settings, out) for method in METHODS]


def pieces(run):
    job = RegressionJob(run.settings, run.method)
    run.load(job)
    return job.done


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_regression_that_goes_on_from_a_checkpoint_has_the_same_figures(method, optimizer, tmp_path):
    settings = RegressionSettings(steps=1500, bin=400, flip_every=300, optimizer=optimizer)
    whole, broken = (RegressionJob(settings, method) for _ in range(2))
    run = Run("slowly_changing_regression", method, settings, tmp_path)
    while whole.done < whole.total:
        whole.advance()
        broken.advance()
        run.save(broken, seconds=0.0)
        broken = RegressionJob(settings, method)
        run.load(broken)
    assert broken.figures == whole.figures
    assert len(whole.figures["squared_error"]) == 3
    assert all(0 < error < 20 for error in whole.figures["squared_error"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["random_labels_mnist"], "did you mean random_label_mnist?"),
        (["random_label_mnist", "--epoch", "3"], "unknown setting --epoch; did you mean --epochs?"),
        (["random_label_mnist", "--utility", "contributions"], "did you mean 'contribution'?"),
        (["random_label_mnist", "--methods", "continual"], "did you mean continual_backprop?"),
        (["random_label_mnist", "--tasks", "0"], "must be a whole number of at least 1, got '0'"),
        (["random_label_mnist", "--step-size", "nan"], "must be a number above 0, got 'nan'"),
        (
            ["random_label_mnist", "--methods", "backprop", "--decay-rate", "0.9"],
            "--decay-rate: of no effect on backprop",
        ),
        (["slowly_changing_regression", "--variant", "onebit"], "did you mean one_bit?"),
    ],
)
def test_bad_input_is_answered_with_what_is_allowed(arguments, message, tmp_path):
    output, errors = run(*arguments, "--out", tmp_path, status=2)
    assert message in errors
    assert "Traceback" not in errors
    assert output == ""
    assert not list(tmp_path.iterdir())


def test_without_mlxtend_it_says_what_to_install(tmp_path):
    (tmp_path / "mlxtend.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    _, errors = run("random_label_mnist", "--out", tmp_path / "out", status=2, PYTHONPATH=path)
    assert errors.count('pip install "torch-gnt[demo]"') == 1
    assert "Traceback" not in errors


def test_a_checkpoint_of_other_versions_is_refused(tmp_path, monkeypatch):
    unfinished, _ = regression_runs(tmp_path)
    job = RegressionJob(unfinished.settings, "backprop")
    job.advance()
    with monkeypatch.context() as other:
        other.setattr(torch, "__version__", "0.4")
        unfinished.save(job, 1.0)
    with pytest.raises(CannotRun, match=r"was begun with torch 0\.4; this is torch 2.*--fresh"):
        unfinished.load(job)
    unfinished.save(job, 1.5)
    assert unfinished.load(job) == 1.5
    assert job.done == 1
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(CannotRun, match=r"Cannot read .*checkpoint\.pt .*--fresh"):
        unfinished.load(job)


def test_different_settings_never_share_a_folder(tmp_path):
    def folder(method, **settings):
        return Run("random_label_mnist", method, DigitsSettings(**settings), tmp_path).folder

    assert folder("backprop") == folder("backprop", tasks=10)
    assert folder("backprop") == folder("backprop", replacement_rate=0.5)  # which backprop knows nothing of
    changed = [
        {"tasks": 3},
        {"epochs": 3},
        {"seed": 1},
        {"step_size": 0.1},
        {"replacement_rate": 0.5},
        {"utility": "weight"},
    ]
    assert len({folder("continual_backprop", **settings) for settings in [{}, *changed]}) == 7
    assert "tasks=3" in folder("backprop", tasks=3).name


def test_the_images_are_real_fixed_and_balanced():
    images, digits = mnist_digits()
    chosen = fixed_digits()
    assert chosen.shape == (1200, 784)
    assert torch.equal(chosen, fixed_digits())
    known = {image.numpy().tobytes(): int(digit) for image, digit in zip(images, digits, strict=True)}
    counts = torch.bincount(torch.tensor([known[image.numpy().tobytes()] for image in chosen]))
    assert counts.tolist() == [120] * 10


def test_the_target_network_is_the_specified_one():
    target = Target(seed=3)
    bits = Inputs(seed=3, flip_every=5, variant="redraw").take(40)
    fired = 0
    for x, got in zip(bits.tolist(), target(bits).tolist(), strict=True):
        y = target.out_bias.item()
        for w, b, v in zip(target.weight.tolist(), target.bias.tolist(), target.out_weight.tolist(), strict=True):
            assert {*w, b, v} == {-1.0, 1.0} | {b, v}
            s = (20 - sum(w) + b) / 2
            if sum(wi * xi for wi, xi in zip(w, x, strict=True)) + b > 0.7 * 21 - s:
                y += v
                fired += 1
        assert got == [y]
    assert 0.01 < fired / (40 * 100) < 0.5


def test_slow_bits_change_when_they_should():
    changes = {"redraw": range(1, 16), "one_bit": [1]}
    for variant, allowed in changes.items():
        inputs = Inputs(seed=0, flip_every=7, variant=variant)
        bits = torch.cat([inputs.take(5) for _ in range(14)])
        assert set(bits.unique().tolist()) == {0.0, 1.0}
        flips = (bits[1:, :15] != bits[:-1, :15]).sum(1)
        assert [step + 1 for step in flips.nonzero().view(-1).tolist()] == list(range(7, 70, 7))
        assert all(count in allowed for count in flips[flips > 0].tolist())
        assert (bits[1:, 15:] != bits[:-1, 15:]).float().mean() > 0.3
